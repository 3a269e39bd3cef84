"""The subprocess executor: each attempt in a fresh interpreter, this one or another."""

from typing import Any

from fossa.builtin.conversation import Conversation
from fossa.builtin.fresh_workers import FreshWorkers
from fossa.builtin.processes import ProcessExecutor, Staff
from fossa.builtin.subprocess_options import options
from fossa.contracts import Node


class SubprocessExecutor(ProcessExecutor):
    """Starts a process for each attempt. Takes the options of `Options`."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self._options = options(**given)
        self.name = given.get("name", "")
        if self._options.models is not None:
            self.models = frozenset(self._options.models)

    async def staff(self, node: Node) -> Staff:
        workers = FreshWorkers(self._options, node)
        await workers.open()
        return workers

    def unwanted(self, conversation: Conversation) -> None:
        """Nobody else will want the process that is being started."""
        if not hasattr(conversation, "worker"):
            conversation.holding.cancel()
