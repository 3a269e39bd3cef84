"""The lanes of a parent's subtasks, over its attempts."""

from types import SimpleNamespace

from fossa.live import LiveTask
from fossa.slots import Slots
from fossa.tasks import Task, new_id


def live(parent=None):
    task = Task(id=new_id(), model="M", method="go", accepted=0.0)
    made = LiveTask(task, parent=parent)
    if parent is not None:
        parent.adopt(made)
    return made


def children(parent, count):
    """So many of one attempt, and which of them have a lane."""
    parent.begin_again()
    parent.plan(None, 2, 2)
    parent.widen(2)
    made = [live(parent) for _ in range(count)]
    return made, [child.take_lane() for child in made]


def test_a_lane_goes_to_a_sibling_and_then_back():
    parent = live()
    (first, second, third), got = children(parent, 3)
    assert got == [True, True, False]
    number = first.lane.number
    assert first.leave_lane() is third
    assert third.lane.number == number
    assert third.leave_lane() is None
    assert parent.free_lanes == [number]
    assert second.leave_lane() is None
    assert sorted(parent.free_lanes) == [0, 1]


def test_what_outlives_its_parents_attempt_gives_no_lane_to_the_next():
    parent = live()
    (old, other), _ = children(parent, 2)
    (_, _, waiting), got = children(parent, 3)
    assert got == [True, True, False]
    assert old.leave_lane() is None
    assert waiting.lane is None
    parent.waiting_children.clear()
    assert other.leave_lane() is None
    assert parent.free_lanes == []


class Known:
    """Durations by which any number of attempts may share a slot."""

    def fitting(self, live, seconds):
        return 100

    def short(self, live):
        return True


def test_what_is_tried_again_leads_nobody():
    """It looks first at what it need not repeat: those behind it would begin before it."""
    far = SimpleNamespace(name="far", remote=True, chunk=256, models=None)
    slots = Slots(1, {}, lambda *_: None, [far], lambda *_: 3)
    slots.durations = Known()
    parent = live()
    (first, *_), _ = children(parent, 100)
    assert slots._share(first, far, 4) > 4
    first.row.attempts = 1
    assert slots._share(first, far, 4) == 1
