"""The books: what was wanted, what was done, what was answered, and whether that adds up."""

from attrs import define, field, frozen

from chaos.models import result_of
from chaos.nemesis import SUBMITTER

#: Seconds after an action within which its consequences may still come: a connection that nobody
#: answers on is noticed after two heartbeats, and a node that was killed has to come back.
LINGER = 20.0
#: Seconds for which a worker goes on with what it was given after its node was killed.
ORPHANED = 0.5
#: What makes the fleet do again what it may have done: these always,
_KILLS = {"kill_worker", "kill_node"}
#: and these where a broker hears of a connection's end.
_OF_THE_NETWORK = {"pause_node", "cut", "cut_all", "hold", "half_open", "refuse"}
_OF_THE_BROKER = {"kill_broker", "pause_broker"}


@frozen(kw_only=True)
class Wanted:
    """What was submitted: numbers of whole tasks, and of parents, each with its subtasks."""

    wholes: tuple[str, ...] = ()
    parents: dict[str, tuple[str, ...]] = field(factory=dict)

    @property
    def submitted(self):
        return (*self.wholes, *self.parents)

    @property
    def subtasks(self):
        return tuple(number for numbers in self.parents.values() for number in numbers)


@define(kw_only=True)
class Account:
    """What came of a run. Without violations all is well."""

    violations: list[str] = field(factory=list)
    lost: int = 0
    executions: int = 0
    duplicates: int = 0
    #: Duplicates by the kind of action that explains them.
    explained: dict[str, int] = field(factory=dict)


def account(
    wanted, journal, outcomes, actions, *, broker=False, failures=(), changes=(), unfinished=(),
    left=(), resent=(),
):  # fmt: skip
    """Settle it all.

    Args:
        wanted: a `Wanted`.
        journal: a `Journal` that has been read to its end.
        outcomes: the submitters' `Outcomes`.
        actions: what the nemesis did.
        broker: whether a broker hands work over, and gives it to another node when in doubt.
        failures: what did not come back when it was to be mended.
        changes: outcomes that changed in a ledger.
        unfinished: tasks that a ledger still has as queued or running.
        left: processes that outlived their nodes.
        resent: numbers that the submitter has sent more than once. Two nodes may take one each,
            however long both messages have waited.
    """
    books = Account(executions=len(journal.runs))
    books.violations += [f"not mended: {text}" for text in failures]
    books.violations += [f"strange: {text}" for text in outcomes.strange]
    books.violations += [f"an outcome changed: {text}" for text in changes]
    books.violations += [f"not ended: {text}" for text in unfinished]
    books.violations += [f"process {pid} outlived its node" for pid in left]
    runs = _by_number(journal)
    for number in wanted.submitted:
        _submitted(books, number, outcomes.of.get(number, []), runs.get(number, []))
    for parent, numbers in wanted.parents.items():
        _told(books, parent, numbers, runs)
    owners = _Owners(wanted, runs)
    kinds = _KILLS | (_OF_THE_NETWORK | _OF_THE_BROKER if broker else set())
    acted = [a for a in actions if a.skipped is None and a.kind in kinds]
    for number, executions in runs.items():
        _duplicates(books, number, executions, owners, acted, number in resent)
    unknown = set(outcomes.of) - set(wanted.submitted)
    books.violations += [f"{number} was never submitted" for number in sorted(unknown)]
    return books


def _by_number(journal):
    runs = {}
    for run in journal.runs.values():
        runs.setdefault(run.number, []).append(run)
    return runs


def _submitted(books, number, seen, runs):
    """One terminal outcome, however often it was seen, and it is true."""
    if not seen:
        books.lost += 1
        books.violations.append(f"{number} is lost: it has no outcome; {_history(runs)}")
        return
    if len({(one.status, one.reason, repr(one.result)) for one in seen}) > 1:
        books.violations.append(f"{number} has outcomes that differ: {seen}")
    first = seen[0]
    if first.status != "complete":
        books.violations.append(f"{number} is not complete: {first}; {_history(runs)}")
    elif not any(run.ended for run in runs):
        books.violations.append(f"{number} is complete, and was never done; {_history(runs)}")
    elif number.startswith("t-") and first.result != result_of(number):
        books.violations.append(f"{number} came to {first.result}, not to {result_of(number)}")


def _told(books, parent, numbers, runs):
    """The attempt of a parent that ended was told of each of its subtasks once."""
    attempts = [run for run in runs.get(parent, []) if run.ended]
    if not attempts:
        books.lost += len(numbers)
        books.violations.append(f"{parent} has not ended: its {len(numbers)} subtasks are lost")
    for attempt in attempts:
        missing = sorted(set(numbers) - set(attempt.told))
        books.lost += len(missing)
        books.violations += [f"{n} is lost: {parent} was not told of it" for n in missing]
        books.violations += [
            f"{n} came back {attempt.told.count(n)} times to one attempt of {parent}"
            for n in sorted(set(attempt.told))
            if attempt.told.count(n) > 1
        ]
    done = {n for n in numbers if any(run.ended for run in runs.get(n, []))}
    books.violations += [f"{n} was never done" for n in sorted(set(numbers) - done)]


class _Owners:
    """The executions of a subtask's parent: what hurts them makes its subtasks be done again."""

    def __init__(self, wanted, runs):
        self._parents = {n: parent for parent, numbers in wanted.parents.items() for n in numbers}
        self._runs = runs

    def of(self, number):
        return self._runs.get(self._parents.get(number), [])


def _duplicates(books, number, runs, owners, actions, resent):
    for i, later in enumerate(runs[1:], 1):
        books.duplicates += 1
        why = _explanation(runs[:i], later, owners.of(number), actions)
        why = why or ("resend" if resent and i == 1 else None)
        if why is None:
            text = f"{number} was done again by {later.node} and nothing explains it; "
            books.violations.append(text + _history(runs))
        else:
            books.explained[why] = books.explained.get(why, 0) + 1


def _explanation(earlier, later, owners, actions):
    """The kind of action that hurt an earlier execution, or its parent, before the later one."""
    for action in reversed(actions):
        if action.began > later.began:
            continue
        for run in earlier:
            if run.began <= action.ended + LINGER and any(
                _hurts(action, hurt) for hurt in (run, *owners)
            ):
                return action.kind
    return None


def _hurts(action, run):
    if action.kind in _OF_THE_BROKER:
        return True
    if action.kind == "kill_worker":
        return action.pid == run.pid and run.began <= action.began + ORPHANED
    if action.node == SUBMITTER:
        # It sends again what may have arrived, and two nodes may take one each.
        return run.number.startswith("t-")
    if action.node not in (None, run.node):
        return False
    return action.kind != "kill_node" or run.began <= action.began + ORPHANED


def _history(runs):
    if not runs:
        return "it was never begun"
    return "; ".join(
        f"begun {run.began:.3f} by {run.node} ({run.pid}), "
        f"{f'ended {run.ended:.3f}' if run.ended else 'not ended'}"
        for run in runs
    )


def recoveries(journal, actions):
    """Seconds from the end of each action to the next begin of an execution that it kept waiting.

    Returns (seconds, action), the slowest first; actions with no work after them are left out.
    """
    found = []
    for action in actions:
        began = [
            run.began
            for run in journal.runs.values()
            if run.began >= action.ended and action.node in (None, run.node)
        ]
        if action.skipped is None and began:
            found.append((min(began) - action.ended, action))
    return sorted(found, key=lambda pair: -pair[0])
