"""The sinks in the box: the node's log, a JSON-lines file, any Aye-Aye dataset."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from fossa.contracts import Node, Sink
from fossa.documents import outcome_document
from fossa.errors import ConfigError
from fossa.tasks import Outcome, Task


class LogSink(Sink):
    """One line in the node's log for each task that ends."""

    async def open(self, node: Node) -> None:
        self._logger = node.logger

    async def take(self, task: Task, outcome: Outcome) -> None:
        level = logging.INFO if outcome.complete else logging.WARNING
        began = outcome.started or task.accepted
        self._logger.log(
            level,
            "%s.%s %s: %s (%s)%s in %.3f s",
            task.model, task.method, task.id, outcome.status, outcome.reason,
            f": {outcome.message}" if outcome.message else "", outcome.finished - began,
        )  # fmt: skip


class JsonLinesSink(Sink):
    """One JSON object a line, appended to a file: `use("jsonl", path="outcomes.jsonl")`."""

    def __init__(self, path: str, required: bool = False) -> None:
        self._path = Path(path)
        self.required = required

    async def open(self, node: Node) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(
                "the jsonl sink", [f"path={str(self._path)!r} cannot be written: {error.strerror}"]
            ) from error

    async def take(self, task: Task, outcome: Outcome) -> None:
        line = msgspec.json.encode(outcome_document(task, outcome)) + b"\n"
        await asyncio.to_thread(self._append, line)

    def _append(self, line: bytes) -> None:
        self._file.write(line)
        os.fsync(self._file.fileno())

    async def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class AyeAyeSink(Sink):
    """Each outcome as a record of an Aye-Aye dataset: `use("ayeaye", engine_url="csv://…")`.

    The values of a record are flat: the return value is JSON text, so that every engine takes it.
    """

    def __init__(self, engine_url: str, required: bool = False) -> None:
        self._engine_url = engine_url
        self.required = required

    async def open(self, node: Node) -> None:
        # Ayeaye's connectors are not made for two threads at once.
        self._one_at_a_time = asyncio.Lock()
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        import ayeaye
        from ayeaye.exception import UnknownEngineType

        try:
            dataset = ayeaye.Connect(engine_url=self._engine_url, access=ayeaye.AccessMode.WRITE)
            dataset.connect_standalone()
        except (UnknownEngineType, ValueError, NotImplementedError) as error:
            raise ConfigError("the ayeaye sink", [f"engine_url: {error}"]) from error
        self._dataset = dataset

    async def take(self, task: Task, outcome: Outcome) -> None:
        document = outcome_document(task, outcome)
        document["result"] = msgspec.json.encode(document["result"]).decode()
        document["traceback"] = "\n".join(document["traceback"])
        async with self._one_at_a_time:
            await asyncio.to_thread(self._add, document)

    def _add(self, document: dict[str, Any]) -> None:
        self._dataset.add(document)

    async def close(self) -> None:
        if hasattr(self, "_dataset"):
            await asyncio.to_thread(self._dataset.close_connection)
