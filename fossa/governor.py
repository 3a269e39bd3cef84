"""The heart of a node.

The life of a task, from top to bottom of this file: *admit* (checked, recorded, queued), *start*
(slot, executor), *attempt* (run, subtasks), *end* (retried, or recorded, told, settled). Everything
here runs on one event loop and between two awaits nothing else changes a task.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from fossa.admission import ARGUMENTS, Admission
from fossa.composition import Composition
from fossa.contracts import Executor, LiveAttempt, Node, Reservation, SubtaskRequest
from fossa.deliveries import Deliveries
from fossa.errors import (
    DeliveredTooOften,
    FossaError,
    LedgerError,
    NodeStopped,
    NodeStopping,
    NotBegun,
    PluginError,
    QueueFull,
    TaskRefused,
    TooLate,
)
from fossa.guarding import OWNER, Guard, title_of
from fossa.ledger import Ledger
from fossa.live import LiveTask
from fossa.node_log import NodeLog
from fossa.plugins import Hooks
from fossa.retrying import retry_delay
from fossa.settling import Sinks
from fossa.slots import Slot, SlotReservation, Slots
from fossa.state_dir import StateDir
from fossa.supervision import Supervisor
from fossa.tasks import (
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
from fossa.texts import encodable

#: Seconds that a process takes to end once it is killed, at the most.
KILL_DEADLINE = 5.0


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
        self._guard = Guard(self.id, self.logger)
        self._hooks = Hooks(composition.plugins, self.logger, self._guard)
        self._slots = Slots(
            composition.slots,
            composition.models,
            self._start,
            composition.executors,
            self._guard.number,
        )
        self._isolation: str = composition.ISOLATION
        self._live: dict[str, LiveTask] = {}
        self._state_dir = StateDir(composition.state_dir)
        self._ledger = Ledger(self._state_dir.ledger_path)
        #: Admitted tasks on their way into the ledger.
        self._arriving: set[LiveTask] = set()
        #: Idempotency keys whose first submission is being looked at, or whose task is leaving.
        self._claims: dict[str, asyncio.Future[Task | None]] = {}
        self._executors = {e.name: e for e in composition.executors}
        self._owners = {e.name: self._guard.owner(title_of(e)) for e in composition.executors}
        self._supervisors: list[Supervisor] = []
        self._sinks = Sinks(composition.sinks, self._guard)
        self._deliveries = Deliveries(self.logger)
        #: Those that are settled once a required sink takes an outcome after all, by task id.
        self._owing: dict[str, Delivery] = {}
        self._chores: set[asyncio.Task[Any]] = set()
        #: What takes outcomes that are in the ledger to the sinks and the sources, and whose.
        self._settling: dict[asyncio.Task[Any], str] = {}
        self._idle = asyncio.Event()
        #: When a stopping node ceases to wait for its running attempts.
        self._drain_until = float("inf")
        self._state = "new"

    # admit

    async def admit(
        self, delivery: Delivery, reservation: Reservation | None = None
    ) -> tuple[Task, bool]:
        # What is started for a task from here on is the node's, whoever submits.
        caller = OWNER.set(None)
        try:
            return await self._look_at(delivery, reservation)
        finally:
            OWNER.reset(caller)

    def admit_now(self, delivery: Delivery, reservation: Reservation | None = None) -> Task | None:
        caller = OWNER.set(None)
        try:
            self._check_open()
            task = self._admission.task(delivery)
            key = _key_of(task, delivery)
            if not delivery.redelivers or not (key is None or self._is_new(key, delivery)):
                return None
            self._take_in(task, delivery, reservation)
            return task
        finally:
            OWNER.reset(caller)

    async def _look_at(
        self, delivery: Delivery, reservation: Reservation | None
    ) -> tuple[Task, bool]:
        self._check_open()
        task = self._admission.task(delivery)
        key = _key_of(task, delivery)
        if key is None or self._is_new(key, delivery):
            return await self._admit(task, delivery, reservation), True
        return await self._admit_once(key, task, delivery, reservation)

    def _is_new(self, key: str, delivery: Delivery) -> bool:
        """Whether this node surely knows nothing of a delivery's task."""
        if key in self._claims:
            return False
        if delivery.origin is None:
            return self._ledger.is_new(key)
        return key not in self._live and not delivery.again

    async def _admit(self, task: Task, delivery: Delivery, reservation: Reservation | None) -> Task:
        live = self._take_in(task, delivery, reservation)
        if not delivery.redelivers:
            # Whoever submitted may go away now: what is on its way into the ledger gets there.
            self._arriving.add(live)
            self._ledger.committed().add_done_callback(lambda commit: self._durable(live, commit))
            await self._ledger.committed()
        return task

    def _take_in(self, task: Task, delivery: Delivery, reservation: Reservation | None) -> LiveTask:
        """A new task: on its way into the ledger, and queued if it is delivered again otherwise."""
        if delivery.last:
            raise DeliveredTooOften(delivery.last)
        if reservation is None:
            self._check_room()
        if reason := self._hooks.refuse_task(task):
            raise TaskRefused(reason)
        live = LiveTask(task, delivery=delivery)
        self._keep(live, delivery)
        live.reservation = reservation
        self._live[task.id] = live
        self._ledger.insert(task, live.row)
        if delivery.redelivers:
            self._arrived(live)
        return live

    async def _admit_once(
        self, key: str, task: Task, delivery: Delivery, reservation: Reservation | None
    ) -> tuple[Task, bool]:
        """Of several submissions with one key, however close together, the first is admitted."""
        if key in self._claims:
            try:
                known = await asyncio.shield(self._claims[key])
            except DeliveredTooOften:  # the first, that is
                known = None
            if known is None:  # or it has left this node
                return await self._admit_once(key, task, delivery, reservation)
            self._adopt(known, delivery)
            return known, False
        claim = self._claims[key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._known(key, delivery)
            if record and self._is_lost(record):  # or it has ended since this was read
                record = await self._known(key, delivery)
            if record and self._is_lost(record):
                await self._revive(record, delivery)
            known = record.task if record else await self._admit(task, delivery, reservation)
            claim.set_result(known)
        except BaseException as error:
            claim.set_exception(error if isinstance(error, FossaError) else NodeStopped())
            claim.exception()
            raise
        finally:
            del self._claims[key]
        if record is not None:
            self._adopt(known, delivery)
        return known, record is None

    def _is_lost(self, record: Record) -> bool:
        """Whether a task has no outcome in the ledger, and nobody here sees to it."""
        return record.outcome is None and record.task.id not in self._live

    async def _known(self, key: str, delivery: Delivery) -> Record | None:
        """What this node knows already of a delivery's task."""
        if delivery.origin is None:
            return await self._ledger.by_idempotency_key(key)
        live = self._live.get(key)
        if live is not None:
            return live.record()
        return await self._ledger.get(key) if delivery.again else None

    def _adopt(self, task: Task, delivery: Delivery) -> None:
        """A delivery of a task that is known already: it is settled with the task's one outcome."""
        if delivery.ack is None:
            return
        live = self._live.get(task.id)
        if live is not None and live.row.outcome is None:
            self._deliveries.let_go(live.delivery)
            live.delivery = delivery
            self._keep(live, delivery)
            if live.watch is not None and live.row.attempts:
                live.watch.begun(live.row.attempts)
        else:
            self._chore(self._settle_again(task, delivery))

    async def _revive(self, record: Record, delivery: Delivery) -> None:
        """A task that this node lost when it died has come again, or for the `last` time."""
        crashes = await self._ledger.crashes(record.task.id)
        # From here to the delivery's adoption nothing is awaited: nobody can withdraw it between.
        live = LiveTask(record.task, delivery=delivery)
        self._live[live.task.id] = live
        live.row.attempts, live.row.started = record.attempts, record.started
        live.row.crashes = crashes
        if delivery.last:
            self._chore(self._end(live, self._outcome_now(live, Reason.LOST_NODE, delivery.last)))
        else:
            self._take_up(live, lost=record.status is Status.RUNNING)

    def _take_up(self, live: LiveTask, *, lost: bool) -> None:
        """Go on with a task of an earlier boot; `lost`: an attempt was under way."""
        live.row.crashes += lost
        if live.task.model not in self.composition.models:
            text = f"since it was accepted, {live.task.model} is no model of this node any more"
            self._chore(self._end(live, self._outcome_now(live, Reason.REFUSED, text)))
        elif live.row.crashes >= self.composition.CRASH_ATTEMPTS:
            text = f"the node died under it {live.row.crashes} times"
            self._chore(self._end(live, self._outcome_now(live, Reason.LOST_NODE, text)))
        else:
            self._enqueue(live)

    async def _settle_again(self, task: Task, delivery: Delivery) -> None:
        live = LiveTask(task, delivery=delivery)
        self._keep(live, delivery)
        try:
            outcome = await self.outcome(task.id)
            live.row.owed = (await self.record(task.id)).owed
        except FossaError:
            # It has left this node meanwhile, or the ledger cannot be read: whoever has it next
            # settles with its outcome.
            await self._deliveries.give_back(task.id, delivery)
            return
        live.row.outcome = outcome
        if live.row.owed:
            await self._settle(live, outcome)
        else:
            await self._deliveries.acknowledge(task.id, delivery, outcome)

    def _keep(self, live: LiveTask, delivery: Delivery) -> None:
        def over(why: str) -> None:
            if live.delivery is delivery:
                self._cancel(live, why, Reason.LEASE_OVER)

        self._deliveries.keep(delivery, over)

    def _durable(self, live: LiveTask, commit: "asyncio.Future[None]") -> None:
        """A new task is in the ledger, or could not be written to it."""
        self._arriving.discard(live)
        if commit.exception() is not None:
            self._live.pop(live.task.id, None)
            self._deliveries.let_go(live.delivery)
            live.release()
            return
        self._arrived(live)

    def _arrived(self, live: LiveTask) -> None:
        """A new task may begin."""
        self._hooks.observe("fossa_task_accepted", task=live.task)
        if live.cancelling is None and not live.given_back:
            self._enqueue(live)
        live.release()

    def _check_open(self) -> None:
        if self._state in ("new", "stopped"):
            raise NodeStopped
        if self._state == "stopping":
            raise NodeStopping

    def _check_room(self) -> None:
        most = self.composition.MAX_QUEUED_TASKS
        queued = self._slots.queue.top_level + len(self._arriving)
        if most == 0 and self._slots.free - queued < 1:
            raise QueueFull("no slot is free and this node queues no tasks: try later")
        if most and queued >= most:
            raise QueueFull(f"{queued} tasks are queued and MAX_QUEUED_TASKS is {most}: try later")

    def spread(self, parent: LiveTask) -> None:
        self._slots.spread(parent)

    async def reserve(self) -> SlotReservation:
        return await self._slots.reserve()

    def reserve_now(self) -> SlotReservation | None:
        return self._slots.reserve_now()

    async def slot_free(self, free: bool = True) -> None:
        await self._slots.watch(free)

    def look_again(self) -> None:
        if self._state in ("running", "stopping"):
            for live in self._live.values():
                if live.most:
                    self._slots.spread(live)
            self._slots.fill()

    async def withdraw(self, task_id: str, *, begun: bool = False) -> bool:
        live = self._live.get(task_id)
        if live is None or not live.task.redelivered or live.given_back:
            return False
        if live.row.outcome is not None or live.cancelling is not None:
            return False
        if live.runner is not None and begun:
            return await self._withdraw_begun(live, live.runner)
        if live.row.attempts and not begun:
            return False
        if live.timer is not None:
            live.timer.cancel()
        self._slots.remove(live)
        self._forget(live)
        return True

    async def _withdraw_begun(self, live: LiveTask, runner: "asyncio.Task[None]") -> bool:
        """Nobody else should begin it before it has stopped here; nor this node, should it come."""
        config = self.composition
        live.given_back = True
        left = self._claims[live.task.id] = asyncio.get_running_loop().create_future()
        live.interrupt()
        patience = config.INTERRUPT_GRACE + config.TERMINATE_GRACE + KILL_DEADLINE
        try:
            await asyncio.wait([runner], timeout=patience)
            if live.row.outcome is not None:
                return False
            self._forget(live)
            return True
        finally:
            del self._claims[live.task.id]
            left.set_result(None)

    def _forget(self, live: LiveTask) -> None:
        """A task leaves this node without an outcome: its source gives it to somebody else."""
        live.given_back = True
        self._deliveries.let_go(live.delivery)
        self._live.pop(live.task.id, None)
        self._ledger.forget(live.task.id)
        self._idle.set()

    # start

    def _enqueue(self, live: LiveTask) -> None:
        live.timer = None
        live.row.status = Status.QUEUED
        if live.top_level and self._state in ("stopping", "stopped"):
            # As everything that has not begun: it is left to others at once.
            self._slots.leave(live)
            self._chore(self._give_back(live))
            self._idle.set()
            return
        try:
            live.executor = self._choose_executor(live)
        except Exception as error:
            self.logger.exception("task %s: no executor could be chosen", live.task.id)
            self._slots.leave(live)
            text = f"{type(error).__name__}: {error}"
            self._chore(self._end(live, self._outcome_now(live, Reason.EXECUTOR, text)))
            return
        self._slots.enqueue(live)

    def _choose_executor(self, live: LiveTask) -> Executor | None:
        """What a plugin chose; else, for a subtask, None: whoever has room first.

        What has come from another node, or has been on its way to one, stays here.
        """
        name = self._hooks.choose_executor(live.task, self.composition.executors)
        chosen = self._executors[name] if name is not None else None
        if live.near or live.from_afar:
            return chosen if chosen and not chosen.remote else self._slots.near(live)
        if chosen is None and live.top_level:
            return self._slots.near(live)
        return chosen

    def _start(self, live: LiveTask, slot: Slot, executor: Executor) -> None:
        row, task = live.row, live.task
        row.status = Status.RUNNING
        row.attempts += 1
        now = time.time()
        row.started = row.started or now
        model = self.composition.models[task.model]
        if row.attempts > 1:
            live.begin_again()
        live.begun = False
        live.executor = executor
        lane, lanes = live.place()
        live.attempt = Attempt(
            task=task,
            number=row.attempts,
            started=now,
            parallelism=slot.places,
            lane=lane,
            lanes=lanes,
            isolation=model.limits.isolation or self._isolation,
            memory=model.memory or self.composition.memory,
            tenure=slot.tenure,
        )
        self._ledger.update(task.id, row)
        live.runner = asyncio.create_task(self._attempt(live, live.attempt))

    # attempt

    async def _attempt(self, live: LiveTask, attempt: Attempt) -> None:
        live.begun = True
        final = False
        try:
            outcome = await self._execute(live, attempt)
            final = live.executor is not None and live.executor.remote
        except asyncio.CancelledError:
            if live.given_back:
                self._leave(live)
                self._live.pop(live.task.id, None)
                self._idle.set()
                return
            outcome = self._cut_off(live)
        except NotBegun as error:
            self._queue_again(live, error)
            return
        except (Exception, SystemExit) as error:
            self.logger.exception("task %s: its executor failed", live.task.id)
            text = f"{type(error).__name__}: {error}"
            outcome = self._outcome_now(live, Reason.EXECUTOR, text)
        self._slots.durations.learn(live, outcome)
        self._leave(live)
        self._hooks.observe("fossa_attempt_ended", attempt=attempt, outcome=outcome)
        delay = None if final else retry_delay(live, outcome, self.composition)
        if delay is None:
            await self._end(live, outcome)
        else:
            self._attempt_again(live, outcome, delay)

    async def _execute(self, live: LiveTask, attempt: Attempt) -> Outcome:
        """Have its executor run it; what that returns."""
        if live.cancelling is not None or live.given_back:
            raise asyncio.CancelledError
        self._hooks.observe("fossa_attempt_started", attempt=attempt)
        if live.watch is not None:
            live.watch.begun(attempt.number)
        if attempt.number > 1 or live.task.retry_of:
            await self._prepare_again(live)
        executor = live.executor
        assert executor is not None
        OWNER.set(self._owners[executor.name])
        outcome = _outcome(executor, await executor.run(attempt, _Live(self, live)))
        return evolve(outcome, node="") if executor.remote and outcome.node is None else outcome

    def _cut_off(self, live: LiveTask) -> Outcome:
        """How an attempt ended that was cancelled."""
        if live.cancelling is not None:
            return self._outcome_now(live, live.ending, live.cancelling)
        why = "its executor cancelled it, and nobody had asked"
        return self._outcome_now(live, Reason.EXECUTOR, why)

    def _queue_again(self, live: LiveTask, why: NotBegun) -> None:
        """An attempt that was not begun does not count."""
        live.suspect = live.suspect or why.suspect
        live.near = live.near or why.near
        live.row.attempts -= 1
        if not why.near:
            self._slots.durations.forget(live)
        live.runner = None
        if live.given_back:
            self._slots.leave(live)
            self._live.pop(live.task.id, None)
        elif live.cancelling is not None:
            self._slots.leave(live)
            outcome = self._outcome_now(live, live.ending, live.cancelling)
            self._chore(self._end(live, outcome))
        else:
            self._slots.rest(live, fill=False)
            self._enqueue(live)
            self._slots.fill()

    async def _prepare_again(self, live: LiveTask) -> None:
        """For an attempt that is not the first: where its log goes on, what it need not repeat."""
        task = live.task
        live.log_position = max(live.log_position, await self._ledger.last_log_position(task.id))
        if self.composition.models[task.model].partitioned:
            before = [i for i in (task.id, task.retry_of) if i]
            live.finished_keys = await self._ledger.complete_subtasks(before)

    def _leave(self, live: LiveTask) -> None:
        """An attempt is over: its slot is free, and subtasks that nobody waits for stop."""
        live.runner = None
        live.waiting = False
        live.stop_waking()
        for child in list(live.children):
            self._cancel(child, "its parent's attempt ended first")
        self._slots.leave(live)

    def _attempt_again(self, live: LiveTask, outcome: Outcome, delay: float) -> None:
        text = f"attempt {outcome.attempt} ended: {outcome.reason}: {outcome.message}"
        self._note(live, "WARNING", f"{text}; the next begins in {delay:.1f} s")
        live.row.status = Status.QUEUED
        self._ledger.update(live.task.id, live.row)
        if self._state != "running" and live.top_level:
            self._enqueue(live)
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

    def _fork(self, parent: LiveTask, live: LiveTask, refused: str | None) -> None:
        parent.adopt(live)
        done_before = parent.finished_keys and parent.finished_keys.get(live.task.key or "")
        if done_before:
            self._chore(self._deliver_again(parent, live, done_before.pop(), refused))
        else:
            self._take_child(live, refused)

    def _take_child(self, live: LiveTask, refused: str | None) -> None:
        self._live[live.task.id] = live
        self._ledger.insert(live.task, live.row)
        self._hooks.observe("fossa_task_accepted", task=live.task)
        if refused:
            self._chore(self._end(live, self._outcome_now(live, Reason.REFUSED, refused)))
        else:
            self._enqueue(live)

    async def _deliver_again(
        self, parent: LiveTask, live: LiveTask, task_id: str, refused: str | None
    ) -> None:
        """A subtask that is complete since an earlier attempt of its parent: once is enough."""
        try:
            record = await self._ledger.get(task_id)
        except LedgerError:
            record = None
        if record is None or record.outcome is None:  # it was too old to be kept, a moment ago
            if live.cancelling is None:
                self._take_child(live, refused)
            return
        parent.child_ended(live, record.outcome)
        if live.deliver is not None and parent.cancelling is None:
            live.deliver(record.task, record.outcome)

    def rest(self, live: LiveTask) -> None:
        """A model waits for its subtasks: its slot is free for them."""
        live.waiting = True
        self._slots.rest(live)

    async def wake(self, live: LiveTask) -> None:
        """Returns once a waiting parent has a slot again, before anything queued gets one."""
        for child in list(live.children):
            self._cancel(child, "its parent waits for it no more")
        if live.cancelling is None and live.runner is not None:
            live.waking = self._slots.want_back(live)
            await live.waking
        live.waiting = False

    # end

    async def _end(self, live: LiveTask, outcome: Outcome) -> None:
        """A task has its outcome: recorded, told, settled, in this order."""
        task, row = live.task, live.row
        row.status, row.outcome = outcome.status, outcome
        row.progress = live.progress() if live.fraction or live.subtasks else None
        row.owed = bool(self._sinks.required) and live.for_sinks
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
        if live.top_level:
            await self._settle(live, outcome)
        self._idle.set()

    async def _settle(self, live: LiveTask, outcome: Outcome) -> None:
        """The sinks first, then the delivery. A stopping node waits for it as for a live task."""
        settling = asyncio.current_task()
        assert settling is not None
        self._settling[settling] = live.task.id
        try:
            missing = await self._sinks.take(live.task, outcome) if live.for_sinks else ""
            if missing:
                await self._owe(live, outcome, missing)
            else:
                self._paid(live)
                await self._deliveries.acknowledge(live.task.id, live.delivery, outcome)
        finally:
            self._settling.pop(settling, None)

    def _paid(self, live: LiveTask) -> None:
        """Every required sink has its outcome."""
        if live.row.owed:
            live.row.owed = False
            self._ledger.paid(live.task.id)

    async def _owe(self, live: LiveTask, outcome: Outcome, why: str) -> None:
        """A required sink has not: its source knows what to do, or it is offered again later."""
        self._note(live, "ERROR", f"a required sink did not take the outcome: {why}")
        task_id, delivery = live.task.id, live.delivery
        if not await self._deliveries.reject(task_id, delivery, outcome, why) and delivery:
            self._owing[task_id] = delivery

    async def paid_late(self, record: Record) -> None:
        """Every required sink has an outcome that was owed."""
        assert record.outcome is not None
        self._ledger.paid(record.task.id)
        delivery = self._owing.pop(record.task.id, None)
        await self._deliveries.acknowledge(record.task.id, delivery, record.outcome)

    async def _give_back(self, live: LiveTask) -> None:
        """Leave a task to the next boot, or to whoever its source gives it to."""
        live.given_back = True
        if live.timer is not None:
            live.timer.cancel()
        if live.runner is not None:
            live.interrupt()
        else:
            self._live.pop(live.task.id, None)
        if live.task.redelivered and live.delivery is not None:
            self._ledger.forget(live.task.id)
        else:
            live.row.status = Status.QUEUED
            self._ledger.update(live.task.id, live.row)
        for waiter in live.waiters:
            if not waiter.done():
                text = "the node stopped before the task ended; the task is in its ledger"
                waiter.set_exception(NodeStopped(text))
        await self._deliveries.give_back(live.task.id, live.delivery)

    def _outcome_now(self, live: LiveTask, reason: Reason, text: str) -> Outcome:
        status = Status.CANCELLED if reason is Reason.CANCELLED else Status.FAILED
        return Outcome(
            status=status,
            reason=reason,
            message=encodable(text),
            attempt=live.row.attempts,
            started=live.row.started,
            finished=time.time(),
            node="" if live.executor is not None and live.executor.remote else None,
        )

    # ask and order

    async def cancel(self, task_id: str, why: str = "cancelled by request") -> None:
        live = self._live.get(task_id)
        if live is None or live.row.outcome is not None:
            record = await self.record(task_id)
            raise TooLate(f"task {task_id} is {record.status} already; an outcome is final")
        self._cancel(live, why)

    def _cancel(self, live: LiveTask, why: str, ending: Reason = Reason.CANCELLED) -> None:
        if live.cancelling is not None or live.row.outcome is not None or live.given_back:
            return
        live.cancelling, live.ending = why, ending
        for child in list(live.children):
            self._cancel(child, "its parent was cancelled")
        if live.runner is not None:
            live.interrupt()
            return
        if live.timer is not None:
            live.timer.cancel()
        self._slots.remove(live)
        self._chore(self._end(live, self._outcome_now(live, ending, why)))

    async def retry(self, task_id: str) -> Task:
        record = await self.record(task_id)
        if record.outcome is None:
            raise TooLate(f"task {task_id} has not ended: there is nothing to try again yet")
        request = evolve(self.request_for(record.task), retry_of=task_id)
        task, _ = await self.admit(Delivery(request=request, source="retry"))
        return task

    def request_for(self, task: Task) -> Request:
        arguments: dict[str, Any] = {name: task.arguments_of(name) for name in ARGUMENTS}
        return Request(
            model=task.model,
            method=task.method,
            timeout=task.timeout,
            retries=task.retries,
            priority=task.priority,
            **arguments,
        )

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
        if live.watch is not None:
            live.watch.log(lines)
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


def _key_of(task: Task, delivery: Delivery) -> str | None:
    """What a task is known by, should it come again; None: it will not."""
    if task.idempotency_key is None and delivery.origin is not None:
        return task.id
    return task.idempotency_key


def _outcome(executor: Executor, returned: Any) -> Outcome:
    """What an executor returned, if that is an outcome."""
    if isinstance(returned, Outcome):
        return returned
    kind = type(returned).__name__
    raise PluginError(f"{title_of(executor)} returned a {kind}: it should return an Outcome")


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
        if self._live.watch is not None:
            self._live.watch.progress(self._live.progress().fraction, message)

    def planned(self, total: int | None, limit: int, most: int) -> None:
        self._live.plan(total, limit, most)
        self._governor.spread(self._live)

    def subtasks(self, requests: Sequence[SubtaskRequest]) -> None:
        self._governor.fork(self._live, requests)

    def rest(self) -> None:
        self._governor.rest(self._live)

    async def wake(self) -> None:
        await self._governor.wake(self._live)
