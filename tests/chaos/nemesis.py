"""Breaks the fleet as planned, keeps a record of it, and mends it again."""

import asyncio
import os
import signal
import time
from contextlib import suppress

from attrs import define

from chaos.plan import Step
from fossa import FossaError

#: Who is hurt where it is no node.
SUBMITTER = "submitter"


@define(kw_only=True)
class Action:
    """What was done. Times are seconds since the epoch."""

    step: Step
    began: float
    #: When it was undone; of what cannot be, when it was done.
    ended: float
    #: The node that was hurt, or `SUBMITTER`; None where all were.
    node: str | None = None
    #: The process, where it was a worker.
    pid: int | None = None
    #: Why nothing was done; None where something was.
    skipped: str | None = None

    @property
    def kind(self):
        return self.step.kind


class Nemesis:
    """Takes the steps of a plan; each in a task of asyncio's own, as they overlap."""

    def __init__(self, fleet, journal, broker=None, proxies=()):
        self.fleet = fleet
        self.journal = journal
        self.broker = broker
        self.proxies = proxies
        self.actions = []
        #: What did not come back.
        self.failures = []
        #: What is under way.
        self.now = []

    async def run(self, steps):
        """Returns once every step has been taken and undone."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for step in steps:
                await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
                group.create_task(self._take(step))

    async def _take(self, step):
        now = time.time()
        action = Action(step=step, began=now, ended=now, node=self._name(step.node))
        self.actions.append(action)
        label = f"{step.kind} {action.node or ''}".strip()
        self.now.append(label)
        try:
            action.skipped = await getattr(self, step.kind)(step, action)
        except (AssertionError, FossaError) as error:
            self.failures.append(f"{label}: {error}")
        finally:
            self.now.remove(label)
            action.ended = time.time()

    def _name(self, index):
        if index is None:
            return None
        return SUBMITTER if index == len(self.fleet.nodes) else self.fleet.nodes[index].name

    # workers

    async def kill_worker(self, step, action):
        run = self._victim(step)
        if run is None:
            return "nothing was under way"
        action.pid = run.pid
        with suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGKILL)
        return None

    async def pause_worker(self, step, action):
        run = self._victim(step)
        if run is None:
            return "nothing was under way"
        action.pid = run.pid
        with suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGSTOP)
            await asyncio.sleep(step.lasts)
            os.kill(run.pid, signal.SIGCONT)
        return None

    def _victim(self, step):
        """An execution on that node, the processes of a parent's among them."""
        node = self.fleet.nodes[step.node].name
        ours = self.fleet.processes()
        runs = [r for r in self.journal.look().under_way() if r.node == node and r.pid in ours]
        return runs[int(step.pick * len(runs))] if runs else None

    # nodes

    async def kill_node(self, step, action):
        node = self.fleet.nodes[step.node]
        if not node.up:
            return "it was down"
        await node.kill()
        await asyncio.sleep(step.lasts)
        await node.start()
        return None

    async def pause_node(self, step, action):
        node = self.fleet.nodes[step.node]
        if not node.up:
            return "it was down"
        process = node.process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(step.lasts)
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        return None

    # the broker

    async def kill_broker(self, step, action):
        if not self.broker.up:
            return "it was down"
        # A quorum queue that RabbitMQ 3.10 has not written down yet is broken for good by this.
        await asyncio.to_thread(self.broker.wait_for_disk)
        await asyncio.to_thread(self.broker.kill)
        await asyncio.sleep(step.lasts)
        await asyncio.to_thread(self.broker.start)
        return None

    async def pause_broker(self, step, action):
        if not self.broker.up:
            return "it was down"
        self.broker.pause()
        await asyncio.sleep(step.lasts)
        self.broker.resume()
        return None

    # the network

    async def cut(self, step, action):
        return None if self.proxies[step.node].cut() else "there was no connection"

    async def cut_all(self, step, action):
        return None if sum([p.cut() for p in self.proxies]) else "there was no connection"

    async def hold(self, step, action):
        self.proxies[step.node].hold()
        await asyncio.sleep(step.lasts)
        self.proxies[step.node].hold(False)

    async def half_open(self, step, action):
        self.proxies[step.node].blackhole()
        await asyncio.sleep(step.lasts)
        self.proxies[step.node].blackhole(False)

    async def refuse(self, step, action):
        """No new connections, and none of the old ones."""
        self.proxies[step.node].refuse()
        self.proxies[step.node].cut()
        await asyncio.sleep(step.lasts)
        self.proxies[step.node].refuse(False)
