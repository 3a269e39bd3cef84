"""Who takes part: one pluggy manager a node, entry points looked up with stevedore.

The only module that imports either.
"""

import asyncio
import difflib
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
from attrs import frozen

from fossa import hookspecs
from fossa.errors import PluginError
from fossa.guarding import BLOCKED, OWNER, Guard

#: Entry-point groups, by what the config calls them.
GROUPS = {
    "SOURCES": "fossa.sources",
    "EXECUTORS": "fossa.executors",
    "SINKS": "fossa.sinks",
    "PLUGINS": "fossa.plugins",
}


#: Set to anything but 0 in the environment, each call of a hook is a line in the node's log.
TRACE = "FOSSA_TRACE_HOOKS"
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("fossa_"))


def installed(group: str) -> list[str]:
    """Names of the entry points in a group."""
    return sorted({point.name for point in entry_points(group=group)})


@frozen
class Installed:
    """One entry point, as it is installed."""

    group: str
    name: str
    #: What it leads to: `module:attribute`.
    value: str
    #: Name and version of the distribution that it comes with; empty where nobody knows.
    distribution: str
    #: The hooks that it implements (fossa.plugins only).
    hooks: tuple[str, ...] = ()
    #: Why it cannot be loaded; empty where it can.
    trouble: str = ""


def survey(groups: Iterable[str]) -> list[Installed]:
    """Everything that is installed in some entry-point groups, each loaded if that can be."""
    found = [point for group in groups for point in entry_points(group=group)]
    return sorted(map(_surveyed, found), key=lambda one: (one.group, one.name))


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else ""


def _is_ambiguous(group: str, name: str) -> bool:
    """Whether the entry points of one name lead to different things."""
    return len({point.value for point in entry_points(group=group, name=name)}) > 1


def _origins(group: str, name: str) -> str:
    """Where the entry points of one name come from, as text."""
    found = entry_points(group=group, name=name)
    return " and ".join(sorted({_distribution(point) or point.value for point in found}))


def _surveyed(point: EntryPoint) -> Installed:
    facts = (point.group, point.name, point.value, _distribution(point))
    if _is_ambiguous(point.group, point.name):
        origins = _origins(point.group, point.name)
        trouble = f"several have this name, from {origins}: uninstall all but one"
        return Installed(*facts, trouble=trouble)
    try:
        thing = point.load()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Installed(*facts, trouble=f"{type(error).__name__}: {error}")
    hooks = [name for name in HOOKS if hasattr(getattr(thing, name, None), "fossa_impl")]
    return Installed(*facts, hooks=tuple(hooks) if point.group == GROUPS["PLUGINS"] else ())


def look_up(group: str, name: str) -> Any:
    """The object behind an entry point. Raises `PluginError` where it is missing or broken."""
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    class Driver(DriverManager):  # type: ignore[misc]
        """Reads what is installed now: stevedore's own list is as old as this process, or older."""

        def list_entry_points(self) -> list[EntryPoint]:
            return list({p.name + p.value: p for p in entry_points(group=group)}.values())

    # stevedore loads them all before it refuses, and its refusal fails where they are no classes.
    if _is_ambiguous(group, name):
        raise PluginError(
            f"{name!r} is the name of several installed plugins in {group}, from "
            f"{_origins(group, name)}: uninstall all but one"
        )
    failures: list[str] = []

    def failed(_manager: Any, point: Any, error: BaseException) -> None:
        failures.append(f"{point.value}: {type(error).__name__}: {error}")

    try:
        with _quiet("stevedore"):
            return Driver(group, name, on_load_failure_callback=failed).driver
    except SystemExit as error:
        raise PluginError(f"{name!r} of {group} cannot be loaded: SystemExit: {error}") from None
    except (NoMatches, RuntimeError):
        if failures:
            raise PluginError(f"{name!r} of {group} cannot be loaded: {failures[0]}") from None
        raise PluginError(f"{name!r} is not installed in {group}{nearest(name, group)}") from None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """What a library raises it need not log too; how the host logs stays as it was."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def nearest(name: str, group: str) -> str:
    """What to say of the names that are there."""
    names = installed(group)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": there is {', '.join(map(repr, names))}" if names else ": nothing is"


_clock = time.perf_counter
#: What a hook may raise without harm to the node; `sys.exit` in it is no reason to leave.
RAISED = (Exception, SystemExit, asyncio.CancelledError)


@frozen
class _Implementation:
    """One plugin's function for one hook."""

    plugin: str
    #: Takes all of the hook's arguments, by name.
    function: Callable[..., Any]
    #: What `OWNER` is meanwhile: whose they are is known to the tasks that it starts.
    owner: tuple[str, str]


def _taking_all(hook: str, found: pluggy.HookImpl) -> Callable[..., Any]:
    """A function that takes all of a hook's arguments, for one that may leave out some."""
    wanted, function = set(found.argnames), found.function
    if wanted == set(inspect.signature(getattr(hookspecs, hook)).parameters):
        return function

    def taking_all(**about: Any) -> Any:
        return function(**{name: value for name, value in about.items() if name in wanted})

    return taking_all


