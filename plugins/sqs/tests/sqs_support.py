"""moto's server in a process of its own, queues on it, and nodes that take from them."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from uuid import uuid4

import ayeaye
import pytest
from botocore.config import Config
from botocore.session import get_session

from fossa import BaseConfig, Fossa, use
from fossa.testing import free_port
from fossa_sqs.source import SqsSource

REGION = "eu-west-1"
SERVE = """
import sys, threading, os
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class Server:
    """Ends with the process that started it: it reads from its standard input."""

    def __enter__(self):
        if importlib.util.find_spec("moto") is None:
            why = "moto is not installed: pip install 'moto[server]'"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_up()
        return self

    def _wait_until_up(self):
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, "moto's server has ended"
                assert time.monotonic() < end, "moto's server does not answer"
                time.sleep(0.05)

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait(10)


class Queues:
    def __init__(self, url):
        self.endpoint = url
        self.client = get_session().create_client(
            "sqs",
            region_name=REGION,
            endpoint_url=url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing-secret",
            config=Config(retries={"total_max_attempts": 3}),
        )

    def make(self, *, fifo=False, dead=True, receives=100, **attributes):
        """A queue's URL."""
        name, end = f"q-{uuid4().hex[:12]}", ".fifo" if fifo else ""
        said = {"FifoQueue": "true"} if fifo else {}
        if dead:
            dead_url = self.client.create_queue(QueueName=f"{name}-dead{end}", Attributes=said)
            found = self.client.get_queue_attributes(
                QueueUrl=dead_url["QueueUrl"], AttributeNames=["QueueArn"]
            )
            policy = {
                "deadLetterTargetArn": found["Attributes"]["QueueArn"],
                "maxReceiveCount": receives,
            }
            attributes["RedrivePolicy"] = json.dumps(policy)
        made = self.client.create_queue(QueueName=f"{name}{end}", Attributes={**said, **attributes})
        return made["QueueUrl"]

    def dead(self, url):
        return url.replace(".fifo", "-dead.fifo") if url.endswith(".fifo") else f"{url}-dead"

    def send(self, url, body, group="g", **attributes):
        """The message's id."""
        fifo = url.endswith(".fifo")
        more = {"MessageGroupId": group, "MessageDeduplicationId": uuid4().hex} if fifo else {}
        said = {n: {"DataType": "String", "StringValue": v} for n, v in attributes.items()}
        text = body if isinstance(body, str) else json.dumps(body)
        return self.client.send_message(
            QueueUrl=url, MessageBody=text, MessageAttributes=said, **more
        )["MessageId"]

    def counts(self, url):
        """Messages that are there, and those that somebody has."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return tuple(int(found["Attributes"][name]) for name in names)

    def take_one(self, url):
        """Receive a message, and let it be seen again at once."""
        [got] = self.client.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
        handle = got["ReceiptHandle"]
        self.client.change_message_visibility(
            QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
        )

    def take_all(self, url):
        """Every message that is there, deleted."""
        found = []
        while True:
            got = self.client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                AttributeNames=["All"],
                WaitTimeSeconds=0,
            ).get("Messages", [])
            if not got:
                return found
            for message in got:
                found.append(message)
                self.client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


class Word(ayeaye.Model):
    said = []

    def build(self):
        pass

    def say(self, word):
        self.said.append(word)
        return word

    def fail(self):
        raise ValueError("no")

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


class WordConfig(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Word,)
    LEDGER = None
    SINKS = ()
    SLOTS = 2


def source(queues, url, **options):
    endpoint = {"endpoint_url": queues.endpoint, "region": REGION, "queue": url.rpartition("/")[2]}
    return SqsSource(**(endpoint | {"poll": 1} | options))


@contextlib.asynccontextmanager
async def running(*sources, inline=True, **settings):
    chosen = {"EXECUTORS": (use("inline"),)} if inline else {}
    async with Fossa(WordConfig, SOURCES=sources, **(chosen | settings)) as node:
        yield node


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


async def emptied(queues, url):
    await until(lambda: queues.counts(url) == (0, 0))


def say(word, **more):
    return {"model": "Word", "method": "say", "method_kwargs": {"word": word}, **more}
