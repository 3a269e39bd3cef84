"""The local executor: attempts run in long-lived worker processes of this node."""

from fossa.builtin.processes import ProcessExecutor, Staff
from fossa.builtin.workers import Workers
from fossa.contracts import Node


class LocalExecutor(ProcessExecutor):
    """Long-lived worker processes, each running one attempt at a time."""

    chunk = 64

    async def staff(self, node: Node) -> Staff:
        workers = Workers(node)
        workers.keep_enough()
        return workers
