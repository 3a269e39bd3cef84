"""A short run of each kind, and whether the books would find what they look for."""

import sqlite3
from collections import Counter

import pytest

from chaos.accounts import ORPHANED, Wanted, account, recoveries
from chaos.journal import Journal, Run
from chaos.ledgers import Ledgers
from chaos.models import result_of
from chaos.nemesis import Action
from chaos.plan import NETWORK, NODES, Step, plan
from chaos.report import rows, show
from chaos.run import parsed
from chaos.submitters import Outcomes, Seen
from chaos.trial import Trial
from rabbit import demand_rabbitmq

WANTED = Wanted(wholes=("t-0", "t-1"), parents={"p0": ("p0-0", "p0-1")})


async def of_a_trial(tmp_path, *arguments):
    """The books of a short run, and what was reported."""
    trial = Trial(parsed(arguments), tmp_path)
    books = await trial.run()
    show(trial, books)
    return trial, books, dict(rows(trial, books))


@pytest.mark.slow
async def test_nodes_by_themselves_lose_nothing(tmp_path):
    trial, books, said = await of_a_trial(
        tmp_path, "--over=http", "--seed=5", "--seconds=4", "--tasks=60", "--subtasks=60",
        "--pace=0.5", "--drain=40",
    )  # fmt: skip
    assert not books.violations
    assert books.executions >= 122
    done = Counter(a.kind for a in trial.nemesis.actions if a.skipped is None)
    assert done["kill_node"] + done["kill_worker"], "this seed should be a better one"
    assert said["lost"] == "0"


@pytest.mark.slow
async def test_a_fleet_over_rabbitmq_loses_nothing(tmp_path):
    demand_rabbitmq()
    trial, books, said = await of_a_trial(
        tmp_path, "--over=rabbitmq", "--seed=21", "--seconds=5", "--tasks=80", "--subtasks=80",
        "--pace=0.6", "--drain=60",
    )  # fmt: skip
    assert not books.violations
    assert books.executions >= 162
    done = Counter(a.kind for a in trial.nemesis.actions if a.skipped is None)
    assert done["kill_node"] and set(done) & set(NETWORK), "this seed should be a better one"


def test_a_seed_is_a_run():
    kinds = {**NODES, **NETWORK}
    steps = plan(7, 60, 3, kinds)
    assert steps == plan(7, 60, 3, kinds)
    assert steps != plan(8, 60, 3, kinds)
    assert {step.kind for step in plan(7, 600, 3, kinds)} == set(kinds)
    assert all(step.at + step.lasts <= 60 for step in steps)
    assert {step.kind for step in plan(7, 60, 3, {"cut": kinds["cut"]})} == {"cut"}
    assert plan(7, 60, 3, {}) == []


def run(number, began, ended=None, node="n0", pid=1, **more):
    return Run(
        number=number, run=f"{number} {began}", node=node, pid=pid, began=began, ended=ended, **more
    )


def journal(*runs):
    found = Journal("nowhere")
    found.runs = {r.run: r for r in runs}
    return found


GOOD_RUNS = (
    run("t-0", 1.0, 1.1),
    run("t-1", 1.0, 1.1, node="n1", pid=2),
    run("p0", 1.0, 2.0, pid=3, told=["p0-0", "p0-1"]),
    run("p0-0", 1.1, 1.2, node="n1", pid=4),
    run("p0-1", 1.1, 1.2, pid=5),
)


def answered(**changed):
    """Good outcomes of all that was submitted, but for those given: lists of `Seen` by number."""
    outcomes = Outcomes()
    for number in WANTED.submitted:
        for one in changed.get(number.replace("-", "_"), [seen(number)]):
            outcomes.add(number, one)
    return outcomes


def seen(number, status="complete", result=None):
    known = result_of(number) if number.startswith("t-") else True
    return Seen(status, "returned", "", result or known, "n0", "id")


def did(kind, began, ended=None, node=None, pid=None, skipped=None):
    step = Step(at=began, kind=kind, node=None, lasts=0.0)
    return Action(step=step, began=began, ended=ended or began, node=node, pid=pid, skipped=skipped)


