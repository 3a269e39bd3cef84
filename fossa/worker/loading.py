"""How a worker finds the classes of its node's config, and what of them may be run."""

import base64
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any

from fossa.worker.messages import Reference

#: Methods of ayeaye's own base classes that a task may name.
_RUNNABLE_OF_AYEAYE = frozenset({"go", "build", "pre_build_check", "post_build_check"})
#: The name under which a worker imports the host's script, as multiprocessing does: a
#: `if __name__ == "__main__":` block in it does not run.
MAIN = "__mp_main__"
#: In the environment of a process that is a worker.
WORKER_MARK = "FOSSA_WORKER_OF"


class ImportIsEnough(BaseException):
    """Raised where a script that a worker imports goes on to start a node of its own."""


_importing = False


def stop_if_importing() -> None:
    """End the import of a script at the line that would start a node inside a worker."""
    if _importing:
        raise ImportIsEnough


def ayeaye_base(cls: type, name: str = "Model") -> type | None:
    """Ayeaye's own base class of a model class, found without importing ayeaye."""
    for base in cls.__mro__:
        if base.__module__ == "ayeaye.model" and base.__name__ == name:
            return base
    return None


def runnable_methods(cls: type) -> frozenset[str]:
    """Names of the methods of a model class that a task may name.

    They are public functions: four of ayeaye's own and those that the model's classes add. What
    ayeaye's `Model` and `PartitionedModel` declare otherwise (`log`, `set_logger`, `lock`,
    `partition_slice`, …) serves the runtime and stays out, overridden or not.
    """
    serving: set[str] = set()
    for name in ("Model", "PartitionedModel"):
        base = ayeaye_base(cls, name)
        serving.update(vars(base) if base else ())
    names = set(_RUNNABLE_OF_AYEAYE)
    for klass in cls.__mro__:
        if klass is object or klass.__module__ == "ayeaye.model":
            continue
        for name, member in vars(klass).items():
            if not name.startswith("_") and name not in serving and _is_method(member):
                names.add(name)
    return frozenset(n for n in names if _is_method(inspect.getattr_static(cls, n, None)))


def _is_method(member: object) -> bool:
    return isinstance(member, FunctionType | classmethod | staticmethod)


def reference_to(thing: type | Callable[..., Any], name: str) -> Reference:
    """A reference by which a worker finds a class or function of this process."""
    module = sys.modules.get(thing.__module__)
    qualname = thing.__qualname__
    file = getattr(module, "__file__", None)
    # A console's namespace is no module at all, and a notebook's has no file to import.
    known = module is not None and (thing.__module__ != "__main__" or file is not None)
    importable = known and "<" not in qualname
    if importable:
        return Reference(
            name=name,
            module=thing.__module__,
            qualname=qualname,
            file=os.path.abspath(file) if file else None,
        )
    import cloudpickle

    value = base64.b64encode(cloudpickle.dumps(thing)).decode()
    return Reference(name=name, module=thing.__module__, qualname=qualname, value=value)


def main_of_this_process() -> tuple[str | None, str | None]:
    """The file and the module name (with `python -m`) of the running program, where it has them."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    spec = getattr(main, "__spec__", None)
    return (os.path.abspath(file) if file else None), (spec.name if spec else None)


class Loader:
    """Imports what references name. One a worker."""

    def __init__(self, main_file: str | None, main_module: str | None) -> None:
        self._main = (main_file, main_module)
        self.problems: list[str] = []

    def load_all(self, references: Iterable[Reference]) -> dict[str, Any]:
        """What each reference names, by its name; what cannot be had is in `problems`."""
        found = {}
        for reference in references:
            try:
                found[reference.name] = self._load(reference)
            except (Exception, SystemExit) as error:
                self.problems.append(
                    f"{reference.name}: cannot be had from "
                    f"{reference.module}:{reference.qualname} in a worker process: "
                    f"{type(error).__name__}: {error}"
                )
        return found

    def _load(self, reference: Reference) -> Any:
        if reference.value is not None:
            import cloudpickle

            return cloudpickle.loads(base64.b64decode(reference.value))
        thing: Any = self._module(reference)
        for part in reference.qualname.split("."):
            thing = getattr(thing, part)
        return thing

    def _module(self, reference: Reference) -> ModuleType:
        global _importing
        _importing = True
        try:
            if reference.module == "__main__":
                return self._main_module()
            return self._by_name(reference)
        finally:
            _importing = False

    def _main_module(self) -> ModuleType:
        if MAIN in sys.modules:
            return sys.modules[MAIN]
        file, module_name = self._main
        assert file is not None
        spec = importlib.util.spec_from_file_location(MAIN, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        if module_name:
            module.__package__ = module_name.rpartition(".")[0]
        sys.modules[MAIN] = sys.modules["__main__"] = module
        _execute(spec, module)
        return module

    def _by_name(self, reference: Reference) -> ModuleType:
        if reference.module in sys.modules:
            return sys.modules[reference.module]
        try:
            found = importlib.util.find_spec(reference.module)
        except (ImportError, ValueError):
            found = None
        if found is None and reference.file:
            found = importlib.util.spec_from_file_location(reference.module, reference.file)
        if found is None or found.loader is None:
            raise ImportError(f"no module named {reference.module!r}")
        module = importlib.util.module_from_spec(found)
        sys.modules[reference.module] = module
        _execute(found, module)
        return module


def import_only(name: str, file: str | None = None) -> ModuleType:
    """Import a module as a worker does: it ends at the line that would start a node.

    Args:
        name: the module's name.
        file: where it is, for a module that no import finds by its name.
    """
    return Loader(None, None)._module(Reference(name=name, module=name, qualname="", file=file))


def _execute(spec: Any, module: ModuleType) -> None:
    try:
        spec.loader.exec_module(module)
    except ImportIsEnough:
        pass
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
