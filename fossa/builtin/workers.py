"""The worker processes of a node: how many there are, who has one, when one is replaced."""

import asyncio
import contextlib
import sys
from collections import deque

from fossa.builtin.conversation import Conversation
from fossa.builtin.process import BootedWorker, WorkerProcess, gone, launch_worker
from fossa.composition import Composition
from fossa.contracts import Node
from fossa.errors import ExecutorError
from fossa.tasks import Attempt
from fossa.worker import messages
from fossa.worker.loading import main_of_this_process, reference_to


class Workers:
    """One ready for each slot, one more for each parent that waits."""

    def __init__(self, node: Node) -> None:
        composition = node.composition
        self._composition = composition
        self._logger = node.logger
        self._boot = boot_message(composition)
        self._launch = launch_worker(mark_of(node))
        self._idle: deque[BootedWorker] = deque()
        self._all: set[WorkerProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._wanted: deque[asyncio.Future[BootedWorker]] = deque()
        self._closing = False
        #: Why workers cannot be started, or cannot have every model; None where they can.
        self.trouble: str | None = None

    async def close(self) -> None:
        """End them all; returns once their processes are gone."""
        self._closing = True
        for worker in list(self._all):
            worker.kill()
        for starting in list(self._starting):
            starting.cancel()
        while self._wanted:
            self._wanted.popleft().cancel()
        if self._starting:
            await asyncio.wait(self._starting, timeout=5)
        await gone(self._all)

    async def take(self, _attempt: Attempt) -> BootedWorker:
        """A worker for one conversation: an idle one, or the next that is ready."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended:
                return worker
        wanted: asyncio.Future[BootedWorker] = asyncio.get_running_loop().create_future()
        self._wanted.append(wanted)
        if len(self._starting) < sum(not w.done() for w in self._wanted):
            self._start_one()
        return await wanted

    def put_back(self, worker: BootedWorker, conversation: Conversation) -> None:
        """A conversation is over: its worker waits for the next, or is ended."""
        self._leave_alone(worker)
        if not worker.ended:
            if why := self._why_retire(worker, conversation):
                self._logger.debug("worker %d is ended: %s", worker.pid, why)
                worker.kill()
            else:
                self._offer(worker)
        self.keep_enough()

    def keep_enough(self) -> None:
        """Have a worker ready for each slot, unless each attempt gets its own anyway."""
        if self._closing or self._composition.ISOLATION == "task":
            return
        usable = sum(w.booted and not (w.retired or w.ended) for w in self._all)
        for _ in range(self._composition.slots - usable - len(self._starting)):
            self._start_one()

    def _start_one(self) -> None:
        starting = asyncio.create_task(self._start())
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    async def _start(self) -> None:
        worker = BootedWorker(self._all)
        try:
            problems = await worker.boot(self._launch, [self._boot])
        except Exception as error:
            self._started()
            self._failed(f"a worker process cannot be started: {error}")
            return
        self._started()
        self.trouble = "; ".join(problems) or None
        if self.trouble:
            self._logger.error("workers cannot have every model: %s", self.trouble)
        self._leave_alone(worker)
        if self._closing:
            worker.kill()
        else:
            self._offer(worker)

    def _started(self) -> None:
        """The present task's worker is there, or is not: whoever wants one now waits for others."""
        if (starting := asyncio.current_task()) is not None:
            self._starting.discard(starting)

    def _failed(self, why: str) -> None:
        """Whoever has waited longest is told; the others may still get one."""
        self.trouble = why
        self._logger.error("%s", why)
        while self._wanted:
            wanted = self._wanted.popleft()
            if not wanted.done():
                wanted.set_exception(ExecutorError(why))
                return

    def _offer(self, worker: BootedWorker) -> None:
        while self._wanted:
            wanted = self._wanted.popleft()
            if not wanted.done():
                wanted.set_result(worker)
                return
        self._idle.append(worker)

    def _leave_alone(self, worker: BootedWorker) -> None:
        """Between conversations only its end matters."""
        worker.on_message = worker.on_output = _ignore

        def on_end() -> None:
            with contextlib.suppress(ValueError):
                self._idle.remove(worker)
            self.keep_enough()

        worker.on_end = on_end

    def _why_retire(self, worker: BootedWorker, conversation: Conversation) -> str:
        worker.tasks_run += conversation.joined
        worker.first_rss = worker.first_rss or conversation.rss
        if conversation.retire:
            return conversation.retire
        if conversation.isolation == "task":
            return "the attempt had it to itself"
        if worker.tasks_run >= self._composition.WORKER_MAX_TASKS:
            return "it ran WORKER_MAX_TASKS"
        if conversation.rss - worker.first_rss > self._composition.worker_max_growth:
            return f"it grew to {conversation.rss} bytes"
        # One more than there are slots: the next parent that waits has its subtasks begin at once.
        if self._wanted or len(self._idle) <= self._composition.slots:
            return ""
        return "there are enough"


def mark_of(node: Node) -> str:
    """What is in the environment of every process that a worker of the node starts."""
    return str(node.composition.state_dir or node.id)


def boot_message(composition: Composition) -> messages.Boot:
    """What every worker of a node is told first."""
    main_file, main_module = main_of_this_process()
    resolvers = composition.RESOLVERS
    return messages.Boot(
        path=[p or "." for p in sys.path],
        models=[reference_to(m.cls, m.name) for m in composition.models.values()],
        resolvers=[reference_to(r, f"resolver {i}") for i, r in enumerate(resolvers)],
        secrets=dict(composition.secrets),
        main_file=main_file,
        main_module=main_module,
        max_result_bytes=composition.MAX_RESULT_BYTES,
        max_log_lines=composition.MAX_LOG_LINES,
        max_log_bytes=composition.MAX_LOG_BYTES,
    )


def _ignore(_: object) -> None:
    return None