def violations(runs=GOOD_RUNS, outcomes=None, actions=(), **more):
    return account(WANTED, journal(*runs), outcomes or answered(), actions, **more).violations


def without(number):
    return tuple(r for r in GOOD_RUNS if r.number != number)


def test_good_books_have_no_violations():
    assert violations() == []
    assert violations(outcomes=answered(t_0=[seen("t-0")] * 3)) == []


@pytest.mark.parametrize(
    ("outcomes", "runs", "more", "said"),
    [
        (answered(t_0=[]), GOOD_RUNS, {}, "t-0 is lost: it has no outcome; begun 1.000 by n0"),
        (answered(p0=[]), GOOD_RUNS, {}, "p0 is lost"),
        (
            answered(t_1=[seen("t-1"), seen("t-1", "failed")]),
            GOOD_RUNS,
            {},
            "t-1 has outcomes that differ",
        ),
        (
            answered(t_1=[seen("t-1"), seen("t-1", result=4)]),
            GOOD_RUNS,
            {},
            "t-1 has outcomes that differ",
        ),
        (answered(t_1=[seen("t-1", "failed")]), GOOD_RUNS, {}, "t-1 is not complete"),
        (answered(t_1=[seen("t-1", result=4)]), GOOD_RUNS, {}, "t-1 came to 4, not to"),
        (answered(), without("t-0"), {}, "t-0 is complete, and was never done; it was never begun"),
        (answered(), without("p0-1"), {}, "p0-1 was never done"),
        (
            answered(),
            (*without("p0"), run("p0", 1.0, 2.0, told=["p0-0"])),
            {},
            "p0-1 is lost: p0 was not told of it",
        ),
        (
            answered(),
            (*without("p0"), run("p0", 1.0, 2.0, told=["p0-0", "p0-0", "p0-1"])),
            {},
            "p0-0 came back 2 times to one attempt of p0",
        ),
        (
            answered(),
            (*without("p0"), run("p0", 1.0, told=["p0-0", "p0-1"])),
            {},
            "p0 has not ended",
        ),
        (answered(), (*GOOD_RUNS, run("t-0", 3.0, 3.1)), {}, "t-0 was done again by n0 and noth"),
        (answered(), GOOD_RUNS, {"failures": ["kill_node n0: …"]}, "not mended: kill_node n0: …"),
        (answered(), GOOD_RUNS, {"changes": ["n0: x was …"]}, "an outcome changed: n0: x was …"),
        (answered(), GOOD_RUNS, {"unfinished": ["n0: x"]}, "not ended: n0: x"),
        (answered(), GOOD_RUNS, {"left": [123]}, "process 123 outlived its node"),
    ],
)
def test_the_books_find(outcomes, runs, more, said):
    found = violations(runs, outcomes, **more)
    assert any(text.startswith(said) for text in found), found


def test_what_nobody_submitted_is_found():
    outcomes = answered()
    outcomes.add("t-9", seen("t-9"))
    outcomes.strange.append("t-1: GET /tasks/1 on n0: 404")
    assert violations(outcomes=outcomes) == [
        "strange: t-1: GET /tasks/1 on n0: 404",
        "t-9 was never submitted",
    ]


AGAIN = (*GOOD_RUNS, run("t-1", 5.0, 5.1, node="n0", pid=9))
PART_AGAIN = (*GOOD_RUNS, run("p0-0", 5.0, 5.1, node="n2", pid=9))


