"""A Fossa plugin: says on standard error how each task ended."""

import sys
from typing import TextIO

from fossa import Outcome, Task, hookimpl


class Announcer:
    """An observer: it is told of events and changes nothing.

    Args:
        bell: whether to ring the terminal's bell where a task was not completed.
        to: where to write; None: standard error.
    """

    def __init__(self, bell: bool = False, to: TextIO | None = None) -> None:
        self._bell = "\a" if bell else ""
        self._to = to or sys.stderr

    @hookimpl
    def fossa_task_ended(self, task: Task, outcome: Outcome) -> None:
        """Called on the node's event loop: quick, and never waiting."""
        if task.parent_id is not None:
            return  # a subtask: its parent tells of it
        bell = "" if outcome.complete else self._bell
        took = outcome.finished - (outcome.started or task.accepted)
        print(f"{bell}{task.model} is {outcome.status} after {took:.1f} s", file=self._to)
