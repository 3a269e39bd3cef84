"""The governor against a model of it: whatever happens in whatever order, the invariants hold."""

import asyncio
import contextlib
import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fossa import Executor, Fossa, Outcome, Reason, Status
from fossa.contracts import SubtaskRequest
from fossa.errors import NotBegun, TooLate
from support import TestConfig

SLOTS = 2
ENDS = ["complete", "fails", "crashes", "raises", "unbegun"]


class ByHand(Executor):
    """Attempts end when the test says so, as the test says."""

    chunk = 8

    def __init__(self):
        self.attempts = {}

    async def run(self, attempt, live):
        ended = asyncio.get_running_loop().create_future()
        self.attempts[attempt.task.id] = (attempt, live, ended)
        try:
            return await ended
        finally:
            del self.attempts[attempt.task.id]


class GovernorModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.executor = ByHand()
        self.ended = {}
        self.submitted = []
        self.delivered = []
        self.node = Fossa(TestConfig, EXECUTORS=[self.executor], SLOTS=SLOTS, RETRY_DELAY=0)
        self.do(self.node.start())
        self.governor = self.node.governor
        governor_end = self.governor._end

        async def counted(live, outcome):
            self.ended[live.task.id] = self.ended.get(live.task.id, 0) + 1
            await governor_end(live, outcome)

        self.governor._end = counted

    def do(self, work):
        return self.loop.run_until_complete(work)

    def settle(self):
        """Let everything happen that needs nobody else: commits, call-backs, new attempts."""

        async def quiet():
            for _ in range(3):
                await self.governor._ledger.committed()
                for _ in range(5):
                    await asyncio.sleep(0)

        self.do(quiet())

    def teardown(self):
        self.do(self.node.stop(0))
        self.loop.close()

    def pick(self, data):
        return self.executor.attempts[data.draw(st.sampled_from(sorted(self.executor.attempts)))]

    # what may happen

    @rule(model=st.sampled_from(["Nothing", "Echo"]), priority=st.integers(-2, 2))
    def submit(self, model, priority):
        self.submitted.append(self.do(self.node.submit(model, priority=priority, retries=1)).id)
        self.settle()

    @rule()
    def submit_many_short(self):
        async def several():
            return await asyncio.gather(*(self.node.submit("Echo", "pid") for _ in range(6)))

        self.submitted += [h.id for h in self.do(several())]
        self.settle()

    @precondition(lambda self: self.executor.attempts)
    @rule(data=st.data(), how=st.sampled_from(ENDS))
    def end_an_attempt(self, data, how):
        attempt, _, ended = self.pick(data)
        now = time.time()
        common = {"attempt": attempt.number, "started": now, "finished": now}
        if ended.done():
            return
        if how == "raises":
            ended.set_exception(RuntimeError("the machinery"))
        elif how == "unbegun":
            ended.set_exception(NotBegun())
        elif how == "complete":
            ended.set_result(Outcome(status="complete", reason=Reason.RETURNED, **common))
        else:
            reason = Reason.SIGNAL if how == "crashes" else Reason.EXCEPTION
            ended.set_result(Outcome(status="failed", reason=reason, **common))
        self.settle()

    @precondition(lambda self: self.executor.attempts)
    @rule(data=st.data(), count=st.integers(1, 5), limit=st.integers(1, 3))
    def make_subtasks(self, data, count, limit):
        _, live, ended = self.pick(data)
        if ended.done() or live._live.waiting or live._live.task.depth > 2:
            return

        def deliver(task, outcome):
            self.delivered.append((task.id, outcome))

        async def fork():
            live.planned(count, limit, limit)
            live.rest()
            arguments = b'{"method_kwargs":{"i":1}}'
            live.subtasks([SubtaskRequest("Squares", "square", arguments, deliver)] * count)

        self.do(fork())
        self.settle()

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data):
        with contextlib.suppress(TooLate):
            self.do(self.governor.cancel(data.draw(st.sampled_from(self.submitted))))
        self.settle()

    @rule()
    def reserve_and_release(self):
        async def reserve():
            async with asyncio.timeout(0.001):
                (await self.governor.reserve()).release()

        try:
            self.do(reserve())
        except TimeoutError:
            assert self.governor._slots.free == 0
        self.settle()

    # what must hold

    @invariant()
    def slots_are_held_by_attempts_and_by_nobody_else(self):
        slots = self.governor._slots
        assert len(slots.held) <= SLOTS
        assert not slots.reservations
        for slot in slots.held:
            assert slot.holders
            assert all(live.slot is slot and not live.runner.done() for live in slot.holders)

    @invariant()
    def nothing_waits_while_a_slot_is_free(self):
        slots = self.governor._slots
        assert slots.free == 0 or len(slots.queue) == 0

    @invariant()
    def every_task_ends_once(self):
        assert all(times == 1 for times in self.ended.values())
        for task_id in self.submitted:
            record = self.do(self.governor.record(task_id))
            assert record.status.final == (task_id in self.ended)

    @invariant()
    def a_task_is_known_live_until_it_has_ended(self):
        for live in self.governor._live.values():
            assert live.row.outcome is None
            queued = live in set(self.governor._slots.queue)
            waits = live.parent is not None and live in live.parent.waiting_children
            assert queued or waits or live.runner is not None or live.timer is not None

    @invariant()
    def subtasks_outlive_no_parent_and_keep_to_its_lanes(self):
        for live in self.governor._live.values():
            assert all(child.parent is live for child in live.children)
            if live.limit:
                lanes = {child.lane for child in live.children if child.lane}
                assert len(lanes) + len(live.free_lanes) == live.limit
                assert len({lane.number for lane in lanes}) == len(lanes) <= live.limit
            if live.parent is not None and live.cancelling is None:
                assert live.parent.task.id in self.governor._live

    @invariant()
    def a_retry_is_bounded(self):
        for task_id in self.submitted:
            record = self.do(self.governor.record(task_id))
            assert record.attempts <= 2 + TestConfig.CRASH_ATTEMPTS
            if record.status is Status.COMPLETE:
                assert record.outcome.attempt == record.attempts


TestGovernorModel = GovernorModel.TestCase
TestGovernorModel.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
