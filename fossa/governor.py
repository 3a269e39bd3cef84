"""The heart of a node.

The life of a task, from top to bottom of this file: *admit* (checked, recorded, queued), *start*
(slot, executor), *attempt* (run, subtasks), *end* (retried, or recorded, told, settled). Everything
here runs on one event loop and between two awaits nothing else changes a task.
"""

import asyncio
import logging
import os
import platform
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

from attrs import evolve

from fossa.admission import Admission
from fossa.config import Composition
from fossa.durations import Durations
from fossa.contracts import Executor, LiveAttempt, Node, Reservation, SubtaskRequest
from fossa.errors import (
    FossaError,
    NodeStopped,
    NodeStopping,
    NotBegun,
    QueueFull,
    TaskRefused,
    TooLate,
    UnknownTask,
)
from fossa.housekeeping import housekeep
from fossa.ledger import Ledger
from fossa.live import LiveTask
from fossa.node_log import NodeLog
from fossa.plugins import Hooks
from fossa.settling import Sinks
from fossa.supervision import supervise
from fossa.slots import Slot, SlotReservation, Slots, TaskQueue
from fossa.state_dir import StateDir
from fossa.tasks import (
    POINTLESS_TO_RETRY,
    Attempt,
    Delivery,
    LogLine,
    Outcome,
    Reason,
    Record,
    Request,
    Status,
    Task,
    new_id,
)

#: Seconds before a task whose process died is attempted again.
CRASH_DELAY = 0.5
#: Seconds that a source may take to settle a delivery, or to give it back.
SETTLE_DEADLINE = 10.0


