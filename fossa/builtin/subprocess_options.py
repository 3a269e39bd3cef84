"""What a user says of fresh processes, checked: `use("subprocess", python=…, models=[…])`."""

import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from fossa.errors import ConfigError
from fossa.settings import did_you_mean, fits, hint_name

#: Variables of the node's environment that stay in a clean one; * stands for anything.
KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR",
)  # fmt: skip
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@frozen(kw_only=True)
class Options:
    """How an attempt's process is started, and what binds it. Made and checked by `options()`."""

    #: The name of this executor among the node's.
    name: str = "subprocess"
    #: Names of the models that it runs, each with its import path in the other interpreter
    #: (`"geo.models:Geo"`) or None: as here. None: every model that no other executor names.
    models: Mapping[str, str | None] | None = None
    #: The interpreter, such as a virtual environment's; None: the node's own.
    python: str | Path | None = None
    #: What comes before the interpreter on the command line.
    prefix: Sequence[str] = ()
    #: The working directory; None: the node's.
    cwd: str | Path | None = None
    #: Variables to set.
    env: Mapping[str, str] = field(factory=dict, repr=False)
    #: Variables of the node's environment that stay besides `KEPT`; `["*"]`: all.
    keep_env: Sequence[str] = ()
    #: Directories to import from, after the interpreter's own.
    path: Sequence[str | Path] = ()
    #: The user that it runs as, and the group; only root may say so. None: the node's.
    user: str | int | None = None
    group: str | int | None = None
    #: Added to the niceness.
    nice: int = 0
    #: Seconds of processor time: then the model is asked to stop, and made to. None: no limit.
    cpu_seconds: int | None = None
    #: File descriptors that each of its processes may have open. None: as the node.
    open_files: int | None = None
    #: A cgroup (version 2) of the node's own, in which each attempt gets one. None: none.
    cgroup: str | Path | None = None
    #: Processors that an attempt may use, all its processes together; needs `cgroup`.
    cpus: float | None = None
    #: Seconds that a process may take to start and to import the model.
    start_timeout: float = 60.0

    @property
    def place(self) -> str:
        """How messages name the entry of the config."""
        return f'use("subprocess", name="{self.name}")'


_HINTS = typing.get_type_hints(Options)
_RANGES = {
    "nice": (-20, 19),
    "cpu_seconds": (1, 10**9),
    "open_files": (16, 1 << 30),
    "cpus": (0.01, 10_000),
    "start_timeout": (0.1, 86_400),
}


def options(**given: Any) -> Options:
    """Check what was given, all of it.

    Raises:
        ConfigError: names every option that is wrong; no value of `env` is shown.
    """
    mistakes: list[str] = []
    if given.get("models") is not None:
        given["models"] = _models(given["models"], mistakes)
    known = [a.name for a in attrs.fields(Options)]
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, known) or f": there are {', '.join(known)}"
            mistakes.append(f"{name} is no option{hint}")
        elif name != "models":
            mistakes += _wrong(name, value)
    if given.get("cpus") is not None and given.get("cgroup") is None:
        mistakes.append('cpus needs a cgroup: give one like cgroup="/sys/fs/cgroup/fossa"')
    if mistakes:
        raise ConfigError('use("subprocess")', mistakes)
    return Options(**given)


def _wrong(name: str, value: Any) -> list[str]:
    """What is wrong with one option, but for `models`."""
    if isinstance(value, str) and name in ("prefix", "keep_env", "path"):
        return [f'{name} is text: it should be a list, such as {name}=["{value:.100}"]']
    if not fits(value, _HINTS[name]) or value == "":
        kind = "empty" if value == "" else f"of type {type(value).__name__}"
        return [f"{name} is {kind}: it should be {hint_name(_HINTS[name])}"]
    if wrong := [m for m in _members(value) if not isinstance(m, str | Path)]:
        return [f"{name} has a {type(wrong[0]).__name__}: everything in it should be text"]
    low, high = _RANGES.get(name, (None, None))
    if value is not None and low is not None and not low <= value <= high:
        return [f"{name} is {value}: it should be from {low} to {high}"]
    return []


def _members(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple) else []


def _models(value: Any, mistakes: list[str]) -> dict[str, str | None]:
    """Classes, names, or names with import paths, as one mapping."""
    if (
        isinstance(value, str)
        or inspect.isclass(value)
        or not isinstance(value, Sequence | Mapping)
    ):
        mistakes.append(
            f"models is of type {type(value).__name__}: it should be a list of model classes, or "
            'a dict of their names to import paths such as {"Geo": "geo.models:Geo"}'
        )
        return {}
    paths = value if isinstance(value, Mapping) else dict.fromkeys(value)
    found: dict[str, str | None] = {}
    for key, path in paths.items():
        name = key.__name__ if inspect.isclass(key) else key
        if not isinstance(name, str):
            mistakes.append(f"models has a {type(name).__name__}: it should be a model class")
        elif path is not None and not (isinstance(path, str) and _IMPORT_PATH.fullmatch(path)):
            mistakes.append(
                f"models[{name!r}] is {path!r:.100}: it should be an import path such as "
                '"geo.models:Geo"'
            )
        else:
            found[name] = path
    return found