@pytest.mark.parametrize(
    ("runs", "action", "broker", "explained"),
    [
        (AGAIN, did("kill_worker", 1.05, pid=2, node="n1"), False, True),
        (AGAIN, did("kill_worker", 1.05, pid=1, node="n1"), False, False),
        (AGAIN, did("kill_worker", 0.2, pid=2, node="n1"), False, False),
        (AGAIN, did("kill_worker", 6.0, pid=2, node="n1"), False, False),
        (AGAIN, did("kill_worker", 1.05, pid=2, node="n1", skipped="no"), False, False),
        (AGAIN, did("kill_node", 2.0, 4.0, node="n1"), False, True),
        (AGAIN, did("kill_node", 2.0, 4.0, node="n0"), False, False),
        (AGAIN, did("kill_node", 0.99 - ORPHANED, 4.0, node="n1"), False, False),
        (AGAIN, did("pause_node", 1.0, 4.0, node="n1"), False, False),
        (AGAIN, did("pause_node", 1.0, 4.0, node="n1"), True, True),
        (AGAIN, did("half_open", 0.1, 0.9, node="n1"), True, True),
        (AGAIN, did("half_open", 0.1, 0.9, node="n2"), True, False),
        (AGAIN, did("cut", 0.9, node="submitter"), True, True),
        (PART_AGAIN, did("cut", 0.9, node="submitter"), True, False),
        (AGAIN, did("cut_all", 0.9), True, True),
        (AGAIN, did("kill_broker", 2.0, 9.0), True, True),
        (AGAIN, did("kill_broker", 2.0, 9.0), False, False),
        (PART_AGAIN, did("kill_node", 2.0, 4.0, node="n1"), True, True),
        (PART_AGAIN, did("kill_node", 2.0, 4.0, node="n0"), True, True),
        (PART_AGAIN, did("kill_worker", 2.0, node="n0", pid=3), True, True),
        (PART_AGAIN, did("kill_worker", 2.0, node="n0", pid=5), True, False),
        (PART_AGAIN, did("pause_worker", 2.0, node="n0", pid=3), True, False),
    ],
)
def test_what_explains_that_something_was_done_again(runs, action, broker, explained):
    books = account(WANTED, journal(*runs), answered(), [action], broker=broker)
    assert books.duplicates == 1
    assert books.explained == ({action.kind: 1} if explained else {})
    assert bool(books.violations) is not explained


@pytest.mark.parametrize(("resent", "explained"), [("t-0", False), ("t-1", True)])
def test_what_was_sent_twice_may_be_done_twice_however_late(resent, explained):
    books = account(WANTED, journal(*AGAIN), answered(), [], broker=True, resent={resent})
    assert books.duplicates == 1
    assert books.explained == ({"resend": 1} if explained else {})
    assert bool(books.violations) is not explained


def test_the_slowest_recovery_is_that_of_the_node_that_was_hurt():
    actions = [
        did("kill_node", 0.5, 0.8, node="n0"),
        did("pause_node", 0.5, 0.95, node="n1"),
        did("kill_node", 9.0, node="n1"),
    ]
    found = recoveries(journal(*GOOD_RUNS), actions)
    assert [(round(s, 3), a.kind) for s, a in found] == [(0.2, "kill_node"), (0.05, "pause_node")]


class OneLedger:
    name = "n0"

    def __init__(self, directory):
        self.ledger = directory / "ledger.sqlite"
        self.write(
            "CREATE TABLE tasks (id, idempotency_key, status, attempts, finished, outcome, result,"
            " redelivered, model, method, arguments)"
        )

    def write(self, statement):
        connection = sqlite3.connect(self.ledger)
        connection.execute(statement)
        connection.commit()
        connection.close()


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("UPDATE tasks SET status = 'failed' WHERE id = 'a'", "n0: a was"),
        ("UPDATE tasks SET attempts = 2 WHERE id = 'a'", "n0: a was"),
        ("DELETE FROM tasks WHERE id = 'a'", "n0: a was"),
        ("UPDATE tasks SET status = 'complete', finished = 2.0 WHERE id = 'b'", None),
        ("DELETE FROM tasks WHERE id = 'b'", None),
    ],
)
def test_an_outcome_that_changes_in_a_ledger_is_seen(tmp_path, then, said):
    node = OneLedger(tmp_path)
    node.write(
        "INSERT INTO tasks VALUES ('a', 't-0', 'complete', 1, 1.0, '{}', '1', 0, 'M', 'go', '{}'),"
        " ('b', 't-1', 'running', 1, NULL, NULL, NULL, 0, 'M', 'go', '{}')"
    )
    ledgers = Ledgers([node])
    ledgers.look()
    assert len(ledgers.unfinished()[0]) == 1
    node.write(then)
    ledgers.look()
    if said is None:
        assert ledgers.changes == []
    else:
        assert len(ledgers.changes) == 1
        assert ledgers.changes[0].startswith(said)
