"""A checked config: every model and component that a node is made of, or every mistake at once."""

import inspect
import logging
import math
import os
import re
import socket
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from fossa.config import BaseConfig, Limits, Use
from fossa.contracts import Component, Executor, Sink, Source
from fossa.errors import ConfigError, PluginError
from fossa.plugins import GROUPS, Hooks, look_up
from fossa.settings import Settings, did_you_mean, fits, hint_name, is_loopback
from fossa.worker.loading import ayeaye_base, main_of_this_process, runnable_methods

logger = logging.getLogger("fossa")

#: Bytes that an attempt's memory limit may be at the least: with less no Python starts.
LEAST_MEMORY = 1 << 20
#: Attempts at once, for each CPU, where the config does not say.
CPU_TASK_RATIO = 2
_LIMITS = typing.get_type_hints(Limits)
_LIMIT_RANGES = (("timeout", 0.001, 10**9), ("retries", 0, 1000), ("priority", -100, 100))


@frozen(kw_only=True)
class Model:
    """An accepted model class, and what its tasks may take."""

    name: str
    cls: type
    #: Methods that a task may name.
    methods: frozenset[str]
    partitioned: bool
    limits: Limits
    #: `limits.memory` in bytes.
    memory: int | None


def _names(components: tuple[Component, ...]) -> str:
    """For a repr: a component's own might show what it was given."""
    return repr([component.name for component in components])


@frozen(kw_only=True)
class Composition:
    """A checked config: what a node is made of."""

    #: Where the config was written.
    place: str
    #: Every setting, by name, with secrets still hidden.
    settings: Mapping[str, Any] = field(repr=False)
    models: Mapping[str, Model]
    sources: tuple[Source, ...] = field(repr=_names)
    executors: tuple[Executor, ...] = field(repr=_names)
    sinks: tuple[Sink, ...] = field(repr=_names)
    #: (name, object) of each further plugin.
    plugins: tuple[tuple[str, Any], ...] = field(repr=lambda plugins: repr([p[0] for p in plugins]))
    #: Named secrets for the resolver, revealed.
    secrets: Mapping[str, str] = field(repr=False)
    node_name: str
    slots: int
    state_dir: Path | None
    memory: int | None
    worker_max_growth: int
    http_token: str | None = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        settings = object.__getattribute__(self, "settings")
        if name in settings:
            return settings[name]
        raise AttributeError(name)


def compose(
    config: type[BaseConfig], *, stand_alone: bool = False, **overrides: Any
) -> Composition:
    """Check a config class and everything it names.

    Args:
        config: a subclass of `BaseConfig`.
        stand_alone: whether the node has its process to itself: it then serves HTTP by default.
        overrides: settings that win over the class and the environment.

    Raises:
        ConfigError: with every mistake.
    """
    if not (inspect.isclass(config) and issubclass(config, BaseConfig)):
        what = config if inspect.isclass(config) else type(config)
        raise ConfigError(
            "the config",
            [f"{what.__name__} is not a subclass of fossa.BaseConfig (the class, no instance)"],
        )
    return _Composer(config, stand_alone, Settings(config, overrides)).compose()


