"""Finds the config class that somebody names: in a script, or in a module."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fossa.command_line import Refused

if TYPE_CHECKING:
    from types import ModuleType

    from fossa.config import BaseConfig

#: Ends the name under which a script is imported whose own name is a standard module's.
_SCRIPT_SUFFIX = "_script"


def find_config(target: str) -> "type[BaseConfig]":
    """The config class that `module`, `module:Name`, `file.py` or `file.py:Name` means."""
    place, _, name = target.partition(":")
    module = _import_file(Path(place)) if _is_file(place) else _import_module(place)
    return _named(module, target, name) if name else _only_config(module, target)


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _import_file(file: Path) -> "ModuleType":
    """Import a script by its path; its directory comes first on the path, as for `python file`."""
    from fossa.worker.loading import import_only

    if not file.is_file():
        raise Refused(f"there is no file {file}: name one, or a module as in package.module:Name")
    file = file.resolve()
    _importable(str(Path.cwd()))
    _importable(str(file.parent))
    name = file.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        name += _SCRIPT_SUFFIX
    return import_only(name, str(file))


def _import_module(name: str) -> "ModuleType":
    from fossa.worker.loading import import_only

    _importable(str(Path.cwd()))
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        hint = f"; did you mean {name}.py?" if Path(f"{name}.py").is_file() else ""
        raise Refused(f"there is no module {name!r} here or on the path{hint}")
    return import_only(name)


def _importable(directory: str) -> None:
    """Put a directory first on the path, where workers will look too."""
    if directory in sys.path:
        sys.path.remove(directory)
    sys.path.insert(0, directory)


def _named(module: "ModuleType", target: str, name: str) -> "type[BaseConfig]":
    found = getattr(module, name, None)
    if found is None:
        names = ", ".join(c.__name__ for c in _configs(module)) or "none"
        raise Refused(f"{target}: there is no {name} in it; configs in it: {names}")
    config: type[BaseConfig] = found
    return config


def _only_config(module: "ModuleType", target: str) -> "type[BaseConfig]":
    configs = _configs(module)
    # A config that another one here builds on is not meant.
    tops = [c for c in configs if not any(c in other.__mro__[1:] for other in configs)]
    if len(tops) == 1:
        return tops[0]
    if not tops:
        raise Refused(f"{target} defines no subclass of fossa.BaseConfig: which class is it?")
    names = ", ".join(f"{target}:{c.__name__}" for c in tops)
    raise Refused(f"{target} defines {len(tops)} configs: name one of {names}")


def _configs(module: "ModuleType") -> "list[type[BaseConfig]]":
    """Config classes that a module defines, not those that it imports."""
    from fossa.config import BaseConfig

    return [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, BaseConfig)
        and thing.__module__ == module.__name__
    ]
