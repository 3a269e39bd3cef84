"""A governor with a life around it: it boots, takes up what was left, answers, drains, closes."""

import asyncio
import contextlib
import os
import platform
import time
from contextlib import AsyncExitStack
from functools import cache
from importlib.metadata import version
from typing import Any

from fossa.contracts import Component
from fossa.errors import FossaError, NodeStopped, PluginError, UnknownTask
from fossa.governor import KILL_DEADLINE, Governor
from fossa.guarding import CLOSE_DEADLINE, GIVE_UP_RUN, OPEN_DEADLINE, title_of
from fossa.housekeeping import housekeep
from fossa.live import LiveTask
from fossa.settling import collect
from fossa.supervision import Supervisor
from fossa.tasks import LogLine, Outcome, Progress, Reason, Record, Status

#: Reading it takes a millisecond, and the pages ask for the status each second.
_version = cache(version)
#: Seconds for which a task that its source redelivers stays in the ledger without an outcome.
REDELIVERY_DEADLINE = 86_400.0


#: What a node tells the others of itself.
FLEET_FIELDS = (
    "name", "id", "booted", "versions", "models", "slots", "slots_free", "running", "queued",
    "state",
)  # fmt: skip


class RunningNode(Governor):
    """One node, from its boot to its stop."""

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
            await self._leave_nothing()
            raise
        self._state = "running"
        self._slots.subtasks_only = False
        self._hooks.observe("fossa_node_started", node=self)
        self._slots.fill()

    async def _open(self) -> None:
        stack = self._stack
        stack.callback(self._state_dir.release)
        self._state_dir.claim()
        await self._ledger.open()
        stack.push_async_callback(self._ledger.close)
        for component in (*self.composition.sinks, *self.composition.executors):
            await self._open_component(component)
        stack.push_async_callback(self._sinks.close)
        stack.push_async_callback(self._deliveries.close)
        await self._recover()
        if self._sinks.required:
            collecting = collect(self._ledger, self._sinks, self._settling.values(), self.paid_late)
            stack.push_async_callback(_stop_task, asyncio.create_task(collecting))
        housekeeper = housekeep(self._ledger, self.composition, self.logger)
        stack.push_async_callback(_stop_task, asyncio.create_task(housekeeper))
        for source in self.composition.sources:
            await self._open_component(source)
            supervisor = Supervisor(source, self, self._guard)
            self._supervisors.append(supervisor)
            stack.push_async_callback(_stop_task, asyncio.create_task(supervisor.run()))

    async def _open_component(self, component: Component) -> None:
        """Open it, to be closed later; what it raises is a `FossaError` that names it."""
        self._stack.push_async_callback(self._close_component, component)
        try:
            await self._guard.call(component, "open", self, within=OPEN_DEADLINE)
        except FossaError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise PluginError(f"{title_of(component)} could not be opened: {text}") from error

    async def _close_component(self, component: Component) -> None:
        """Close it, within a deadline; what goes wrong is told and holds nobody up."""
        try:
            await self._guard.call(component, "close", within=CLOSE_DEADLINE)
        except Exception:
            self.logger.exception("%s could not be closed", title_of(component))

    async def _recover(self) -> None:
        """Take up the tasks that an earlier boot left without an outcome."""
        for record, crashes in await self._ledger.unfinished():
            if record.task.redelivered:
                await self._await_redelivery(record, crashes)
                continue
            live = LiveTask(record.task)
            live.row.attempts, live.row.crashes = record.attempts, crashes
            live.row.started = record.started
            self._live[live.task.id] = live
            if record.task.parent_id is not None:
                text = "the node died; its parent makes it again"
                self._chore(self._end(live, self._outcome_now(live, Reason.CANCELLED, text)))
                continue
            self._take_up(live, lost=record.status is Status.RUNNING)

    async def _await_redelivery(self, record: Record, crashes: int) -> None:
        """Its source hands it over again, to this node or another; in a day it has done so."""
        task = record.task
        if time.time() - task.accepted > REDELIVERY_DEADLINE:
            self._ledger.forget(task.id)
            return
        if record.status is not Status.RUNNING:
            return
        live = LiveTask(task)
        live.row.attempts, live.row.started = record.attempts, record.started
        live.row.crashes = crashes + 1
        live.row.progress = Progress(message="the node died: its source delivers it again")
        live.log_position = await self._ledger.last_log_position(task.id)
        self._note(live, "WARNING", "the node died; whoever gets the task next begins it again")
        self._ledger.update(task.id, live.row)

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
        self._slots.subtasks_only = True
        self.look_again()  # sources that wait for a slot, or listen while there is one, hear of it
        await self._drain()
        for live in list(self._live.values()):
            await self._give_back(live)
        self._state = "stopped"
        runners = [live.runner for live in self._live.values() if live.runner is not None]
        await self._settle_no_more()
        await self._stack.aclose()
        if runners:
            await asyncio.wait(runners, timeout=KILL_DEADLINE)
        for chore in list(self._chores):
            await _stop_task(chore)
        self._hooks.observe("fossa_node_stopped", node=self)
        await self._leave_nothing()

    async def _settle_no_more(self) -> None:
        """What sinks and sources have not taken until now is theirs to finish while they close."""
        settling = list(self._settling)
        for task in settling:
            task.cancel()
        if settling:
            await asyncio.wait(settling, timeout=KILL_DEADLINE)

    async def _leave_nothing(self) -> None:
        await self._guard.sweep()
        await self._log.close()

    async def _drain(self) -> None:
        """Let what runs come to its end; what has not begun is left to others at once."""
        for live in list(self._live.values()):
            if live.top_level and live.runner is None and live.row.outcome is None:
                self._slots.drop(live)
                await self._give_back(live)
        while (self._live or self._settling) and (left := self._drain_until - time.monotonic()) > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), left)

    # answers

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
        return [lives[r.task.id].refresh(r) if r.task.id in lives else r for r in records]

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
            try:
                return await waiter
            finally:
                if waiter.cancelled():
                    live.waiters.remove(waiter)
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
                "fossa": _version("ayeaye-fossa"),
                "ayeaye": _version("ayeaye"),
                "python": platform.python_version(),
            },
            "models": sorted(self.composition.models),
            "slots": self._slots.total,
            "slots_free": max(0, self._slots.free),
            "queued": self._slots.queue.top_level,
            "queued_subtasks": len(self._slots.queue) - self._slots.queue.top_level,
            "waiting_parents": waiting,
            "running": sum(len(slot.holders) for slot in self._slots.held),
            "state_dir": str(self.composition.state_dir or ""),
            "not_ready": self.not_ready(),
        }

    def fleet(self) -> list[dict[str, Any]]:
        status = self.status()
        mine = {name: status[name] for name in FLEET_FIELDS}
        nodes = {self.id: mine | {"last_seen": time.time(), "this": True}}
        parts = self.composition
        for component in (*parts.sources, *parts.executors, *parts.sinks):
            for node in self._guard.ask(component, "fleet", otherwise=()) or ():
                nodes.setdefault(node["id"], {**node, "this": False})
        return list(nodes.values())

    def not_ready(self) -> list[str]:
        reasons = [] if self._state == "running" else [f"the node is {self._state}"]
        if self._state == "running" and self._ledger.trouble:
            reasons.append(f"the ledger cannot be written: {self._ledger.trouble}")
        parts = self.composition
        components = (*parts.sources, *parts.executors, *parts.sinks)
        reasons += [f"{c.name}: {why}" for c in components if (why := self._ready(c))]
        reasons += [one.trouble for one in self._supervisors if one.trouble]
        return reasons + self._sinks.troubles

    def _ready(self, component: Component) -> Any:
        def failed(error: Exception) -> str:
            return f"ready() raised {type(error).__name__}: {error}"

        return self._guard.ask(component, "ready", otherwise=failed)


async def _stop_task(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=2 * GIVE_UP_RUN + 1)