class _Composer:
    """Makes what the settings name, and goes on where one of them is wrong."""

    def __init__(self, config: type[BaseConfig], stand_alone: bool, settings: Settings) -> None:
        self._config = config
        self._stand_alone = stand_alone
        self._settings = settings
        self._wrong = settings.wrong

    def compose(self) -> Composition:
        settings = self._settings
        place = f"{self._config.__module__}.{self._config.__qualname__}"
        parts: dict[str, Any] = {
            "secrets": self._secrets(),
            "http_token": self._token(),
            "models": self._models(),
            "sources": self._components("SOURCES", Source),
            "executors": self._components("EXECUTORS", Executor),
            "sinks": self._components("SINKS", Sink),
            "plugins": self._plugins(),
            "slots": self._slots(),
            "memory": settings.size("MEMORY_LIMIT", settings["MEMORY_LIMIT"], LEAST_MEMORY),
            "worker_max_growth": settings.size(
                "WORKER_MAX_GROWTH", settings["WORKER_MAX_GROWTH"], 0
            ),
            "state_dir": self._state_dir(),
        }
        self._check_members()
        self._check_routes(parts["executors"], parts["models"])
        for setting in ("SOURCES", "EXECUTORS", "SINKS"):
            self._check_components(setting, parts[setting.lower()], parts["models"])
        if mistakes := settings.mistakes():
            raise ConfigError(place, mistakes)
        name = settings["NODE_NAME"] or socket.gethostname()
        return Composition(place=place, settings=settings.hidden(), node_name=name, **parts)

    # single settings

    def _secrets(self) -> dict[str, str | None]:
        secrets = self._settings["SECRETS"]
        for name in secrets:
            if not isinstance(name, str):
                self._wrong(f"SECRETS has the name {name!r:.50}: it should be text")
        return {k: self._settings.revealed(f"SECRETS[{k!r}]", v) for k, v in secrets.items()}

    def _token(self) -> str | None:
        settings = self._settings
        host, value = settings["HTTP_HOST"], settings["HTTP_TOKEN"]
        token = None if value is None else settings.revealed("HTTP_TOKEN", value)
        if token is not None and len(token) < 16:
            self._wrong("HTTP_TOKEN is shorter than 16 characters: make a longer one")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]*", token):
            self._wrong("HTTP_TOKEN has characters that no header can carry: use visible ASCII")
        if value is None and not is_loopback(host) and not settings["HTTP_WITHOUT_TOKEN"]:
            self._wrong(
                f"HTTP_HOST is {host!r}, which other computers can reach: set HTTP_TOKEN, or set "
                "HTTP_WITHOUT_TOKEN = True if the network is guarded otherwise"
            )
        return token

    def _slots(self) -> int:
        slots: int | None = self._settings["SLOTS"]
        ratio = self._ratio()
        if self._settings["DEBUG"]:
            return 1
        return slots if slots is not None else max(1, math.ceil(_cpus() * ratio))

    def _ratio(self) -> float:
        runtime = self._settings["RUNTIME"]
        for key in runtime:
            if key != "CPU_TASK_RATIO":
                self._wrong(f"RUNTIME has {key!r:.50}: the only key it may have is CPU_TASK_RATIO")
        ratio = runtime.get("CPU_TASK_RATIO", CPU_TASK_RATIO)
        if fits(ratio, float) and 0 < ratio <= 1000:
            return float(ratio)
        self._wrong('RUNTIME["CPU_TASK_RATIO"] should be a number above 0, up to 1000')
        return CPU_TASK_RATIO

    def _state_dir(self) -> Path | None:
        if self._settings["LEDGER"] is None:
            return None
        try:
            return self._named_state_dir() or self._usual_state_dir()
        except RuntimeError as error:
            self._wrong(f"STATE_DIR is needed: {error}")
            return None

    def _named_state_dir(self) -> Path | None:
        named = self._settings["STATE_DIR"]
        return None if named is None else Path(named).expanduser().absolute()

    def _usual_state_dir(self) -> Path:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        stem = self._config.__module__
        if stem == "__main__":
            file, _ = main_of_this_process()
            stem = Path(file).stem if file else "interactive"
        name = f"{stem}-{self._config.__name__}-{self._settings['HTTP_PORT']}"
        return Path(home).absolute() / "fossa" / re.sub(r"[^\w.-]", "_", name)

    def _check_members(self) -> None:
        def has_write(member: Any) -> bool:
            return callable(getattr(member, "write", None))

        checks: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
            ("RESOLVERS", callable, "a function of the text to resolve"),
            ("HTTP_ALLOWED_HOSTS", lambda host: isinstance(host, str), "text"),
            ("EXTERNAL_LOGGERS", has_write, "an object with write(msg, level)"),
        )
        for setting, fine, wanted in checks:
            for member in self._settings[setting]:
                if not fine(member):
                    self._wrong(f"{setting} has a {type(member).__name__}: it should be {wanted}")

    def _check_routes(self, executors: tuple[Executor, ...], models: Mapping[str, Model]) -> None:
        """Whether each model has its executor, among the local ones."""
        local = [executor for executor in executors if not executor.remote]
        named: dict[str, Executor] = {}
        for executor in local:
            for name in executor.models or ():
                if name not in models:
                    self._wrong(
                        f"EXECUTORS: {executor.name} is for the model {name!r:.100}, which is not "
                        f"in ACCEPTED_MODEL_CLASSES{did_you_mean(name, models)}"
                    )
                elif named.setdefault(name, executor) is not executor:
                    self._wrong(
                        f"EXECUTORS: {named[name].name} and {executor.name} are both for the "
                        f"model {name}: leave it to one of them"
                    )
        if local and all(executor.models is not None for executor in local):
            for name in models.keys() - named.keys():
                self._wrong(
                    f"EXECUTORS: none is for the model {name}: name it in the `models` of one, "
                    'or add "local"'
                )

    # models

    def _models(self) -> dict[str, Model]:
        classes: dict[str, type] = {}
        for cls in self._settings["ACCEPTED_MODEL_CLASSES"]:
            if not inspect.isclass(cls) or ayeaye_base(cls) is None:
                self._wrong(
                    f"ACCEPTED_MODEL_CLASSES has {cls!r:.100}: it should be a subclass of "
                    "ayeaye.Model (the class, not an instance or a name)"
                )
            elif classes.setdefault(cls.__name__, cls) is not cls:
                self._wrong(
                    f"ACCEPTED_MODEL_CLASSES has two classes named {cls.__name__}: a request "
                    "names a model by its class name, so rename one"
                )
        limits = self._limits(classes)
        return {name: self._model(cls, limits.get(name, Limits())) for name, cls in classes.items()}

    def _limits(self, classes: Mapping[str, type]) -> dict[str, Limits]:
        found: dict[str, Limits] = {}
        for key, limits in self._settings["LIMITS"].items():
            name = key.__name__ if inspect.isclass(key) else str(key)
            if name not in classes:
                self._wrong(
                    f"LIMITS has {name!r:.100}, which is not in ACCEPTED_MODEL_CLASSES"
                    f"{did_you_mean(name, classes)}"
                )
            elif name in found:
                self._wrong(f"LIMITS has {name} twice, as a class and by its name")
            elif isinstance(limits, Limits):
                found[name] = limits
            else:
                self._wrong(
                    f"LIMITS[{name}] is of type {type(limits).__name__}: it should be a "
                    "fossa.Limits"
                )
        return found

    def _model(self, cls: type, limits: Limits) -> Model:
        place = f"LIMITS[{cls.__name__}]"
        memory = limits.memory if self._check_limits(place, limits) else None
        return Model(
            name=cls.__name__,
            cls=cls,
            methods=runnable_methods(cls),
            partitioned=ayeaye_base(cls, "PartitionedModel") is not None,
            limits=limits,
            memory=self._settings.size(f"{place}.memory", memory, LEAST_MEMORY),
        )

    def _check_limits(self, place: str, limits: Limits) -> bool:
        """Whether the types of one model's limits are right; says so where something is not."""
        wrong = [n for n, hint in _LIMITS.items() if not fits(getattr(limits, n), hint)]
        for name in wrong:
            self._wrong(f"{place}.{name} should be {hint_name(_LIMITS[name])}")
        for name, low, high in _LIMIT_RANGES:
            if name not in wrong:
                self._settings.check_range(f"{place}.{name}", getattr(limits, name), low, high)
        return not wrong

    # components

    def _entries(self, setting: str) -> Any:
        if setting == "EXECUTORS" and self._settings["DEBUG"]:
            return ("inline",)
        if setting == "SOURCES" and self._settings["SOURCES"] is None:
            return ("http",) if self._stand_alone else ()
        return self._settings[setting]

    def _components(self, setting: str, contract: type[Component]) -> tuple[Any, ...]:
        entries = self._entries(setting)
        components: dict[str, Component] = {}
        for entry in entries:
            component = self._component(setting, contract, entry)
            if component is not None and components.setdefault(component.name, component) is not (
                component
            ):
                self._wrong(
                    f"{setting} has two named {component.name!r}: set `name` of one of them to "
                    "another"
                )
        if setting == "EXECUTORS" and not entries:
            self._wrong('EXECUTORS is empty: nothing could run; the default is ["local"]')
        return tuple(components.values())

    def _component(self, setting: str, contract: type[Component], entry: Any) -> Component | None:
        if isinstance(entry, str):
            entry = Use(entry, {})
        if isinstance(entry, Use):
            return self._by_name(setting, contract, entry)
        if inspect.isclass(entry):
            return self._constructed(setting, contract, entry, entry.__name__, {})
        if isinstance(entry, contract):
            entry.name = entry.name or type(entry).__name__
            return entry
        self._wrong(
            f"{setting} has a {type(entry).__name__}: it should be an entry-point name, use(…), "
            f"or a subclass of fossa.{contract.__name__} or an instance of one"
        )
        return None

    def _by_name(self, setting: str, contract: type[Component], entry: Use) -> Component | None:
        cls = self._looked_up(setting, entry.name)
        if cls is None:
            return None
        options = self._options(setting, entry)
        if options is None:
            return None
        return self._constructed(setting, contract, cls, entry.name, options)

    def _constructed(
        self,
        setting: str,
        contract: type[Component],
        cls: Any,
        name: str,
        options: Mapping[str, Any],
    ) -> Component | None:
        if not inspect.isclass(cls) or not issubclass(cls, contract):
            self._wrong(f"{setting}: {name} is no subclass of fossa.{contract.__name__}")
            return None
        component: Component | None = self._made(setting, cls, name, options)
        if component is not None:
            component.name = component.name or name
        return component

    def _looked_up(self, setting: str, name: str) -> Any:
        try:
            return look_up(GROUPS[setting], name)
        except PluginError as error:
            self._wrong(f"{setting}: {error}")
            return None

    def _options(self, setting: str, entry: Use) -> dict[str, Any] | None:
        """The options with their secrets revealed; None where one of these is not there."""
        settings, where = self._settings, f"{setting}: {entry.name}"
        before = len(settings.mistakes())
        options = {k: settings.all_revealed(f"{where}({k}=…)", v) for k, v in entry.options.items()}
        return options if len(settings.mistakes()) == before else None

    def _made(self, setting: str, cls: type, name: str, options: Mapping[str, Any]) -> Any:
        try:
            signature = inspect.signature(cls)
        except ValueError:
            signature = inspect.signature(lambda **_: None)
        try:
            signature.bind(**options)
        except TypeError as error:
            self._wrong(f"{setting}: {name}: {error}; it takes {signature}")
            return None
        try:
            return cls(**options)
        except (Exception, SystemExit) as error:
            text = self._settings.redacted(f"{type(error).__name__}: {error}")
            self._wrong(f"{setting}: {name}: {text}")
            return None

    def _check_components(
        self, setting: str, components: tuple[Component, ...], models: Mapping[str, Model]
    ) -> None:
        """What the components themselves find wrong, now that it is known what is accepted."""
        for component in components:
            try:
                found = [str(mistake) for mistake in component.check(models)]
            except Exception as error:
                found = [f"its check() failed: {type(error).__name__}: {error}"]
            for mistake in found:
                self._wrong(f"{setting}: {component.name}: {self._settings.redacted(mistake)}")

    # plugins

    def _plugins(self) -> tuple[tuple[str, Any], ...]:
        named = [self._plugin(entry) for entry in self._settings["PLUGINS"]]
        plugins = tuple((name, plugin) for name, plugin in named if plugin is not None)
        try:
            Hooks(plugins, logger)
        except PluginError as error:
            self._wrong(f"PLUGINS: {error}")
        return plugins

    def _plugin(self, entry: Any) -> tuple[str, Any]:
        if isinstance(entry, str):
            entry = Use(entry, {})
        if not isinstance(entry, Use):
            name = getattr(entry, "__name__", type(entry).__name__)
            made = self._made("PLUGINS", entry, name, {}) if inspect.isclass(entry) else entry
            return name, made
        plugin = self._looked_up("PLUGINS", entry.name)
        if inspect.isclass(plugin):
            options = self._options("PLUGINS", entry)
            made = None if options is None else self._made("PLUGINS", plugin, entry.name, options)
            return entry.name, made
        if plugin is not None and entry.options:
            self._wrong(f"PLUGINS: {entry.name} is no class: it takes no options")
        return entry.name, plugin


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
