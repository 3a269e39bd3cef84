"""Dramatiq: its workers' actor, and its submitter.

Its own ways to give results back need Redis or memcached. Here the actor publishes the result to
the submitter's queue by itself, over a connection that its thread keeps. With BENCH_CONFIRM its
publishing and ours wait for the broker's confirms; without, nothing does.
"""

import json
import os
import threading

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from workloads import WORK

URL = os.environ["BENCH_URL"]
CONFIRM = os.environ["BENCH_CONFIRM"] == "1"
QUEUE = os.environ["BENCH_QUEUE"]
REPLIES = f"{QUEUE}.replies"

dramatiq.set_broker(RabbitmqBroker(url=URL, confirm_delivery=CONFIRM))
mine = threading.local()


def channel():
    if not hasattr(mine, "channel"):
        mine.channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
        if CONFIRM:
            mine.channel.confirm_delivery()
    return mine.channel


@dramatiq.actor(queue_name=QUEUE, max_retries=0)
def run(work, kwargs):
    channel().basic_publish("", REPLIES, json.dumps(WORK[work](**kwargs)))


class Peer:
    def __init__(self):
        channel().queue_declare(REPLIES, durable=True)
        self.results = []
        channel().basic_consume(REPLIES, self._take, auto_ack=True)

    def _take(self, _channel, _method, _properties, body):
        self.results.append(json.loads(body))

    def many(self, work, calls):
        self.results.clear()
        for kwargs in calls:
            run.send(work, kwargs)
        while len(self.results) < len(calls):
            channel().connection.process_data_events(time_limit=60)
        return list(self.results)
