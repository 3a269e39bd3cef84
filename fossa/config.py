"""What users write: the config's settings and the values that stand for others.

`fossa.composition` checks it all before anything starts.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen


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
            return Path(path).read_text("utf-8").removesuffix("\n")
        except OSError as error:
            raise LookupError(f"the file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise LookupError(f"the file {path} is not UTF-8 text") from None

    return Secret(read, str(path))


@frozen
class Use:
    """A component by entry-point name, with its options. Made by `use`."""

    name: str
    options: Mapping[str, Any] = field(repr=False)


def use(name: str, /, **options: Any) -> Use:
    """The installed component of that name, constructed with these options.

    Options may be, or have in their lists and dicts, `env(…)` and `secret_file(…)`; these are
    read when the node starts.
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
    PLUGINS: Sequence[Any] = ("metrics",)

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
