"""The hooks that a plugin may implement. pluggy says who takes part; the contracts say how.

A plugin is a module or an object with functions named like these and marked `@hookimpl`; the
`PLUGINS` setting enables it. Hooks are plain functions that return at once: an `async def` is
refused when the plugin is registered.

A *decide* hook that raises fails what it was asked about. An *observe* hook that raises is logged,
with the plugin's name, and hurts nobody.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from fossa.contracts import Executor, Node
    from fossa.tasks import Attempt, Outcome, Task

hookspec = pluggy.HookspecMarker("fossa")
#: Marks a function as the implementation of a hook.
hookimpl = pluggy.HookimplMarker("fossa")


# decide


@hookspec(firstresult=True)
def fossa_choose_executor(task: "Task", executors: "Sequence[Executor]") -> "str | None":
    """Choose the executor for each attempt of a task, before the attempt begins.

    Args:
        task: what is about to be attempted.
        executors: the node's executors, in the config's order.

    Returns:
        The name of one of them, or None to leave it to the next plugin. Where all leave it, a
        subtask goes to the first remote executor or stays here, whichever has room first, and
        everything else stays here: with the local executor whose `models` name its model, else
        with the first local one that names none.

    Raising makes the attempt a crash with the reason `executor`.
    """


@hookspec
def fossa_refuse_task(task: "Task") -> "str | None":
    """Say why a task should not be admitted, after Fossa's own checks and before it is recorded.

    Args:
        task: what would be admitted.

    Returns:
        None to admit it, or the reason that its submitter is told.

    Raising refuses the task with what was raised.
    """


# observe


@hookspec
def fossa_node_started(node: "Node") -> None:
    """The node's components are open and it takes tasks."""


@hookspec
def fossa_node_stopped(node: "Node") -> None:
    """The node has drained and its components are closed."""


@hookspec
def fossa_task_accepted(task: "Task") -> None:
    """A task was admitted and is in the ledger; also each subtask."""


@hookspec
def fossa_attempt_started(attempt: "Attempt") -> None:
    """An attempt has its slot and goes to its executor."""


@hookspec
def fossa_attempt_ended(attempt: "Attempt", outcome: "Outcome") -> None:
    """An attempt is over. The task may be attempted again."""


@hookspec
def fossa_task_ended(task: "Task", outcome: "Outcome") -> None:
    """A task has its outcome, in the ledger and final."""
