"""Fresh processes for a subprocess executor: one for each attempt, with one model imported."""

import asyncio
import re
import shlex
from pathlib import Path

from fossa.builtin.boots import Boots
from fossa.builtin.cgroups import Cgroup, not_usable
from fossa.builtin.conversation import Conversation
from fossa.builtin.fresh import FreshWorker
from fossa.builtin.launching import Launcher
from fossa.builtin.process import BootedWorker, WorkerProcess, gone
from fossa.builtin.subprocess_options import Options
from fossa.builtin.workers import mark_of
from fossa.contracts import Node
from fossa.errors import ConfigError, ExecutorError
from fossa.tasks import Attempt
from fossa.worker.identity import this_place, versions
from fossa.worker.messages import Boot

#: What says that an interpreter lacks something which each attempt needs.
_LACKS = re.compile(r"No module named '?(fossa|msgspec|ayeaye)\b")


class FreshWorkers:
    """Starts a process when an attempt has its slot, and ends it with the attempt."""

    def __init__(self, options: Options, node: Node) -> None:
        self._options = options
        self._logger = node.logger
        models = node.composition.models.values()
        self._limits_memory = bool(node.composition.memory or any(m.memory for m in models))
        self._launcher = Launcher(options, mark_of(node))
        self._boots = Boots(options, node.composition, mark_of(node))
        self._bounds = self._boots.bounds()
        self._boot_of: dict[str, Boot] = {}
        self._place = this_place() if options.prefix else ""
        self._advice = ""
        self._all: set[WorkerProcess] = set()
        self._closing = False
        #: Why a model cannot be run, by its name.
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str | None:
        return "; ".join(self._troubles.values()) or None

    async def open(self) -> None:
        """Start a process as an attempt would have it, with every model, and end it.

        Raises:
            ConfigError: there can be none. A model that it cannot have is `trouble`.
        """
        await asyncio.to_thread(self._launcher.prepare)
        self._look_at_cgroup()
        here = await asyncio.to_thread(versions)
        self._command = shlex.join([*self._options.prefix, self._launcher.python])
        own = here["ayeaye-fossa"]
        self._advice = f"install this node's version there: {self._command} -m pip install " + (
            f"ayeaye-fossa=={own}" if own else "ayeaye-fossa"
        )
        worker = self._worker(None)
        try:
            problems = await self._booted(worker, self._boots.of(self._boots.names), "versions")
        except ExecutorError as error:
            raise ConfigError(self._options.place, [str(error)]) from error
        finally:
            await self._end(worker)
        self._compare(here, worker.greeting.versions if worker.greeting else {})
        for problem in problems:
            self._troubles[problem.partition(":")[0]] = problem
            self._logger.error("executor %s: %s", self._options.name, problem)

    async def take(self, attempt: Attempt, /) -> BootedWorker:
        model = attempt.task.model
        boot = self._boot_of.get(model) or self._boot_of.setdefault(model, self._boots.of([model]))
        worker = self._worker(attempt.memory)
        try:
            if problems := await self._booted(worker, boot):
                raise ExecutorError("; ".join(problems))
            if self._closing:
                raise ExecutorError("the executor is closed")
        except ExecutorError as error:
            self._troubles[model] = str(error)
            worker.kill()
            raise
        except BaseException:
            worker.kill()
            raise
        self._troubles.pop(model, None)
        return worker

    def put_back(self, worker: BootedWorker, conversation: Conversation) -> None:
        assert isinstance(worker, FreshWorker)
        if not worker.ended:
            worker.clean = not conversation.retire
            worker.kill()

    async def close(self) -> None:
        self._closing = True
        for worker in list(self._all):
            worker.kill()
        await gone(self._all)

    async def _end(self, worker: FreshWorker) -> None:
        worker.kill()
        await gone(self._all)

    def _worker(self, memory: int | None) -> FreshWorker:
        root, cpus = self._options.cgroup, self._options.cpus
        cgroup = None if root is None else Cgroup(Path(root), memory, cpus)
        return FreshWorker(self._all, self._place, self._advice, cgroup)

    async def _booted(self, worker: FreshWorker, boot: Boot, *asked: str) -> list[str]:
        """Start a worker; returns what it could not import. Raises ExecutorError."""
        seconds = self._options.start_timeout
        try:
            launch = self._launcher.launch(*asked)
            return [
                f"{problem}{self._remedy(problem)}"
                for problem in await worker.boot(launch, [self._bounds, boot], seconds)
            ]
        except TimeoutError:
            why = f"it was not ready after start_timeout={seconds:g} s"
        except (OSError, RuntimeError) as error:
            why = str(error)
        raise ExecutorError(f"{self._command} cannot run attempts: {why}{self._remedy(why)}")

    def _remedy(self, problem: str) -> str:
        lacks = _LACKS.search(problem)
        return f". It lacks {lacks[1]}: {self._advice}" if lacks else ""

    def _look_at_cgroup(self) -> None:
        root = self._options.cgroup
        if root is None:
            return
        controllers = ["memory"] if self._limits_memory else []
        if self._options.cpus is not None:
            controllers.append("cpu")
        if why := not_usable(Path(root), controllers):
            raise ConfigError(self._options.place, [f"cgroup is {str(root)!r}: it {why}"])

    def _compare(self, here: dict[str, str | None], there: dict[str, str | None]) -> None:
        """Name the differences between what is installed there and here."""
        differences = [
            f"{name} {there[name]} where the node has {version}"
            for name, version in here.items()
            if version and there.get(name) not in (None, version)
        ]
        if differences:
            text = ", ".join(differences)
            self._logger.warning("executor %s: %s has %s", self._options.name, self._command, text)
