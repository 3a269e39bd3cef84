"""The hooks that a plugin may implement. pluggy says who takes part; the contracts say how.

A plugin is a module or an object with functions named like these and marked `@hookimpl`; the
`PLUGINS` setting enables it. Hooks are plain functions that return at once: an `async def` is
refused when the plugin is registered.

A *decide* hook that raises fails what it was asked about. An *observe* hook that raises is logged,
with the plugin's name, and hurts nobody. One that takes longer than a quarter of a second blocks
the node meanwhile, and is named for that.

The documentation is built from the docstrings here: each says when the hook is called, its
arguments, what it returns and what raising does; the build fails where one does not, or where no
test names the hook.
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
    """Called for each attempt of a task, when it is queued: choose its executor.

    Args:
        task: what is about to be attempted.
        executors: the node's executors, in the config's order.

    Returns:
        The name of one of them, or None to leave it to the next plugin. Where all leave it, a
        subtask goes to the first remote executor or stays here, whichever has room first, and
        everything else stays here: with the local executor whose `models` name its model, else
        with the first local one that names none.

    Raising, or naming no executor of the node, ends the task with the reason `executor`; the plugin
    is named.
    """


@hookspec
def fossa_refuse_task(task: "Task") -> "str | None":
    """Called for each task and subtask, after Fossa's own checks and before it is recorded.

    Args:
        task: what would be admitted.

    Returns:
        None to admit it, or the reason that its submitter is told. The first reason counts.

    Raising, or returning anything but text, refuses the task with that and the plugin's name.
    """


# observe


@hookspec
def fossa_node_started(node: "Node") -> None:
    """Called once, when the node's components are open and it is about to take tasks.

    Args:
        node: the node; it may be kept, and asked, until it has stopped.

    Returns:
        Nothing.

    Raising is logged with the plugin's name; the node starts all the same.
    """


@hookspec
def fossa_node_stopped(node: "Node") -> None:
    """Called once, when the node has drained and its components are closed.

    The place to end what a plugin has started: tasks of asyncio's that go on are cancelled a second
    later, with a warning. It is not called where the node could not start, or was killed.

    Args:
        node: the node; only its name, id, composition and logger are of use by now.

    Returns:
        Nothing.

    Raising is logged with the plugin's name; the node has stopped all the same.
    """


@hookspec
def fossa_task_accepted(task: "Task") -> None:
    """Called once for each task that was admitted, before it begins; also each subtask.

    What is delivered again where it gets lost (over RabbitMQ, say) may not be in the ledger yet.
    A task that another node has sent is new to this one. One that is taken up from the ledger after
    a restart is not.

    Args:
        task: what was admitted; a subtask has a `parent_id`.

    Returns:
        Nothing.

    Raising is logged with the plugin's name; the task goes on.
    """


@hookspec
def fossa_attempt_started(attempt: "Attempt") -> None:
    """Called for each attempt of each task, when it has its slot and goes to its executor.

    Args:
        attempt: the attempt, with its task and its number, from 1.

    Returns:
        Nothing.

    Raising is logged with the plugin's name; the attempt goes on.
    """


@hookspec
def fossa_attempt_ended(attempt: "Attempt", outcome: "Outcome") -> None:
    """Called for each attempt that is over, before it is known whether there will be another.

    Not for one that was never begun, or was given back to its source.

    Args:
        attempt: as `fossa_attempt_started` had it.
        outcome: how this attempt ended. It is the task's only if no other follows.

    Returns:
        Nothing.

    Raising is logged with the plugin's name; the task goes on.
    """


@hookspec
def fossa_task_ended(task: "Task", outcome: "Outcome") -> None:
    """Called once for each task and subtask, when its outcome is in the ledger and final.

    Sinks get the outcome after that. A node that dies between the two does not call it again.

    Args:
        task: what has ended; a subtask has a `parent_id`.
        outcome: how.

    Returns:
        Nothing.

    Raising is logged with the plugin's name; the outcome stays.
    """
