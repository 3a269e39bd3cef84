"""Every component in the box passes the suites that third parties' components are given."""

import csv
import json

import aiohttp

from fossa.builtin.http import HttpSource
from fossa.builtin.inline import InlineExecutor
from fossa.builtin.local import LocalExecutor
from fossa.builtin.sinks import AyeAyeSink, JsonLinesSink, LogSink
from fossa.ledger import Ledger
from fossa.testing import ExecutorContract, LedgerContract, SinkContract, SourceContract


class TestLocalExecutor(ExecutorContract):
    def make(self):
        return LocalExecutor()


class TestLocalExecutorWithAProcessEach(TestLocalExecutor):
    settings = {"ISOLATION": "task"}


class TestInlineExecutor(ExecutorContract):
    settings = {"DEBUG": True}
    lacks = {
        "crash": "the model has the node's own process",
        "cancel": "a thread cannot be ended",
        "timeout": "a thread cannot be ended",
        "output": "a debugger needs the terminal",
        "subtasks": "they run one after another, as part of their parent",
    }

    def make(self):
        return InlineExecutor()


class TestLogSink(SinkContract):
    def make(self):
        return LogSink()


class TestJsonLinesSink(SinkContract):
    def make(self):
        return JsonLinesSink(str(self.tmp_path / "new" / "outcomes.jsonl"))

    def broken(self):
        return JsonLinesSink(str(self.tmp_path))

    async def read(self):
        lines = (self.tmp_path / "new" / "outcomes.jsonl").read_bytes().splitlines()
        return [json.loads(line)["task_id"] for line in lines]


class TestAyeAyeSink(SinkContract):
    def make(self):
        return AyeAyeSink(f"csv://{self.tmp_path}/outcomes.csv")

    def broken(self):
        return AyeAyeSink("no-such-engine://outcomes")

    async def read(self):
        csv.field_size_limit(1 << 30)
        with (self.tmp_path / "outcomes.csv").open(newline="", encoding="utf-8-sig") as file:
            return [row["task_id"] for row in csv.DictReader(file)]


class TestHttpSource(SourceContract):
    takes = False
    settings = {"HTTP_PORT": 0}

    def make(self):
        source = HttpSource()
        source.name = "http"
        return source

    def broken(self):
        # An address that is kept for documentation is no computer's own.
        self.settings = {"HTTP_PORT": 0, "HTTP_HOST": "203.0.113.1", "HTTP_WITHOUT_TOKEN": True}
        return HttpSource()

    async def send(self, source, request):
        names = ("model", "method", "method_kwargs", "model_construction_kwargs",
                 "resolver_context")  # fmt: skip
        document = {n: v for n in names if (v := getattr(request, n)) is not None}
        url = f"{source.url}/api/1/tasks"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.post(url, json=document) as response,
        ):
            return None if response.status == 202 else await response.text()


class TestLedgerInAFile(LedgerContract):
    durable = True

    def make(self):
        return Ledger(self.tmp_path / "ledger.sqlite")


class TestLedgerInMemory(LedgerContract):
    durable = False

    def make(self):
        return Ledger(None)