class Hooks:
    """One node's plugins, and the calls to them."""

    def __init__(
        self, plugins: Sequence[tuple[str, Any]], logger: logging.Logger, guard: Guard | None = None
    ) -> None:
        self._logger = logger
        self._guard = guard or Guard("", logger)
        self._manager = pluggy.PluginManager("fossa")
        self._manager.add_hookspecs(hookspecs)
        for name, plugin in plugins:
            self._register(name, plugin)
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"a plugin implements a hook that does not exist: {error}") from None
        self._tracing = os.environ.get(TRACE, "0") not in ("", "0")
        self._called = {name: self._implementations(name) for name in HOOKS}

    def _register(self, name: str, plugin: Any) -> None:
        try:
            self._manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"the plugin {name!r} cannot be registered: {error}") from None
        callers = self._manager.get_hookcallers(plugin)
        if not callers:
            raise PluginError(
                f"the plugin {name!r} implements no hook: mark its functions with @fossa.hookimpl"
            )
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if inspect.iscoroutinefunction(implementation.function):
                    raise PluginError(
                        f"{caller.name} of the plugin {name!r} is an async function: hooks are "
                        "plain functions; start a task in it if you must wait"
                    )
                if implementation.hookwrapper or implementation.wrapper:
                    raise PluginError(
                        f"{caller.name} of the plugin {name!r} is a wrapper: hooks are plain "
                        "functions that are called one by one, and none is around another"
                    )

    def _implementations(self, hook: str) -> "list[_Implementation]":
        """The first to be called first."""
        found = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        return [self._implementation(hook, f) for f in found]

    def _implementation(self, hook: str, found: pluggy.HookImpl) -> "_Implementation":
        plugin, function = found.plugin_name, _taking_all(hook, found)
        if self._tracing:
            function = self._traced(hook, plugin, function)
        owner = self._guard.owner(f"plugin {plugin}")
        return _Implementation(plugin, function, owner)

    def _call(self, hook: str, one: "_Implementation", about: dict[str, Any]) -> Any:
        """Call one plugin, and tell where it blocked the node."""
        began, token = _clock(), OWNER.set(one.owner)
        try:
            return one.function(**about)
        finally:
            OWNER.reset(token)
            if (took := _clock() - began) > BLOCKED:
                self._guard.blocked(one.owner[1], hook, took)

    def _traced(self, hook: str, plugin: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def traced(**about: Any) -> Any:
            said, began = "raised", time.perf_counter()
            try:
                result = function(**about)
                said = f"returned {result!r:.200}"
                return result
            finally:
                took = (time.perf_counter() - began) * 1000
                self._logger.info("plugin %s: %s %s in %.3f ms", plugin, hook, said, took)

        return traced

    def choose_executor(self, task: Any, executors: Sequence[Any]) -> str | None:
        """The first plugin's choice, or None. Raises `PluginError` where that is none."""
        hook = "fossa_choose_executor"
        for one in self._called[hook]:
            chosen = self._decided(hook, one, {"task": task, "executors": executors})
            if chosen is None:
                continue
            if not any(executor.name == chosen for executor in executors):
                raise PluginError(
                    f"the plugin {one.plugin!r} chose the executor {chosen!r:.100}, which this "
                    "node lacks"
                )
            return chosen
        return None

    def refuse_task(self, task: Any) -> str | None:
        """The first reason that a plugin gives, or None. A check that fails is a reason."""
        hook = "fossa_refuse_task"
        for one in self._called[hook]:
            try:
                reason = self._decided(hook, one, {"task": task})
            except PluginError as error:
                return str(error)
            if reason:
                return reason
        return None

    def _decided(self, hook: str, one: "_Implementation", about: dict[str, Any]) -> str | None:
        """What a plugin decides; a `PluginError` that names it where it does not."""
        try:
            decision = self._call(hook, one, about)
        except RAISED as error:
            self._logger.exception("plugin %s: %s raised", one.plugin, hook)
            text = f"{type(error).__name__}: {error}"
            raise PluginError(f"the plugin {one.plugin!r} failed at {hook}: {text}") from error
        if decision is None or isinstance(decision, str):
            return decision
        self._guard.odd(f"plugin {one.plugin}", hook, decision, "text or None")
        raise PluginError(
            f"the plugin {one.plugin!r} returned a {type(decision).__name__} from {hook}: it "
            "should be text or None"
        )

    def observe(self, hook: str, **event: Any) -> None:
        """Tell every observer, one by one: one that raises is logged and hurts nobody."""
        for one in self._called[hook]:
            # As in `_call`, without a frame of its own: this runs four times for each task.
            began, token = _clock(), OWNER.set(one.owner)
            try:
                if (said := one.function(**event)) is not None:
                    self._guard.odd(f"plugin {one.plugin}", hook, said, "None")
            except RAISED:
                self._logger.exception("plugin %s: %s raised", one.plugin, hook)
            finally:
                OWNER.reset(token)
                if (took := _clock() - began) > BLOCKED:
                    self._guard.blocked(one.owner[1], hook, took)
