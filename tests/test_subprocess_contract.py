"""The subprocess executor passes the suite that every executor is given."""

from fossa.builtin.subprocesses import SubprocessExecutor
from fossa.testing import ExecutorContract


class TestSubprocessExecutor(ExecutorContract):
    def make(self):
        return SubprocessExecutor()

    def broken(self):
        return SubprocessExecutor(python="/no/such/python")
