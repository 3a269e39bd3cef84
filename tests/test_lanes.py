"""The lanes of a parent's subtasks, over its attempts."""

from fossa.live import LiveTask
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
