"""Celery with late acknowledgement: its workers' application, and its submitter.

Results come back over RabbitMQ (`rpc://`). BENCH_PREFETCH is its prefetch multiplier.
"""

import os

from celery import Celery
from workloads import WORK

app = Celery("bench", broker=os.environ["BENCH_URL"], backend="rpc://")
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH"]),
    task_default_queue=os.environ["BENCH_QUEUE"],
)
TASKS = {name: app.task(name=f"bench.{name}")(function) for name, function in WORK.items()}


class Peer:
    def many(self, work, calls):
        sent = [TASKS[work].apply_async(kwargs=kwargs) for kwargs in calls]
        return [result.get(timeout=300, interval=0.001) for result in sent]
