"""The least that can be built: decode, run, publish the reply, await its confirm, acknowledge.

python floor_worker.py URL QUEUE
"""

import json
import sys

import pika
from pika.adapters.select_connection import SelectConnection
from workloads import WORK

PREFETCH = 200


class Worker:
    def __init__(self, url, queue):
        self.queue, self.published, self.unconfirmed = queue, 0, {}
        self.connection = SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda c: c.channel(on_open_callback=self._open),
            on_close_callback=lambda *_: self.connection.ioloop.stop(),
        )
        self.connection.ioloop.start()

    def _open(self, channel):
        self.channel = channel
        channel.queue_declare(self.queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery(self._confirmed)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self.queue, self._take)

    def _take(self, channel, method, properties, body):
        request = json.loads(body)
        reply = json.dumps(WORK[request["work"]](**request["kwargs"])).encode()
        same = pika.BasicProperties(correlation_id=properties.correlation_id, delivery_mode=2)
        channel.basic_publish("", properties.reply_to, reply, same, mandatory=True)
        self.published += 1
        self.unconfirmed[self.published] = method.delivery_tag

    def _confirmed(self, frame):
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        last = frame.method.delivery_tag
        tags = [n for n in self.unconfirmed if n <= last] if frame.method.multiple else [last]
        requests = [self.unconfirmed.pop(n) for n in tags]
        for request in requests:
            self.channel.basic_ack(request)


Worker(*sys.argv[1:])
