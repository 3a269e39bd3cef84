"""The config: a declarative class in front, a frozen `Composition` behind.

`compose` checks everything before anything starts and reports every mistake at once.
"""

import difflib
import inspect
import logging
import math
import os
import re
import socket
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from attrs import field, frozen

from fossa.contracts import Component, Executor, Sink, Source
from fossa.errors import ConfigError, PluginError
from fossa.plugins import GROUPS, look_up
from fossa.worker.loading import ayeaye_base, runnable_methods

logger = logging.getLogger("fossa")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_PREFIXES = {None: 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
#: Settings of `ayeaye-fossa` 0.0.37 that are gone, with what to use.
_GONE = {
    "MESSAGE_BROKER_MANAGERS": 'use SOURCES, e.g. ["http", use("rabbitmq", url=…)]',
    "ISOLATED_PROCESSOR": 'use EXECUTORS, e.g. ["local", use("rabbitmq", url=…)]',
}
#: In the environment, but not settings: the client's and the worker's own.
_OTHER_VARIABLES = {"FOSSA_URL", "FOSSA_WORKER_OF", "FOSSA_TEST_SERVICES"}


class Secret:
    """A value that no repr, log, page or error shows."""

    def __init__(self, read: Callable[[], str], where: str) -> None:
        self._read = read
        self._where = where

    def reveal(self) -> str:
        """The value itself. Raises LookupError, naming the place, where there is none."""
        return self._read()

    def __repr__(self) -> str:
        return f"<secret from {self._where}>"


def env(name: str, default: str | None = None) -> Secret:
    """A value from the environment, read when the node starts."""

    def read() -> str:
        value = os.environ.get(name, default)
        if value is None:
            raise LookupError(f"the environment variable {name} is not set")
        return value

    return Secret(read, f"${name}")


def secret_file(path: str | Path) -> Secret:
    """A value from a file (its last line end is cut), read when the node starts."""

    def read() -> str:
        try:
            return Path(path).read_text().removesuffix("\n")
        except OSError as error:
            raise LookupError(f"the file {path} cannot be read: {error.strerror}") from None

    return Secret(read, str(path))


@frozen
class Use:
    """A component by entry-point name, with its options. Made by `use`."""

    name: str
    options: Mapping[str, Any] = field(repr=False)


def use(name: str, **options: Any) -> Use:
    """The installed component of that name, constructed with these options.

    Options may be `env(…)` or `secret_file(…)`; they are read when the node starts.
    """
    return Use(name, options)


@frozen(kw_only=True)
class Limits:
    """What one model's tasks may take. None: as the setting for all models says."""

    #: Seconds that one attempt may take.
    timeout: float | None = None
    #: Attempts after the first, where the model fails by its own exception.
    retries: int | None = None
    #: Memory for one attempt's process, e.g. "2GiB"; for partitioned models, of each subtask.
    memory: str | int | None = None
    #: "worker" or "task".
    isolation: Literal["worker", "task"] | None = None
    #: Higher first; from -100 to 100.
    priority: int = 0


class BaseConfig:
    """Every setting, with its default. Subclass it; mixins and inheritance compose.

    A scalar setting can be overridden by the environment: `FOSSA_HTTP_PORT=2344` for `HTTP_PORT`.
    """

    # what may run

    #: Model classes that this node runs. A request names one by its class name.
    ACCEPTED_MODEL_CLASSES: Iterable[type] = ()
    #: What single models may take: model class (or its name) to `Limits`.
    LIMITS: Mapping[Any, Limits] = {}
    #: Callables that every model's ayeaye resolver is given, on every node.
    RESOLVERS: Sequence[Callable[[str], str]] = ()
    #: Named secrets for ayeaye's resolver; they never leave the node.
    SECRETS: Mapping[str, str | Secret] = {}

    # components: entry-point names, use(…), classes or instances

    #: Where tasks come from. None: HTTP for a stand-alone node, nothing for an embedded one.
    SOURCES: Sequence[Any] | None = None
    #: What runs attempts.
    EXECUTORS: Sequence[Any] = ("local",)
    #: Where outcomes go.
    SINKS: Sequence[Any] = ("log",)
    #: Further plugins: modules or objects with hooks.
    PLUGINS: Sequence[Any] = ()

    # the node

    #: The node's name. None: the host's.
    NODE_NAME: str | None = None
    #: The title of the node's pages.
    APP_TITLE: str = "Fossa"
    #: Attempts that run at once. None: CPUs × RUNTIME["CPU_TASK_RATIO"], rounded up.
    SLOTS: int | None = None
    #: "CPU_TASK_RATIO": attempts that run at once, for each CPU. Default 2.
    RUNTIME: Mapping[str, float] = {}
    #: Queued tasks that the node keeps at the most; 0: refuse a task when no slot is free.
    MAX_QUEUED_TASKS: int = 10_000
    #: Seconds that a stopping node lets running attempts finish in.
    DRAIN_TIMEOUT: float = 30.0
    #: Run models in the node's own process, one at a time, for breakpoints.
    DEBUG: bool = False

    # attempts

    #: Seconds that one attempt may take. None: no limit.
    TIMEOUT: float | None = None
    #: Attempts after the first where a model fails by its own exception.
    RETRIES: int = 0
    #: Seconds before the first retry; doubled for each further one, less up to half by chance.
    RETRY_DELAY: float = 1.0
    #: Seconds before a retry, at the most.
    RETRY_MAX_DELAY: float = 300.0
    #: Attempts in all of a task whose process or node dies under it.
    CRASH_ATTEMPTS: int = 3
    #: Seconds that an interrupted model has to clean up before it gets SIGTERM.
    INTERRUPT_GRACE: float = 10.0
    #: Seconds between SIGTERM and SIGKILL.
    TERMINATE_GRACE: float = 5.0
    #: "worker": processes are used again; "task": each attempt has a process of its own.
    ISOLATION: Literal["worker", "task"] = "worker"
    #: Memory for one attempt's process, e.g. "2GiB". None: no limit.
    MEMORY_LIMIT: str | int | None = None
    #: Attempts that a worker process runs before it is replaced.
    WORKER_MAX_TASKS: int = 100_000
    #: Growth of a worker's resident memory after which it is replaced.
    WORKER_MAX_GROWTH: str | int = "512MiB"

    # sizes

    #: Bytes of JSON that a task's arguments may take.
    MAX_ARGUMENTS_BYTES: int = 1 << 20
    #: Levels of arrays and objects in a task's arguments.
    MAX_ARGUMENTS_DEPTH: int = 32
    #: Bytes of JSON that a return value may take.
    MAX_RESULT_BYTES: int = 1 << 20
    #: Log lines kept of one attempt.
    MAX_LOG_LINES: int = 10_000
    #: Bytes of log kept of one attempt.
    MAX_LOG_BYTES: int = 4 << 20

    # the ledger

    #: "sqlite": in STATE_DIR. None: in memory, gone with the node.
    LEDGER: Literal["sqlite"] | None = "sqlite"
    #: The node's own directory. None: one under $XDG_STATE_HOME/fossa.
    STATE_DIR: str | Path | None = None
    #: Tasks (subtasks among them) that the ledger remembers. None: all.
    RETAIN_TASKS: int | None = 1_000_000
    #: Days that it remembers them for. None: for ever.
    RETAIN_DAYS: float | None = 30.0

    # HTTP

    #: The address to listen on. Any but a loopback address needs HTTP_TOKEN.
    HTTP_HOST: str = "127.0.0.1"
    #: The port to listen on; 0: any that is free.
    HTTP_PORT: int = 2345
    #: The bearer token that clients must present. None: none is asked for.
    HTTP_TOKEN: str | Secret | None = None
    #: Listen on any address without a token.
    HTTP_WITHOUT_TOKEN: bool = False
    #: Host names that clients may use for this node, besides those of loopback and HTTP_HOST.
    HTTP_ALLOWED_HOSTS: Sequence[str] = ()
    #: Bytes that a request's body may have.
    HTTP_MAX_BODY_BYTES: int = 2 << 20
    #: "http" or "https": the scheme of the links that the API gives.
    PREFERRED_URL_SCHEME: Literal["http", "https"] = "http"
    #: Kept from `ayeaye-fossa` 0.0.37; nothing is signed with it.
    SECRET_KEY: str | Secret = ""

    # the node's own log

    #: Whether a stand-alone node logs to standard output.
    LOG_TO_STDOUT: bool = True
    #: Objects with `write(msg, level)`, told of each line that the node logs.
    EXTERNAL_LOGGERS: Sequence[Any] = ()


_HINTS = typing.get_type_hints(BaseConfig)
_SCALARS = (str, int, float, bool, Path)


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


@frozen(kw_only=True)
class Composition:
    """A checked config: what a node is made of."""

    #: Where the config was written.
    place: str
    #: Every plain setting, by name, with secrets still hidden.
    settings: Mapping[str, Any] = field(repr=False)
    models: Mapping[str, Model]
    sources: tuple[Source, ...]
    executors: tuple[Executor, ...]
    sinks: tuple[Sink, ...]
    #: (name, object) of each further plugin.
    plugins: tuple[tuple[str, Any], ...]
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


def compose(config: type[BaseConfig], *, stand_alone: bool = False, **overrides: Any) -> Composition:
    """Check a config class and everything it names.

    Args:
        config: a subclass of `BaseConfig`.
        stand_alone: whether the node has its process to itself: it then serves HTTP by default.
        overrides: settings that win over the class and the environment.

    Raises:
        ConfigError: with every mistake.
    """
    return _Composer(config, stand_alone, overrides).compose()


class _Composer:
    """Collects mistakes instead of stopping at the first."""

    def __init__(
        self, config: type[BaseConfig], stand_alone: bool, overrides: Mapping[str, Any]
    ) -> None:
        if not (inspect.isclass(config) and issubclass(config, BaseConfig)):
            raise ConfigError(
                "the config", [f"{config!r:.100} is not a subclass of fossa.BaseConfig"]
            )
        self.config = config
        self.stand_alone = stand_alone
        self.overrides = overrides
        self.place = f"{config.__module__}.{config.__qualname__}"
        self.mistakes: list[str] = []
        self.settings: dict[str, Any] = {}

    def compose(self) -> Composition:
        self._unknown_names()
        self._unknown_variables()
        for name, hint in _HINTS.items():
            self.settings[name] = self._setting(name, hint)
        models = self._models()
        sources = self._sources()
        executors = self._components("EXECUTORS", Executor)
        sinks = self._components("SINKS", Sink)
        plugins = self._plugins()
        secrets = {k: self._revealed(f"SECRETS[{k!r}]", v) for k, v in self._mapping("SECRETS")}
        token = self._token()
        composition_values = {
            "slots": self._slots(),
            "memory": self._size("MEMORY_LIMIT", self.settings["MEMORY_LIMIT"]),
            "worker_max_growth": self._size(
                "WORKER_MAX_GROWTH", self.settings["WORKER_MAX_GROWTH"]
            )
            or 0,
            "state_dir": self._state_dir(),
        }
        self._ranges()
        self._external_loggers()
        if self.mistakes:
            raise ConfigError(self.place, self.mistakes)
        return Composition(
            place=self.place,
            settings=self.settings,
            models=models,
            sources=sources,
            executors=executors,
            sinks=sinks,
            plugins=plugins,
            secrets={k: v for k, v in secrets.items() if v is not None},
            node_name=self.settings["NODE_NAME"] or socket.gethostname(),
            http_token=token,
            **composition_values,
        )

    # names

    def _unknown_names(self) -> None:
        for klass in self.config.__mro__:
            if klass in (BaseConfig, object):
                continue
            for name in vars(klass):
                if name in _GONE:
                    self.mistakes.append(f"{name} is a setting that is gone: {_GONE[name]}")
                elif name.isupper() and not name.startswith("_") and name not in _HINTS:
                    self.mistakes.append(f"{name} is no setting{_did_you_mean(name, _HINTS)}")
        for name in self.overrides:
            if name not in _HINTS:
                self.mistakes.append(f"{name} is no setting{_did_you_mean(name, _HINTS)}")

    def _unknown_variables(self) -> None:
        known = {f"FOSSA_{name}" for name in _HINTS} | _OTHER_VARIABLES
        for name in os.environ:
            if not name.startswith("FOSSA_") or name in known:
                continue
            # Not an error unless it is nearly right: schedulers put variables of their own there.
            if difflib.get_close_matches(name, known, 1, cutoff=0.85):
                self.mistakes.append(
                    f"the environment variable {name} is no setting{_did_you_mean(name, known)}"
                )

    # values

    def _setting(self, name: str, hint: Any) -> Any:
        if name in self.overrides:
            return self._checked(name, self.overrides[name], hint, "given")
        variable = f"FOSSA_{name}"
        if variable in os.environ and _is_scalar(hint):
            return self._from_environment(name, hint, os.environ[variable])
        value = inspect.getattr_static(self.config, name)
        return self._checked(name, value, hint, "set")

    def _from_environment(self, name: str, hint: Any, text: str) -> Any:
        if type(None) in typing.get_args(hint) and text == "":
            return None
        if str in (hint, *typing.get_args(hint)):
            return text
        try:
            return msgspec.convert(text, hint, strict=False)
        except msgspec.ValidationError:
            self.mistakes.append(
                f"FOSSA_{name} in the environment is {text!r}: it should be {_hint_name(hint)}"
            )
            return getattr(BaseConfig, name)

    def _checked(self, name: str, value: Any, hint: Any, how: str) -> Any:
        if not _fits(value, hint):
            self.mistakes.append(
                f"{name} is {how} to a value of type {type(value).__name__}: it should be "
                f"{_hint_name(hint)}"
            )
            return getattr(BaseConfig, name)
        return value

    def _revealed(self, name: str, value: Any) -> str | None:
        try:
            text = value.reveal() if isinstance(value, Secret) else value
        except LookupError as error:
            self.mistakes.append(f"{name}: {error.args[0]}")
            return None
        if not isinstance(text, str):
            self.mistakes.append(
                f"{name} is of type {type(text).__name__}: it should be text, env(…) or "
                "secret_file(…)"
            )
            return None
        return text

    def _mapping(self, name: str) -> Iterable[tuple[Any, Any]]:
        return self.settings[name].items()

    def _size(self, name: str, value: Any) -> int | None:
        if value is None or isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if not found:
            self.mistakes.append(f'{name} is {value!r}: it should be like 1073741824 or "1GiB"')
            return None
        prefix = found[2][0].upper() if found[2] else None
        return int(float(found[1]) * _PREFIXES[prefix])

    def _slots(self) -> int:
        slots = self.settings["SLOTS"]
        ratio = self.settings["RUNTIME"].get("CPU_TASK_RATIO", 2)
        unknown = set(self.settings["RUNTIME"]) - {"CPU_TASK_RATIO"}
        if unknown:
            self.mistakes.append(
                f"RUNTIME has {sorted(unknown)[0]!r}: the only key it may have is 'CPU_TASK_RATIO'"
            )
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not ratio > 0:
            self.mistakes.append('RUNTIME["CPU_TASK_RATIO"] should be a number above 0')
            ratio = 2
        if self.settings["DEBUG"]:
            return 1
        return slots if slots is not None else max(1, math.ceil(_cpus() * ratio))

    def _state_dir(self) -> Path | None:
        if self.settings["LEDGER"] is None:
            return None
        if self.settings["STATE_DIR"] is not None:
            return Path(self.settings["STATE_DIR"]).expanduser().absolute()
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        stem = self.config.__module__
        if stem == "__main__":
            from fossa.worker.loading import main_of_this_process

            file, _ = main_of_this_process()
            stem = Path(file).stem if file else "interactive"
        name = f"{stem}-{self.config.__name__}-{self.settings['HTTP_PORT']}"
        return Path(home) / "fossa" / re.sub(r"[^\w.-]", "_", name)

    def _token(self) -> str | None:
        value = self.settings["HTTP_TOKEN"]
        token = None if value is None else self._revealed("HTTP_TOKEN", value)
        host = self.settings["HTTP_HOST"]
        if token is not None and len(token) < 16:
            self.mistakes.append("HTTP_TOKEN is shorter than 16 characters: make a longer one")
        if not is_loopback(host) and not token and not self.settings["HTTP_WITHOUT_TOKEN"]:
            self.mistakes.append(
                f"HTTP_HOST is {host!r}, which other computers can reach: set HTTP_TOKEN, or set "
                "HTTP_WITHOUT_TOKEN = True if the network is guarded otherwise"
            )
        return token

    def _ranges(self) -> None:
        for name, low, high in _RANGES:
            value = self.settings[name]
            if value is not None and not low <= value <= high:
                self.mistakes.append(f"{name} is {value}: it should be from {low} to {high}")

    def _external_loggers(self) -> None:
        for logger_ in self.settings["EXTERNAL_LOGGERS"]:
            if not callable(getattr(logger_, "write", None)):
                self.mistakes.append(
                    f"EXTERNAL_LOGGERS has a {type(logger_).__name__} without write(msg, level)"
                )

    # models

    def _models(self) -> dict[str, Model]:
        models: dict[str, Model] = {}
        for cls in self.settings["ACCEPTED_MODEL_CLASSES"]:
            if not inspect.isclass(cls) or ayeaye_base(cls) is None:
                self.mistakes.append(
                    f"ACCEPTED_MODEL_CLASSES has {cls!r:.100}: it should be a subclass of "
                    "ayeaye.Model (the class, not an instance or a name)"
                )
            elif cls.__name__ in models:
                self.mistakes.append(
                    f"ACCEPTED_MODEL_CLASSES has two classes named {cls.__name__}: a request "
                    "names a model by its class name, so rename one"
                )
            else:
                models[cls.__name__] = self._model(cls)
        for key, _ in self._mapping("LIMITS"):
            name = key.__name__ if inspect.isclass(key) else key
            if name not in models:
                self.mistakes.append(
                    f"LIMITS has {name!r}, which is not in ACCEPTED_MODEL_CLASSES"
                    f"{_did_you_mean(str(name), models)}"
                )
        return models

    def _model(self, cls: type) -> Model:
        limits = self.settings["LIMITS"]
        own = limits.get(cls, limits.get(cls.__name__, Limits()))
        if not isinstance(own, Limits):
            self.mistakes.append(f"LIMITS[{cls.__name__}] should be a fossa.Limits")
            own = Limits()
        return Model(
            name=cls.__name__,
            cls=cls,
            methods=runnable_methods(cls),
            partitioned=ayeaye_base(cls, "PartitionedModel") is not None,
            limits=own,
            memory=self._size(f"LIMITS[{cls.__name__}].memory", own.memory),
        )

    # components

    def _sources(self) -> tuple[Source, ...]:
        if self.settings["SOURCES"] is None:
            self.settings["SOURCES"] = ("http",) if self.stand_alone else ()
        return self._components("SOURCES", Source)

    def _components(self, setting: str, contract: type[Any]) -> tuple[Any, ...]:
        entries = self.settings[setting]
        if setting == "EXECUTORS" and self.settings["DEBUG"]:
            entries = ("inline",)
        components: list[Any] = []
        for entry in entries:
            component = self._component(setting, entry)
            if component is None:
                continue
            if not isinstance(component, contract):
                self.mistakes.append(
                    f"{setting} has {type(component).__name__}, which is no "
                    f"fossa.{contract.__name__}: subclass it"
                )
                continue
            if any(c.name == component.name for c in components):
                self.mistakes.append(f"{setting} has {component.name!r} twice")
            components.append(component)
        if setting == "EXECUTORS" and not entries:
            self.mistakes.append('EXECUTORS is empty: nothing could run; the default is ["local"]')
        return tuple(components)

    def _component(self, setting: str, entry: Any) -> Any:
        if isinstance(entry, str):
            entry = Use(entry, {})
        if isinstance(entry, Use):
            return self._by_name(setting, entry)
        if inspect.isclass(entry):
            return self._constructed(setting, entry, entry.__name__, {})
        if isinstance(entry, Component):
            entry.name = entry.name or type(entry).__name__
            return entry
        self.mistakes.append(
            f"{setting} has a {type(entry).__name__}: it should be an entry-point name, use(…), "
            "a class or an instance"
        )
        return None

    def _by_name(self, setting: str, entry: Use) -> Any:
        try:
            cls = look_up(GROUPS[setting], entry.name)
        except PluginError as error:
            self.mistakes.append(f"{setting}: {error}")
            return None
        options = {
            k: self._revealed(f"{setting}: {entry.name}({k}=…)", v) if isinstance(v, Secret) else v
            for k, v in entry.options.items()
        }
        return self._constructed(setting, cls, entry.name, options)

    def _constructed(self, setting: str, cls: Any, name: str, options: dict[str, Any]) -> Any:
        try:
            inspect.signature(cls).bind(**options)
        except TypeError as error:
            self.mistakes.append(f"{setting}: {name}: {error}; it takes {inspect.signature(cls)}")
            return None
        try:
            component = cls(**options)
        except Exception as error:
            self.mistakes.append(f"{setting}: {name}: {type(error).__name__}: {error}")
            return None
        component.name = getattr(component, "name", "") or name
        return component

    def _plugins(self) -> tuple[tuple[str, Any], ...]:
        plugins: list[tuple[str, Any]] = []
        for entry in self.settings["PLUGINS"]:
            if isinstance(entry, str | Use):
                used = Use(entry, {}) if isinstance(entry, str) else entry
                try:
                    plugin = look_up(GROUPS["PLUGINS"], used.name)
                except PluginError as error:
                    self.mistakes.append(f"PLUGINS: {error}")
                    continue
                if inspect.isclass(plugin):
                    plugin = self._constructed("PLUGINS", plugin, used.name, dict(used.options))
                plugins.append((used.name, plugin))
            else:
                plugin = entry() if inspect.isclass(entry) else entry
                name = getattr(entry, "__name__", type(entry).__name__)
                plugins.append((name, plugin))
        return tuple((name, plugin) for name, plugin in plugins if plugin is not None)


_BIG = 2**63
_RANGES = (
    ("SLOTS", 1, 10_000), ("MAX_QUEUED_TASKS", 0, 10_000_000), ("DRAIN_TIMEOUT", 0, 86_400),
    ("TIMEOUT", 0.001, 10**9), ("RETRIES", 0, 1000), ("RETRY_DELAY", 0, 86_400),
    ("RETRY_MAX_DELAY", 0, 7 * 86_400), ("CRASH_ATTEMPTS", 1, 1000),
    ("INTERRUPT_GRACE", 0, 86_400), ("TERMINATE_GRACE", 0, 86_400),
    ("WORKER_MAX_TASKS", 1, _BIG), ("MAX_ARGUMENTS_BYTES", 2, 1 << 29),
    ("MAX_ARGUMENTS_DEPTH", 2, 200), ("MAX_RESULT_BYTES", 4, 1 << 29),
    ("MAX_LOG_LINES", 0, 10_000_000), ("MAX_LOG_BYTES", 0, 1 << 40), ("RETAIN_TASKS", 0, _BIG),
    ("RETAIN_DAYS", 0, 1_000_000), ("HTTP_PORT", 0, 65_535), ("HTTP_MAX_BODY_BYTES", 2, 1 << 30),
)  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""


def _members(hint: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(hint)
    if origin is typing.Union or str(origin) == "<class 'types.UnionType'>":
        return typing.get_args(hint)
    return (hint,)


def _is_scalar(hint: Any) -> bool:
    return any(m in _SCALARS or typing.get_origin(m) is Literal for m in _members(hint))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a setting's type. Members of collections are checked elsewhere."""
    for member in _members(hint):
        origin = typing.get_origin(member)
        if origin is Literal:
            if value in typing.get_args(member):
                return True
        elif member is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return True
        elif member is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return True
        elif isinstance(value, str) and origin is not None:
            continue
        elif isinstance(value, origin or member):
            return True
    return False


def _hint_name(hint: Any) -> str:
    words = []
    for member in _members(hint):
        origin = typing.get_origin(member)
        if origin is Literal:
            words += [repr(v) for v in typing.get_args(member)]
        elif member is type(None):
            words.append("None")
        elif origin is not None:
            words.append("a mapping" if "apping" in str(origin) else "a list")
        else:
            words.append({Secret: "env(…) or secret_file(…)"}.get(member, member.__name__))
    return " or ".join(words)
