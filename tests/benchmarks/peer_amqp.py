"""The submitter of the floor: bare pika, callbacks, confirms, a window.

    python talking.py peer_amqp URL QUEUE

Requests are persistent, mandatory and confirmed; replies come to a queue of the submitter's own.
"""

import json
from collections import deque
from uuid import uuid4

import pika
from pika.adapters.select_connection import SelectConnection

#: Requests that the broker has not confirmed yet, at the most.
WINDOW = 200
#: Seconds in which whatever was submitted has come back.
PATIENCE = 100


class Peer:
    def __init__(self, url, queue):
        self.queue = queue
        self.replies = f"{queue}.bench-replies"
        self.submitted, self.sender = 0, uuid4().hex
        self.unconfirmed = deque()
        self.connection = SelectConnection(
            pika.URLParameters(url), self._open, self._refused, self._closed
        )
        self._loop()

    def _loop(self):
        """Serve the connection until somebody stops the loop, or for as long as is sane."""
        self.failure = f"nothing has come back for {PATIENCE} seconds"
        late = self.connection.ioloop.call_later(PATIENCE, self.connection.ioloop.stop)
        self.connection.ioloop.start()
        self.connection.ioloop.remove_timeout(late)
        if self.failure:
            raise SystemExit(f"{self.queue}: {self.failure}")

    def _done(self, failure=None):
        self.failure = failure
        self.connection.ioloop.stop()

    # to be ready

    def _open(self, connection):
        connection.channel(on_open_callback=self._declare)

    def _declare(self, channel):
        self.channel = channel
        channel.add_on_close_callback(lambda _, why: self._done(why))
        channel.add_on_return_callback(lambda _, method, *__: self._done(method))
        arguments = {"x-queue-type": "quorum"}
        channel.queue_declare(self.replies, durable=True, arguments=arguments)
        channel.queue_declare(self.queue, durable=True, arguments=arguments)
        channel.queue_purge(self.replies)
        channel.basic_consume(self.replies, self._take, auto_ack=True)
        channel.confirm_delivery(self._confirmed, callback=lambda _: self._done())

    def _refused(self, _connection, why):
        self._done(why)

    def _closed(self, _connection, why):
        self._done(why)

    # to submit

    def many(self, work, calls):
        self.todo = iter(
            [json.dumps({"work": work, "kwargs": kwargs}).encode() for kwargs in calls]
        )
        self.results, self.wanted = [], len(calls)
        self._submit()
        self._loop()
        return self.results

    def _submit(self):
        while len(self.unconfirmed) < WINDOW and (body := next(self.todo, None)):
            self.submitted += 1
            number = str(self.submitted)
            properties = pika.BasicProperties(
                content_type="application/json",
                type="bench.request",
                delivery_mode=2,
                message_id=f"{self.sender}.{number}",
                correlation_id=number,
                reply_to=self.replies,
            )
            self.channel.basic_publish("", self.queue, body, properties, mandatory=True)
            self.unconfirmed.append(self.submitted)

    def _confirmed(self, frame):
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._done(f"the broker refused request {frame.method.delivery_tag}")
        elif frame.method.multiple:
            while self.unconfirmed and self.unconfirmed[0] <= frame.method.delivery_tag:
                self.unconfirmed.popleft()
        else:
            self.unconfirmed.remove(frame.method.delivery_tag)
        self._submit()

    def _take(self, _channel, _method, _properties, body):
        self.results.append(json.loads(body))
        if len(self.results) == self.wanted:
            self._done()
