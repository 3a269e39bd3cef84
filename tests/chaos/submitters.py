"""Those who submit, and wait for what became of it. Neither of them ever gives up by itself."""

import asyncio
import json
import queue
import threading
import time
from contextlib import suppress

import aiohttp
from attrs import frozen

#: Seconds for which a node is asked to hold back an answer that is not there yet.
WAIT = 5.0
#: Seconds between two tries.
PAUSE = 0.2


class NoAnswer(Exception):
    """A node said something about a number that it must not say."""


@frozen
class Seen:
    """One outcome of a number as a submitter saw it."""

    status: str
    reason: str
    message: str
    result: object
    #: The node that said so, and the task's id there.
    via: str
    task_id: str | None


def seen(outcome, via, task_id):
    """Of an outcome as the API and the wire write it: the latter leaves out what is empty."""
    message, result = outcome.get("message", ""), outcome.get("result")
    return Seen(outcome["status"], outcome["reason"], message, result, via, task_id)


class Outcomes:
    """What every submitter has seen, by number. A number may be seen more than once."""

    def __init__(self):
        self.of = {}
        #: What cannot be, such as a task that a node has accepted and knows no more.
        self.strange = []

    def add(self, number, outcome):
        self.of.setdefault(number, []).append(outcome)

    def done(self, numbers):
        return sum(number in self.of for number in numbers)


class HttpSubmitter:
    """Submits to one node each number under a key of its own, again and again until it answers."""

    def __init__(self, session, outcomes):
        self._session = session
        self._outcomes = outcomes

    async def run(self, number, node, document):
        """Returns the task's id once the outcome is there. Raises `NoAnswer`."""
        document = {**document, "idempotency_key": number}
        task_id = (await self._ask(number, node, "POST", "/tasks", document))["id"]
        while True:
            path = f"/tasks/{task_id}?wait={WAIT:g}"
            if await self._look(number, node, path, task_id):
                return task_id

    async def look_again(self, number, node, task_id):
        """An outcome is final: it has to be the same whenever it is asked for."""
        assert await self._look(number, node, f"/tasks/{task_id}", task_id)

    async def _look(self, number, node, path, task_id):
        task = await self._ask(number, node, "GET", path)
        if task["outcome"] is None:
            return False
        self._outcomes.add(number, seen(task["outcome"], node.name, task_id))
        return True

    async def _ask(self, number, node, verb, path, document=None):
        url = f"{node.url}/api/1{path}"
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.request(verb, url, json=document) as response:
                    if response.status < 300:
                        return await response.json()
                    what = f"{number}: {verb} {path} on {node.name}: {response.status}"
                    if response.status != 503:
                        self._outcomes.strange.append(f"{what} {await response.text()}")
                        raise NoAnswer(what)
            await asyncio.sleep(PAUSE)


class AmqpSubmitter:
    """Publishes each number as a message with a durable reply queue of its own, in a thread.

    A publish that was not confirmed is repeated, with the same message id, after a reconnect. A
    message that was confirmed never is, as the fleet has it then, unless `resend` says after how
    many seconds without an outcome.
    """

    def __init__(self, url, prefix, outcomes, resend=None):
        self._url = url
        self._queue = f"{prefix}.tasks"
        self._replies = f"{prefix}.replies.submitter"
        self._outcomes = outcomes
        self._resend = resend
        self._todo = queue.SimpleQueue()
        #: What was confirmed: number to document and when.
        self._sent = {}
        #: Taken from the queue and not confirmed.
        self._unconfirmed = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="submitter")
        #: How often it had to connect anew.
        self.reconnects = -1
        #: Replies for a number that had one already.
        self.repeated = 0
        #: Numbers that it has published, and more than once: the broker may have each message.
        self._published = set()
        self.resent = set()

    async def __aenter__(self):
        self._thread.start()
        return self

    async def __aexit__(self, *_):
        self._stopping.set()
        # Its connection is through a proxy on this loop.
        await asyncio.to_thread(self._thread.join, 60)

    def submit(self, number, document):
        self._todo.put((number, document))

    def _run(self):
        import pika.exceptions

        while not self._stopping.is_set():
            try:
                self._session()
            except (pika.exceptions.AMQPError, OSError):
                self._stopping.wait(PAUSE)
            except Exception as error:
                self._outcomes.strange.append(f"the submitter failed: {error!r}")
                raise

    def _session(self):
        """From one connection to its end."""
        import pika

        parameters = pika.URLParameters(self._url)
        parameters.heartbeat = 4
        parameters.socket_timeout = parameters.stack_timeout = 4
        parameters.blocked_connection_timeout = 20
        try:
            connection = pika.BlockingConnection(parameters)
        except Exception as error:
            # On a bad network pika raises ValueErrors and errors of its inner parts as well.
            raise ConnectionResetError(repr(error)) from error
        try:
            self.reconnects += 1
            channel = connection.channel()
            channel.queue_declare(self._replies, durable=True)
            channel.confirm_delivery()
            channel.basic_consume(self._replies, self._reply)
            while not self._stopping.is_set():
                self._publish_what_there_is(channel)
                connection.process_data_events(0.05)
        finally:
            with suppress(pika.exceptions.AMQPError, OSError):
                connection.close()

    def _publish_what_there_is(self, channel):
        import pika

        self._take_what_is_due()
        while self._unconfirmed:
            number, document = self._unconfirmed[0]
            properties = pika.BasicProperties(
                content_type="application/json",
                type="fossa.task",
                message_id=number,
                correlation_id=number,
                reply_to=self._replies,
                delivery_mode=2,
                headers={"fossa-version": "1.0"},
            )
            body = json.dumps(document).encode()
            if number in self._published:
                self.resent.add(number)
            self._published.add(number)
            channel.basic_publish("", self._queue, body, properties, mandatory=True)
            self._sent[number] = (document, time.monotonic())
            self._unconfirmed.pop(0)

    def _take_what_is_due(self):
        with suppress(queue.Empty):
            while True:
                self._unconfirmed.append(self._todo.get_nowait())
        if self._resend is None:
            return
        late = time.monotonic() - self._resend
        for number, (document, at) in list(self._sent.items()):
            if at < late and number not in self._outcomes.of:
                del self._sent[number]
                self._unconfirmed.append((number, document))

    def _reply(self, channel, method, properties, body):
        said = json.loads(body)
        number = properties.correlation_id
        self.repeated += number in self._outcomes.of
        self._outcomes.add(number, seen(said["outcome"], said["node"]["name"], said["task_id"]))
        channel.basic_ack(method.delivery_tag)
