"""What a fresh process is told of the node's models, in this interpreter or another."""

import os
import site
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fossa.builtin.subprocess_options import Options
from fossa.builtin.workers import boot_message
from fossa.composition import Composition
from fossa.worker.messages import Boot, Bounds, Reference


class Boots:
    """Makes boot messages, each with a model or several."""

    def __init__(self, options: Options, composition: Composition, mark: str) -> None:
        self._options = options
        self._composition = composition
        self._mark = mark
        self._all = boot_message(composition)
        self._models = {reference.name: reference for reference in self._all.models}
        #: Names of the models that the executor is there for.
        self.names = list(self._models if options.models is None else options.models)

    def of(self, names: Iterable[str]) -> Boot:
        """The boot message of a process that can run these models."""
        other = self._options.python is not None
        return msgspec.structs.replace(
            self._all,
            path=[] if other else self._all.path,
            models=[self._reference(name) for name in names],
            resolvers=[self._there(reference) for reference in self._all.resolvers],
        )

    def bounds(self) -> Bounds:
        options, cpu = self._options, self._options.cpu_seconds
        grace = 1 + int(self._composition.INTERRUPT_GRACE)
        return Bounds(
            mark=self._mark,
            more_path=list(dict.fromkeys([*map(str, options.path), *self._roots()])),
            cpu=None if cpu is None else (cpu, cpu + grace),
            open_files=options.open_files,
            nice=options.nice,
            direct=not options.prefix,
        )

    def _reference(self, name: str) -> Reference:
        path = (self._options.models or {}).get(name)
        if path is None:
            return self._there(self._models[name])
        module, _, qualname = path.partition(":")
        return Reference(name=name, module=module, qualname=qualname)

    def _there(self, reference: Reference) -> Reference:
        """The same for the other interpreter: what is installed here is no business of its own."""
        if self._options.python is None or not _is_installed(reference.file):
            return reference
        return msgspec.structs.replace(reference, file=None)

    def _roots(self) -> list[str]:
        """Where this node imports its models from, but for what is installed."""
        if self._options.python is None:
            return []
        found = (import_root(self._models[name]) for name in self.names if name in self._models)
        return [root for root in found if root]


def import_root(reference: Reference) -> str:
    """The directory that a reference's module is imported from; empty where it is installed."""
    if reference.file is None or reference.module == "__main__" or _is_installed(reference.file):
        return ""
    parts = reference.module.split(".")
    file = Path(reference.file).with_suffix("")
    if file.name == "__init__":
        parts.append("__init__")
    root = file.parents[len(parts) - 1] if len(parts) <= len(file.parents) else file
    return str(root) if root.joinpath(*parts) == file else ""


def _is_installed(file: str | None) -> bool:
    """Whether a file belongs to this interpreter or to what is installed for it."""
    libraries = {
        *site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"), sysconfig.get_path("platlib"),
    }  # fmt: skip
    return file is not None and any(file.startswith(lib + os.sep) for lib in libraries if lib)