class Governor(Node):
    """Admits tasks, owns the slots, routes to executors, settles, records."""

    def __init__(self, composition: Composition) -> None:
        self.composition = composition
        self.name = composition.node_name
        self.id = new_id()
        self.booted = time.time()
        self._admission = Admission(composition)
        self._log = NodeLog(self.id, composition)
        self.logger: logging.Logger = self._log.logger
        self._hooks = Hooks(composition.plugins, self.logger)
        self._slots = Slots(composition.slots)
        self._durations = Durations(composition.models)
        self._isolation: str = composition.ISOLATION
        self._queue = TaskQueue()
        self._live: dict[str, LiveTask] = {}
        #: Admitted tasks on their way into the ledger.
        self._arriving: set[LiveTask] = set()
        #: Idempotency keys whose first submission is being looked at.
        self._claims: dict[str, asyncio.Future[Task]] = {}
        self._executors = {e.name: e for e in composition.executors}
        #: For tasks and for subtasks, where no plugin chooses: subtasks go far, tasks stay near.
        self._default_executors = [
            min(composition.executors, key=lambda e: e.remote is not remote)
            for remote in (False, True)
        ]
        self._sinks = Sinks(composition.sinks, self.logger)
        self._chores: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        #: When a stopping node ceases to wait for its running attempts.
        self._drain_until = float("inf")
        self._state = "new"

    # boot and stop

    async def start(self) -> None:
        """Open the ledger and the components, take up what an earlier boot left."""
        self._state = "starting"
        self._stack = AsyncExitStack()
        try:
            await self._open()
        except BaseException:
            self._state = "stopped"
            await self._stack.aclose()
            raise
        self._state = "running"
        self._hooks.observe("fossa_node_started", node=self)
        self._fill()

    async def _open(self) -> None:
        stack = self._stack
        stack.callback(self._log.close)
        state_dir = StateDir(self.composition.state_dir)
        stack.callback(state_dir.release)
        state_dir.claim()
        self._ledger = Ledger(state_dir.ledger_path)
        await self._ledger.open()
        stack.push_async_callback(self._ledger.close)
        for component in (*self.composition.sinks, *self.composition.executors):
            stack.push_async_callback(component.close)
            await component.open(self)
        stack.push_async_callback(self._sinks.close)
        await self._recover()
        housekeeper = housekeep(self._ledger, self.composition, self.logger)
        stack.push_async_callback(_stop_task, asyncio.create_task(housekeeper))
        for source in self.composition.sources:
            stack.push_async_callback(source.close)
            await source.open(self)
            running = asyncio.create_task(supervise(source, self, self.logger))
            stack.push_async_callback(_stop_task, running)

    async def _recover(self) -> None:
        """Take up the tasks that an earlier boot left without an outcome."""
        for record, crashes in await self._ledger.unfinished():
            live = LiveTask(record.task)
            live.row.attempts, live.row.crashes = record.attempts, crashes
            live.row.started = record.started
            self._live[live.task.id] = live
            if record.task.parent_id is not None:
                text = "the node died; its parent makes it again"
                self._chore(self._end(live, self._outcome_now(live, Reason.CANCELLED, text)))
                continue
            lost = record.status is Status.RUNNING
            live.row.crashes += lost
            if lost and live.row.crashes >= self.composition.CRASH_ATTEMPTS:
                text = f"the node died under it {live.row.crashes} times"
                self._chore(self._end(live, self._outcome_now(live, Reason.LOST_NODE, text)))
            else:
                self._enqueue(live)

    async def stop(self, timeout: float | None = None) -> None:
        """Drain and close. Returns within the timeout (None: DRAIN_TIMEOUT) and a few seconds.

        No new tasks; queued ones stay in the ledger for the next boot; running ones may finish.
        Called again while it drains, it can only make the first call's time shorter.
        """
        seconds = self.composition.DRAIN_TIMEOUT if timeout is None else timeout
        self._drain_until = min(self._drain_until, time.monotonic() + seconds)
        self._idle.set()
        if self._state in ("stopping", "stopped"):
            return
        self._state = "stopping"
        for live in self._queue:
            if live.task.depth == 0:
                self._queue.remove(live)
                await self._give_back(live)
        for live in list(self._live.values()):
            if live.timer is not None:
                await self._give_back(live)
        while self._live and (left := self._drain_until - time.monotonic()) > 0:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), left)
            except TimeoutError:
                break
        for live in list(self._live.values()):
            await self._give_back(live)
        self._state = "stopped"
        runners = [live.runner for live in self._live.values() if live.runner is not None]
        await self._stack.aclose()
        if runners:
            await asyncio.wait(runners, timeout=5)
        for chore in list(self._chores):
            await _stop_task(chore)
        self._hooks.observe("fossa_node_stopped", node=self)

    async def _give_back(self, live: LiveTask) -> None:
        """Leave a task to the next boot, or to whoever its source gives it to."""
        live.given_back = True
        if live.timer is not None:
            live.timer.cancel()
        if live.runner is not None:
            live.interrupt()
        else:
            self._live.pop(live.task.id, None)
        live.row.status = Status.QUEUED
        self._ledger.update(live.task.id, live.row)
        for waiter in live.waiters:
            if not waiter.done():
                text = "the node stopped before the task ended; the task is in its ledger"
                waiter.set_exception(NodeStopped(text))
        if live.delivery is not None and live.delivery.give_back is not None:
            try:
                async with asyncio.timeout(SETTLE_DEADLINE):
                    await live.delivery.give_back()
            except Exception:
                self.logger.exception("task %s could not be given back", live.task.id)

    # admit

    async def admit(
        self, delivery: Delivery, reservation: Reservation | None = None
    ) -> tuple[Task, bool]:
        self._check_open()
        task = self._admission.task(delivery.request, delivery.source)
        if task.idempotency_key is None:
            return await self._admit(task, delivery, reservation), True
        return await self._admit_once(task.idempotency_key, task, delivery, reservation)

    async def _admit(
        self, task: Task, delivery: Delivery, reservation: Reservation | None
    ) -> Task:
        if reservation is not None:
            reservation.release()
        else:
            self._check_room()
        if reason := self._hooks.refuse_task(task):
            raise TaskRefused(reason)
        live = LiveTask(task, delivery=delivery)
        self._live[task.id] = live
        self._arriving.add(live)
        self._ledger.insert(task, live.row)
        # Whoever submitted may go away now: what is on its way into the ledger gets there.
        self._ledger.committed().add_done_callback(lambda commit: self._durable(live, commit))
        await self._ledger.committed()
        return task

    async def _admit_once(
        self, key: str, task: Task, delivery: Delivery, reservation: Reservation | None
    ) -> tuple[Task, bool]:
        """Of several submissions with one key, however close together, the first is admitted."""
        if key in self._claims:
            return await asyncio.shield(self._claims[key]), False
        claim = self._claims[key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._ledger.by_idempotency_key(key)
            known = record.task if record else await self._admit(task, delivery, reservation)
            claim.set_result(known)
        except BaseException as error:
            claim.set_exception(error if isinstance(error, FossaError) else NodeStopped())
            claim.exception()
            raise
        finally:
            del self._claims[key]
        return known, record is None

    def _durable(self, live: LiveTask, commit: "asyncio.Future[None]") -> None:
        """A new task is in the ledger, or could not be written to it."""
        self._arriving.discard(live)
        if commit.exception() is not None:
            self._live.pop(live.task.id, None)
            return
        self._hooks.observe("fossa_task_accepted", task=live.task)
        if live.cancelling is None and not live.given_back:
            self._enqueue(live)

    def _check_open(self) -> None:
        if self._state in ("new", "stopped"):
            raise NodeStopped
        if self._state == "stopping":
            raise NodeStopping

    def _check_room(self) -> None:
        most = self.composition.MAX_QUEUED_TASKS
        queued = self._queue.top_level + len(self._arriving)
        if most == 0 and self._slots.free - queued < 1:
            raise QueueFull("no slot is free and this node queues no tasks: try later")
        if most and queued >= most:
            raise QueueFull(f"{queued} tasks are queued and MAX_QUEUED_TASKS is {most}: try later")

    async def reserve(self) -> SlotReservation:
        wanted = self._slots.want_reservation()
        self._fill()
        try:
            return await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled():
                wanted.result().release()
            raise

    # start

    def _enqueue(self, live: LiveTask) -> None:
        live.timer = None
        live.row.status = Status.QUEUED
        if live.take_lane():
            self._queue.push(live)
            self._fill()

    def _fill(self) -> None:
        """Give every free slot to whoever is first: a woken parent, a queued task, a source."""
        draining = self._state != "running"
        while self._slots.free > 0:
            if self._slots.wake_one():
                continue
            live = self._queue.pop(subtasks_only=draining)
            if live is not None:
                self._fill_slot(live)
            elif draining or not self._slots.reserve_one(self._fill):
                return

    def _fill_slot(self, live: LiveTask) -> None:
        """Start a task in a slot of its own; short ones of its kind may share it, one by one."""
        slot = self._slots.take()
        share = self._share(live)
        self._start(live, slot)
        for _ in range(share - 1):
            follower = self._follower(live)
            if follower is None:
                return
            self._start(follower, slot)

    def _share(self, live: LiveTask) -> int:
        """How many attempts may share a slot: what is queued is spread over all slots first."""
        if live.suspect or live.task.timeout is not None or not self._durations.short(live):
            return 1
        queued = len(live.parent.waiting_children) if live.lane else len(self._queue)
        most = self._choose_executor(live.task).chunk
        return min(most, self._durations.chunk(live), 1 + queued // self._slots.total)

    def _follower(self, live: LiveTask) -> LiveTask | None:
        """The next in the queue, or of the siblings that wait for a lane, if it is alike."""
        if live.lane is None or live.parent is None:
            follower = self._queue.peek()
            if follower is None or not self._durations.alike(live, follower):
                return None
            return self._queue.pop()
        sibling = live.parent.waiting_child(leave_in=True)
        if sibling is None or not self._durations.alike(live, sibling):
            return None
        live.parent.waiting_child()
        sibling.join_lane(live.lane)
        return sibling

    def _start(self, live: LiveTask, slot: Slot) -> None:
        self._slots.join(slot, live)
        row, task = live.row, live.task
        row.status = Status.RUNNING
        row.attempts += 1
        now = time.time()
        row.started = row.started or now
        model = self.composition.models[task.model]
        if row.attempts > 1:
            live.begin_again()
        live.begun = False
        live.attempt = Attempt(
            task=task,
            number=row.attempts,
            started=now,
            parallelism=self._slots.total,
            lane=live.lane.number if live.lane else None,
            lanes=live.parent.limit if live.parent and live.lane else None,
            isolation=model.limits.isolation or self._isolation,
            memory=model.memory or self.composition.memory,
            tenure=slot.tenure,
        )
        self._ledger.update(task.id, row)
        live.runner = asyncio.create_task(self._attempt(live, live.attempt))

    # attempt

    async def _attempt(self, live: LiveTask, attempt: Attempt) -> None:
        live.begun = True
        try:
            if live.cancelling is not None or live.given_back:
                raise asyncio.CancelledError
            self._hooks.observe("fossa_attempt_started", attempt=attempt)
            if attempt.number > 1 or live.task.retry_of:
                await self._prepare_again(live)
            executor = self._choose_executor(live.task)
            outcome = await executor.run(attempt, _Live(self, live))
        except asyncio.CancelledError:
            if live.given_back:
                self._leave(live)
                self._live.pop(live.task.id, None)
                self._idle.set()
                return
            outcome = self._outcome_now(live, Reason.CANCELLED, live.cancelling or "cancelled")
        except NotBegun as error:
            self._queue_again(live, error.suspect)
            return
        except Exception as error:
            self.logger.exception("task %s: its executor failed", live.task.id)
            text = f"{type(error).__name__}: {error}"
            outcome = self._outcome_now(live, Reason.EXECUTOR, text)
        self._durations.learn(live, outcome)
        self._leave(live)
        self._hooks.observe("fossa_attempt_ended", attempt=attempt, outcome=outcome)
        delay = self._retry_delay(live, outcome)
        if delay is None:
            await self._end(live, outcome)
        else:
            self._attempt_again(live, outcome, delay)

    def _queue_again(self, live: LiveTask, suspect: bool) -> None:
        """An attempt that was not begun does not count."""
        live.suspect = live.suspect or suspect
        live.row.attempts -= 1
        self._durations.forget(live)
        live.runner = None
        self._leave_slot(live)
        if live.given_back:
            self._live.pop(live.task.id, None)
        elif live.cancelling is not None:
            outcome = self._outcome_now(live, Reason.CANCELLED, live.cancelling)
            self._chore(self._end(live, outcome))
        else:
            self._enqueue(live)

    async def _prepare_again(self, live: LiveTask) -> None:
        """For an attempt that is not the first: where its log goes on, what it need not repeat."""
        task = live.task
        live.log_position = max(
            live.log_position, await self._ledger.last_log_position(task.id)
        )
        if self.composition.models[task.model].partitioned:
            before = [i for i in (task.id, task.retry_of) if i]
            live.finished_keys = await self._ledger.complete_subtasks(before)

    def _choose_executor(self, task: Task) -> Executor:
        name = self._hooks.choose_executor(task, self.composition.executors)
        if name is None:
            return self._default_executors[task.depth > 0]
        if name not in self._executors:
            raise FossaError(f"a plugin chose the executor {name!r}, which this node lacks")
        return self._executors[name]

    def _leave(self, live: LiveTask) -> None:
        """An attempt is over: its slot is free, and subtasks that nobody waits for any more stop."""
        live.runner = None
        live.waiting = False
        live.stop_waking()
        for child in list(live.children):
            self._cancel(child, "its parent's attempt ended first")
        self._leave_slot(live)

    def _leave_slot(self, live: LiveTask) -> None:
        self._slots.leave(live)
        sibling = live.leave_lane()
        if sibling is not None:
            self._queue.push(sibling)
        self._fill()

    def _retry_delay(self, live: LiveTask, outcome: Outcome) -> float | None:
        """Seconds to the next attempt, or None where this outcome is the task's."""
        row, config = live.row, self.composition
        if outcome.complete or live.cancelling or outcome.reason in POINTLESS_TO_RETRY:
            return None
        if outcome.reason.crash:
            row.crashes += 1
            return CRASH_DELAY if row.crashes < config.CRASH_ATTEMPTS else None
        failures = row.attempts - row.crashes
        if failures > live.task.retries:
            return None
        delay = min(config.RETRY_MAX_DELAY, config.RETRY_DELAY * 2.0 ** min(failures - 1, 60))
        return float(delay * random.uniform(0.5, 1.0))

    def _attempt_again(self, live: LiveTask, outcome: Outcome, delay: float) -> None:
        text = f"attempt {outcome.attempt} ended: {outcome.reason}: {outcome.message}"
        self._note(live, "WARNING", f"{text}; the next begins in {delay:.1f} s")
        live.row.status = Status.QUEUED
        self._ledger.update(live.task.id, live.row)
        if self._state != "running" and live.task.depth == 0:
            self._chore(self._give_back(live))
            self._idle.set()
            return
        live.timer = asyncio.get_running_loop().call_later(delay, self._enqueue, live)

    # subtasks

    def fork(self, parent: LiveTask, requests: Sequence[SubtaskRequest]) -> None:
        """Subtasks that a running model made."""
        for request in requests:
            if parent.cancelling is not None:
                return
            try:
                task = self._admission.subtask(
                    parent.task, request.model, request.method, request.arguments
                )
                refused = self._hooks.refuse_task(task)
            except TaskRefused as error:
                task = self._admission.unchecked_subtask(
                    parent.task, request.model, request.method, request.arguments
                )
                refused = str(error)
            self._fork(parent, LiveTask(task, parent=parent, deliver=request.deliver), refused)
        self._fill()

    def _fork(self, parent: LiveTask, live: LiveTask, refused: str | None) -> None:
        parent.adopt(live)
        done_before = parent.finished_keys and parent.finished_keys.get(live.task.key or "")
        if done_before:
            self._chore(self._deliver_again(parent, live, done_before.pop()))
            return
        self._live[live.task.id] = live
        self._ledger.insert(live.task, live.row)
        self._hooks.observe("fossa_task_accepted", task=live.task)
        if refused:
            self._chore(self._end(live, self._outcome_now(live, Reason.REFUSED, refused)))
        elif live.take_lane():
            self._queue.push(live)

    async def _deliver_again(self, parent: LiveTask, live: LiveTask, task_id: str) -> None:
        """A subtask that is complete since an earlier attempt of its parent: once is enough."""
        record = await self._ledger.get(task_id)
        assert record is not None and record.outcome is not None
        parent.child_ended(live, record.outcome)
        if live.deliver is not None and parent.cancelling is None:
            live.deliver(record.task, record.outcome)

    def rest(self, live: LiveTask) -> None:
        """A model waits for its subtasks: its slot is free for them."""
        live.waiting = True
        self._slots.leave(live)
        self._fill()

    async def wake(self, live: LiveTask) -> None:
        """Returns once a waiting parent has a slot again, before anything queued gets one."""
        for child in list(live.children):
            self._cancel(child, "its parent waits for it no more")
        if live.cancelling is None:
            live.waking = self._slots.want_back(live)
            self._fill()
            await live.waking
        live.waiting = False

    # end

    async def _end(self, live: LiveTask, outcome: Outcome) -> None:
        """A task has its outcome: recorded, told, settled, in this order."""
        task, row = live.task, live.row
        row.status, row.outcome = outcome.status, outcome
        row.progress = live.progress() if live.fraction or live.subtasks else None
        self._ledger.update(task.id, row)
        try:
            await self._ledger.committed()
        finally:
            self._live.pop(task.id, None)
        if live.parent is not None:
            live.parent.child_ended(live, outcome)
            if live.deliver is not None:
                live.deliver(task, outcome)
        for waiter in live.waiters:
            if not waiter.done():
                waiter.set_result(outcome)
        self._hooks.observe("fossa_task_ended", task=task, outcome=outcome)
        if task.depth == 0:
            await self._sinks.take(task, outcome)
            await self._settle(live, outcome)
        self._idle.set()

    async def _settle(self, live: LiveTask, outcome: Outcome) -> None:
        if live.delivery is None or live.delivery.ack is None:
            return
        try:
            async with asyncio.timeout(SETTLE_DEADLINE):
                await live.delivery.ack(outcome)
        except Exception:
            self.logger.exception("task %s: its delivery could not be settled", live.task.id)

    def _outcome_now(self, live: LiveTask, reason: Reason, text: str) -> Outcome:
        status = Status.CANCELLED if reason is Reason.CANCELLED else Status.FAILED
        return Outcome(
            status=status,
            reason=reason,
            message=text,
            attempt=live.row.attempts,
            started=live.row.started,
            finished=time.time(),
        )

    # ask and order

    async def cancel(self, task_id: str, why: str = "cancelled by request") -> None:
        live = self._live.get(task_id)
        if live is None or live.row.outcome is not None:
            record = await self.record(task_id)
            raise TooLate(f"task {task_id} is {record.status} already; an outcome is final")
        self._cancel(live, why)

    def _cancel(self, live: LiveTask, why: str) -> None:
        if live.cancelling is not None or live.row.outcome is not None or live.given_back:
            return
        live.cancelling = why
        for child in list(live.children):
            self._cancel(child, "its parent was cancelled")
        if live.runner is not None:
            live.interrupt()
            return
        if live.timer is not None:
            live.timer.cancel()
        if self._queue.remove(live):
            self._leave_slot(live)
        self._chore(self._end(live, self._outcome_now(live, Reason.CANCELLED, why)))

    async def retry(self, task_id: str) -> Task:
        record = await self.record(task_id)
        if record.outcome is None:
            raise TooLate(f"task {task_id} has not ended: there is nothing to try again yet")
        request = evolve(self.request_for(record.task), retry_of=task_id)
        task, _ = await self.admit(Delivery(request=request, source="retry"))
        return task

    def request_for(self, task: Task) -> Request:
        from fossa.admission import ARGUMENTS

        return Request(
            model=task.model,
            method=task.method,
            timeout=task.timeout,
            retries=task.retries,
            priority=task.priority,
            **{name: task.arguments_of(name) for name in ARGUMENTS},
        )

    async def record(self, task_id: str) -> Record:
        live = self._live.get(task_id)
        if live is not None:
            return live.record()
        if self._state == "new":
            raise NodeStopped
        record = await self._ledger.get(task_id)
        if record is None:
            raise UnknownTask(f"this node knows no task {task_id!r:.60}")
        return record

    async def page(self, **query: Any) -> list[Record]:
        records = await self._ledger.page(**query)
        lives = self._live
        return [
            lives[r.task.id].refresh(r) if r.task.id in lives else r for r in records
        ]

    async def logs(
        self, task_id: str, after: int = 0, limit: int = 1000
    ) -> list[tuple[int, LogLine]]:
        await self.record(task_id)
        return await self._ledger.logs(task_id, after, limit)

    async def outcome(self, task_id: str) -> Outcome:
        live = self._live.get(task_id)
        if live is not None:
            waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            live.waiters.append(waiter)
            return await waiter
        record = await self.record(task_id)
        if record.outcome is None:
            raise NodeStopped("the node stopped before the task ended; it is in its ledger")
        return record.outcome

    def running(self) -> list[Record]:
        """Tasks that are under way, the longest-running first."""
        live = [v.record() for v in self._live.values() if v.row.status is Status.RUNNING]
        return sorted(live, key=lambda r: r.started or 0.0)

    def status(self) -> dict[str, Any]:
        waiting = sum(v.waiting for v in self._live.values())
        return {
            "name": self.name,
            "id": self.id,
            "title": self.composition.APP_TITLE,
            "state": self._state,
            "booted": self.booted,
            "pid": os.getpid(),
            "versions": {
                "fossa": version("ayeaye-fossa"),
                "ayeaye": version("ayeaye"),
                "python": platform.python_version(),
            },
            "models": sorted(self.composition.models),
            "slots": self._slots.total,
            "slots_free": max(0, self._slots.free),
            "queued": self._queue.top_level,
            "queued_subtasks": len(self._queue) - self._queue.top_level,
            "waiting_parents": waiting,
            "running": sum(len(slot.holders) for slot in self._slots.held),
            "state_dir": str(self.composition.state_dir or ""),
            "not_ready": self.not_ready(),
        }

    def not_ready(self) -> list[str]:
        reasons = [] if self._state == "running" else [f"the node is {self._state}"]
        if self._state == "running" and self._ledger.trouble:
            reasons.append(f"the ledger cannot be written: {self._ledger.trouble}")
        for component in (
            *self.composition.sources,
            *self.composition.executors,
            *self.composition.sinks,
        ):
            if reason := component.ready():
                reasons.append(f"{component.name}: {reason}")
        return reasons

    # small things

    def _note(self, live: LiveTask, level: str, text: str) -> None:
        """A log line of the node's own about a task."""
        line = LogLine(
            time=time.time(),
            level=level,
            stream="node",
            text=text,
            attempt=max(1, live.row.attempts),
        )
        self.write_log(live, [line])

    def write_log(self, live: LiveTask, lines: Sequence[LogLine]) -> None:
        self._ledger.log(live.task.id, live.log_position + 1, lines)
        live.log_position += len(lines)

    def _chore(self, work: Any) -> "asyncio.Task[Any]":
        """A task of asyncio's that the node owns until it is done."""
        chore = asyncio.create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chore_done)
        return chore

    def _chore_done(self, chore: "asyncio.Task[Any]") -> None:
        self._chores.discard(chore)
        if not chore.cancelled() and (error := chore.exception()):
            self.logger.error("the node failed at a chore", exc_info=error)


class _Live(LiveAttempt):
    """What an executor sees of a live task."""

    __slots__ = ("_governor", "_live")

    def __init__(self, governor: Governor, live: LiveTask) -> None:
        self._governor = governor
        self._live = live

    def log(self, lines: Sequence[LogLine]) -> None:
        self._governor.write_log(self._live, lines)

    def progress(self, fraction: float, message: str) -> None:
        self._live.fraction, self._live.message = fraction, message

    def planned(self, total: int | None, limit: int) -> None:
        self._live.plan(total, limit)

    def subtasks(self, requests: Sequence[SubtaskRequest]) -> None:
        self._governor.fork(self._live, requests)

    def rest(self) -> None:
        self._governor.rest(self._live)

    async def wake(self) -> None:
        await self._governor.wake(self._live)


async def _stop_task(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=5)
