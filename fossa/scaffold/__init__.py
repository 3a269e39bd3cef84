"""Writes the package of a new plugin: code, entry point, README and tests that pass."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrs import frozen

from fossa.errors import FossaError

#: What may be made, and the entry-point group of each.
GROUPS = {
    "source": "fossa.sources",
    "executor": "fossa.executors",
    "sink": "fossa.sinks",
    "observer": "fossa.plugins",
}
KINDS = tuple(GROUPS)
_TEMPLATES = Path(__file__).with_name("templates")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@frozen
class Written:
    """A package that was written."""

    directory: Path
    #: Paths from that directory.
    files: tuple[Path, ...]


def write_plugin(kind: str, name: str, directory: Path | None = None) -> Written:
    """Write a package named `fossa-NAME` with one component in it.

    Args:
        kind: one of `KINDS`.
        name: its entry point's name: small letters, digits and single dashes.
        directory: where to; None: `fossa-NAME` in the current one.

    Raises:
        FossaError: the name is none, or something is there already.
    """
    if not _NAME.fullmatch(name):
        raise FossaError(
            f"{name!r:.60} is no name for a plugin: take small letters, digits and dashes, "
            "beginning with a letter"
        )
    directory = directory or Path(f"fossa-{name}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FossaError(f"{directory} exists and is not empty: name another with --into")
    facts = _facts(kind, name)
    files = {Path(place): _rendered(template, facts) for place, template in _files(facts)}
    for file, text in files.items():
        target = directory / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return Written(directory, tuple(files))


def _facts(kind: str, name: str) -> dict[str, Any]:
    words = name.split("-")
    return {
        "kind": kind,
        "name": name,
        "group": GROUPS[kind],
        "distribution": f"fossa-{name}",
        "package": f"fossa_{'_'.join(words)}",
        "cls": "".join(word.capitalize() for word in [*words, kind]),
        "fossa_version": version("ayeaye-fossa"),
    }


def _files(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(where to, which template) of each file."""
    kind, package = facts["kind"], facts["package"]
    return [
        ("pyproject.toml", "pyproject.toml"),
        ("README.md", "README.md"),
        (f"{package}/__init__.py", f"{kind}.py"),
        (f"{package}/py.typed", "py.typed"),
        (f"tests/test_{package}.py", f"test_{kind}.py"),
    ]


def _rendered(template: str, facts: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 - it writes code, of names that were checked
    )
    return environment.get_template(f"{template}.jinja").render(facts)
