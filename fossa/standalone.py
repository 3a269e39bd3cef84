"""A node that has its process to itself: `run_fossa(FossaConfig)` at the bottom of a script.

Unlike an embedded node it owns the process: its signals, its log, its exit status.
"""

import gc
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from fossa.worker.loading import stop_if_importing

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from fossa.config import BaseConfig
    from fossa.embed import Fossa
    from fossa.governor import Governor

    Handler = Callable[[int, FrameType | None], Any] | int | None

#: What a node that could not start leaves as the process's exit status.
EXIT_NOT_STARTED = 2
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
#: New objects after which Python looks for garbage among them; by default it is 700.
_NEW_OBJECTS = 50_000
#: Signals that ask the node to stop.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_fossa(config: "type[BaseConfig]", *, debug: bool = False, **settings: Any) -> None:
    """Run a node until SIGTERM or SIGINT (Ctrl-C), then drain and return.

    A second signal ends the drain at once: what still runs is attempted again by the next boot.
    A script may call this without a `__main__` guard: where a worker process imports the script,
    for the models in it, the import ends here.

    Args:
        config: a subclass of `BaseConfig`.
        debug: run models in this process, one at a time, so that breakpoints work.
        settings: settings that win over the class and the environment.

    Raises:
        SystemExit: with status 2 where the node cannot start; the reason is on standard error.
    """
    stop_if_importing()
    import asyncio

    from fossa.errors import FossaError

    if debug:
        settings["DEBUG"] = True
    try:
        asyncio.run(_run(config, settings))
    except FossaError as error:
        sys.stderr.write(f"fossa: {error}\n")
        raise SystemExit(EXIT_NOT_STARTED) from None


async def _run(config: "type[BaseConfig]", settings: dict[str, Any]) -> None:
    from fossa.embed import Fossa

    node = Fossa(config, stand_alone=True, **settings)
    _set_up_logging(to_stdout=node.composition.LOG_TO_STDOUT)
    signals = Signals()
    with signals:
        await node.start()
        collect_less()
        _announce(node)
        await signals.first.wait()
        await _drain(node, signals)


def collect_less() -> None:
    """Have this process look for garbage less often: a node makes many objects and hardly any.

    What was imported is looked at no more.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


async def _drain(node: "Fossa", signals: "Signals") -> None:
    """Let running tasks finish, unless a second signal comes."""
    import asyncio

    governor = node.governor
    _say_what_is_waited_for(governor)
    drain = asyncio.ensure_future(node.stop())
    hurry = asyncio.ensure_future(signals.second.wait())
    try:
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            governor.logger.warning("stopping now: what still runs is left to the next boot")
            await node.stop(0)
        await drain
    finally:
        hurry.cancel()
    governor.logger.info("the node has stopped")


def _say_what_is_waited_for(governor: "Governor") -> None:
    status = governor.status()
    under_way = status["running"] + status["waiting_parents"]
    patience = f"{governor.composition.DRAIN_TIMEOUT:g} s for {under_way} running"
    governor.logger.info(
        "stopping%s", f": waiting up to {patience}; again to stop now" if under_way else ""
    )


class Signals:
    """SIGTERM and SIGINT, counted while this is entered; the handlers before it come back.

    Python delivers signals to its main thread only: in any other this does nothing.
    """

    def __init__(self) -> None:
        import asyncio

        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._before[number] = signal.getsignal(number)
            self._loop.add_signal_handler(number, self._heard)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            self._loop.remove_signal_handler(number)
            # None: it was set by something other than Python, and cannot be set back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _heard(self) -> None:
        if not self.first.is_set():
            self.first.set()
            return
        self.second.set()
        # Whoever asks for a third time has waited long enough for this program.
        for number in self._before:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)


def _set_up_logging(*, to_stdout: bool) -> None:
    """One line a record on standard output, unless the program has set its logging up itself."""
    import logging

    if not to_stdout:
        # Without any handler, logging would write warnings to standard error.
        logging.getLogger("fossa").addHandler(logging.NullHandler())
        return
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(_LOG_FORMAT, "%Y-%m-%d %H:%M:%S"))
        root.addHandler(handler)
    fossa = logging.getLogger("fossa")
    if fossa.level == logging.NOTSET:
        fossa.setLevel(logging.INFO)


def _announce(node: "Fossa") -> None:
    """Say what is up and where, in the node's log."""
    composition = node.composition
    log = node.governor.logger
    urls = [source.url for source in composition.sources if hasattr(source, "url")]
    where = f"at {' and '.join(urls)}" if urls else "without an address (SOURCES has no HTTP)"
    log.info("node %s is up %s, process %d", composition.node_name, where, os.getpid())
    log.info("models: %s", ", ".join(sorted(composition.models)) or "none: it can run nothing yet")
    log.info("slots: %d; state: %s", composition.slots, composition.state_dir or "in memory only")
    if composition.DEBUG:
        log.info("debug: models run in this process, one at a time")
