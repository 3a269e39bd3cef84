"""What a sink must hold."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from fossa.contracts import Sink
from fossa.tasks import Outcome, Reason, Status, Task, new_id
from fossa.testing.components import ComponentContract

#: Text as hostile as models, and those who name their arguments, can make it.
HOSTILE = (
    "line\nbreak\r\n\ttab",
    "nul \x00 escape \x1b[31m bell \x07",
    "quote \" ' ` comma , semicolon ; pipe |",
    "=HYPERLINK('formula')",
    "%s %(name)s {0} {name} $HOME",
    "</script><b>&amp;",
    "“ñ” \N{SNOWMAN} \N{PILE OF POO} \u202e\u2028 end",
    "long " * 20_000,
)


class SinkContract(ComponentContract):
    """Subclass it and override `make`; and `read`, if a test can look at what the sink wrote."""

    def make(self) -> Sink:
        raise NotImplementedError(f"{type(self).__name__} should override make()")

    async def read(self) -> list[str] | None:
        """Ids of the tasks whose outcomes it took, once it is closed; None: a test cannot tell."""
        return None

    # tools

    def task(self, text: str = "go", **values: Any) -> Task:
        arguments = msgspec.json.encode({"method_kwargs": {"text": text}})
        return Task(
            id=new_id(), model="Answers", arguments=arguments, accepted=time.time(), **values
        )

    def outcome(
        self, status: Status = Status.COMPLETE, reason: Reason = Reason.RETURNED, **values: Any
    ) -> Outcome:
        now = time.time()
        begun: dict[str, Any] = {"attempt": 1, "started": now - 1, "finished": now}
        return Outcome(status=status, reason=reason, **{**begun, **values})

    def takes(self, pairs: Iterable[tuple[Task, Outcome]], *, at_once: bool = False) -> None:
        """Have a new sink take these, and see that it has each of them."""
        pairs = list(pairs)

        async def take() -> None:
            async with self.opened() as sink:
                if at_once:
                    await asyncio.gather(*(sink.take(*pair) for pair in pairs))
                else:
                    for pair in pairs:
                        await sink.take(*pair)

        self.within(take())
        written = self.within(self.read())
        if written is not None:
            assert {task.id for task, _ in pairs} <= set(written), "it lost an outcome"

    # the contract

    def test_required_is_declared(self) -> None:
        assert isinstance(self.make().required, bool)

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (Status.COMPLETE, Reason.RETURNED),
            (Status.FAILED, Reason.EXCEPTION),
            (Status.CANCELLED, Reason.CANCELLED),
        ],
    )
    def test_it_takes_outcomes_of_every_status(self, status: Status, reason: Reason) -> None:
        self.takes([(self.task(), self.outcome(status, reason))])

    def test_it_takes_the_outcome_of_a_task_that_never_began(self) -> None:
        outcome = self.outcome(Status.CANCELLED, Reason.CANCELLED, attempt=0, started=None)
        self.takes([(self.task(), outcome)])

    def test_it_takes_the_same_outcome_twice(self) -> None:
        pair = self.task(), self.outcome()
        self.takes([pair, pair])

    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    def test_it_takes_hostile_text(self, text: str) -> None:
        outcome = self.outcome(
            Status.FAILED,
            Reason.EXCEPTION,
            message=text,
            error=text[:100],
            traceback=(text, text),
            result_json=msgspec.json.encode({text[:100]: text}),
        )
        # A complete one follows: whoever writes a file in a row is not put out of step.
        self.takes([(self.task(text), outcome), (self.task(), self.outcome())])

    @pytest.mark.parametrize(
        "result", [None, 0, "", [], {"a": [{"b": None}]}, 1e308, "x" * 1_000_000], ids=range(7)
    )
    def test_it_takes_every_result(self, result: Any) -> None:
        large = self.outcome(result_json=msgspec.json.encode(result))
        self.takes([(self.task(), large)])

    def test_it_takes_a_result_that_is_only_described(self) -> None:
        described = self.outcome(
            result_json=b'{"type":"object","repr":"<object>"}', result_is_json=False
        )
        self.takes([(self.task(), described)])

    def test_it_takes_many_at_once(self) -> None:
        self.takes([(self.task(), self.outcome()) for _ in range(50)], at_once=True)

    def test_it_takes_outcomes_from_a_node(self) -> None:
        """In the place where it will be: behind a node's own queue, closed while the node stops."""

        async def from_a_node() -> list[str]:
            sink = self.named()
            async with self.node(SINKS=[sink]) as node:
                handles = [await node.submit("Answers", "echo") for _ in range(5)]
                for handle in handles:
                    await handle.outcome(self.deadline)
            return [handle.id for handle in handles]

        ids = self.within(from_a_node())
        written = self.within(self.read())
        assert written is None or set(ids) <= set(written), "it lost an outcome"
