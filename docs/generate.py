"""Writes the pages of the reference that come from the code, so that they cannot drift from it.

The settings come from the `#:` comments of `BaseConfig`, the hooks from `fossa.hookspecs`, the
names from `fossa.__all__`, the commands from click, the HTTP operations from the OpenAPI document.
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

import fossa
from fossa import config, hookspecs, tasks
from fossa import settings as rules

#: What the first word of a setting's comment says of its unit.
UNITS = {
    "Seconds": "seconds",
    "Bytes": "bytes",
    "Days": "days",
    "Attempts": "attempts",
    "Queued": "tasks",
    "Tasks": "tasks",
    "Levels": "levels",
    "Log": "lines",
    "Memory": 'bytes, or text such as "2GiB"',
    "Growth": 'bytes, or text such as "2GiB"',
}
#: A bound as large as this one means that there is none.
_BOUNDLESS = 2**63
#: A heading in the code: a comment that is a line of its own.
_HEADING = re.compile(r"^    # (?P<title>\w.*)$")
_SETTING = re.compile(r"^    (?P<name>[A-Z_]+): ")
_MEANING = re.compile(r"^    #: ?(?P<text>.*)$")


@attrs.frozen
class Setting:
    """One setting as the config module declares it."""

    name: str
    group: str
    type: str
    default: str
    meaning: str
    unit: str
    variable: str | None
    range: str


def settings() -> list[Setting]:
    """Every setting of `BaseConfig`, in the order of the code."""
    declared = {s.target.id: s for s in _class_body() if isinstance(s, ast.AnnAssign)}
    ranges = {name: _range(low, high) for name, low, high in rules._RANGES}
    return [
        Setting(
            name=name,
            group=group,
            type=ast.unparse(declared[name].annotation),
            default=ast.unparse(declared[name].value),
            meaning=meaning,
            unit=_unit(meaning, ast.unparse(declared[name].annotation)),
            variable=f"FOSSA_{name}" if rules._is_scalar(rules.HINTS[name]) else None,
            range=ranges.get(name, ""),
        )
        for group, name, meaning in _commented()
    ]


def _class_body() -> list[Any]:
    tree = ast.parse(inspect.getsource(config))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return next(c for c in classes if c.name == "BaseConfig").body


def _commented() -> Iterator[tuple[str, str, str]]:
    """(group, name, meaning) of each setting."""
    group, meaning = "", list[str]()
    for line in inspect.getsource(config.BaseConfig).splitlines():
        if found := _MEANING.match(line):
            meaning.append(found["text"])
        elif found := _HEADING.match(line):
            group = found["title"]
        elif found := _SETTING.match(line):
            yield group, found["name"], " ".join(meaning)
            meaning = []


def _range(low: float, high: float) -> str:
    return f"at least {low}" if high >= _BOUNDLESS else f"from {low} to {high}"


def _unit(meaning: str, kind: str) -> str:
    first = meaning.split(maxsplit=1)[0].strip(",")
    return UNITS.get(first, "") if re.search(r"\b(int|float)\b", kind) else ""


def settings_page() -> str:
    lines: list[str] = []
    group = None
    for setting in settings():
        if setting.group != group:
            group = setting.group
            lines += ["", f"## {_title(group)}", ""]
        lines += [f"(setting-{setting.name})=", f"### {setting.name}", "", setting.meaning, ""]
        lines += [_facts(setting), ""]
    return "\n".join(lines)


def _facts(setting: Setting) -> str:
    facts = [f"type `{setting.type}`", f"default `{setting.default}`"]
    if setting.unit:
        facts.append(f"unit: {setting.unit}")
    if setting.range:
        facts.append(setting.range)
    where = f"environment `{setting.variable}`" if setting.variable else "not in the environment"
    return " · ".join([*facts, where])


def limits_page() -> str:
    """The fields of `Limits`, from their own comments."""
    fields = _field_comments(config.Limits)
    rows = ["| field | what it limits |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| `{name}` | {text} |" for name, text in fields.items())])


def reasons_page() -> str:
    """Why a task ended: the members of `Reason`, from their own comments."""
    rows = ["| reason | when | counts as a crash |", "| --- | --- | --- |"]
    for name, text in _field_comments(tasks.Reason).items():
        reason = tasks.Reason[name]
        rows.append(f"| `{reason}` | {text} | {'yes' if reason.crash else ''} |")
    return "\n".join(rows)


def _field_comments(cls: type) -> dict[str, str]:
    found: dict[str, str] = {}
    text: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        if comment := _MEANING.match(line):
            text.append(comment["text"])
        elif (name := re.match(r"^    (\w+)(:| =)", line)) and text:
            found[name[1]] = " ".join(text)
            text = []
    return found


def hooks_page() -> str:
    """The hooks, by the groups that the code has them in.

    Raises:
        Undocumented: one lacks a part of its documentation, its test, or somebody who uses it.
    """
    lines: list[str] = []
    for line in inspect.getsource(hookspecs).splitlines():
        if line in ("# provide", "# decide", "# observe"):
            lines += ["", f"## {line[2:].capitalize()}", ""]
        elif found := re.match(r"def (fossa_\w+)", line):
            lines += _hook(getattr(hookspecs, found[1]))
    return "\n".join(lines)


class Undocumented(Exception):
    """The code has something that the reference cannot tell of."""


def _hook(hook: Any) -> list[str]:
    name = hook.__name__
    if lacking := lacking_of(hook):
        raise Undocumented(f"the hook {name} lacks {', '.join(lacking)}: see fossa/hookspecs.py")
    users = ", ".join(f"`{place}`" for place in places_of(name, USERS))
    return [*_directive(f"autofunction:: fossa.hookspecs.{name}"), f"Used by {users}.", ""]


def lacking_of(hook: Any) -> list[str]:
    """What a hook should have and does not."""
    text = inspect.getdoc(hook) or ""
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    wanted = {
        "a first sentence that says when it is called": text.startswith("Called "),
        "Returns:": re.search(r"^Returns:\n +\S", text, re.MULTILINE),
        "a sentence about Raising": re.search(r"^Raising\b", text, re.MULTILINE),
        "a test that names it": places_of(hook.__name__, TESTS, only_in="test_"),
        "a plugin or an example that uses it": places_of(hook.__name__, USERS),
    }
    for argument in inspect.signature(hook).parameters:
        wanted[f"the argument {argument}"] = re.search(rf"^ +{argument}: \S", arguments, re.M)
    return [part for part, found in wanted.items() if not found]


#: Where plugins of ours and examples are, and where tests are.
USERS = ("fossa/builtin/*.py", "plugins/*/fossa_*/*.py", "examples/**/*.py", "docs/how-to/*.md")
TESTS = ("tests/test_*.py", "plugins/*/tests/test_*.py")


def places_of(hook: str, patterns: tuple[str, ...], only_in: str = "") -> list[str]:
    """Files that implement a hook; those with a function that names it, if its own name begins so.

    As paths from the root of the repository.
    """
    root = Path(__file__).parents[1]
    files = sorted({file for pattern in patterns for file in root.glob(pattern)})
    return [str(f.relative_to(root)) for f in files if _names_it(f.read_text(), hook, only_in)]


def _names_it(text: str, hook: str, only_in: str) -> bool:
    if not only_in:
        return f"def {hook}(" in text
    if hook not in text:
        return False
    functions = (
        ast.get_source_segment(text, node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith(only_in)
    )
    return any(re.search(rf"\b{hook}\b", function) for function in functions)


def names_page() -> str:
    """The public names of `fossa`, by the groups of its `__all__`."""
    return _names(fossa)


def testing_page() -> str:
    """The fixtures of the pytest plugin, and the public names of `fossa.testing`."""
    from fossa.testing import pytest_plugin

    lines = ["## Fixtures", ""]
    for name, thing in vars(pytest_plugin).items():
        if type(thing).__name__ == "FixtureFunctionDefinition":
            lines += [f"`{name}`", *_definition(thing.__doc__ or ""), ""]
    return "\n".join([*lines, _names(importlib.import_module("fossa.testing"))])


def _definition(text: str) -> list[str]:
    """A docstring as the definition of a term."""
    first, *others = inspect.cleandoc(text).splitlines()
    return [f": {first}", *(f"  {line}".rstrip() for line in others)]


def _names(module: ModuleType) -> str:
    source = inspect.getsource(module).partition("__all__ = [")[2].partition("]")[0]
    lines: list[str] = []
    for line in map(str.strip, source.splitlines()):
        if line.startswith("# "):
            lines += ["", f"## {_title(line[2:])}", ""]
        elif found := re.match(r'"(\w+)",', line):
            lines += _documented(module, found[1])
    return "\n".join(lines)


def _documented(module: ModuleType, name: str) -> list[str]:
    thing = getattr(module, name)
    if name == "BaseConfig":
        return _defined(name, "The base class of configs: see [the settings](settings.md).")
    if name == "hookimpl":
        return _defined(name, "Marks the implementation of a hook: see [the hooks](hooks.md).")
    if inspect.isfunction(thing):
        return _directive(f"autofunction:: {module.__name__}.{name}")
    members = [":members:"]
    if name.endswith("Contract"):
        members = [":members:", ":exclude-members: " + ", ".join(_tests(thing))]
    return _directive(f"autoclass:: {module.__name__}.{name}", *members, ":undoc-members:")


def _tests(suite: type) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


def _defined(name: str, text: str) -> list[str]:
    return [f"`fossa.{name}`", f": {text}", ""]


def _directive(*lines: str) -> list[str]:
    first, *options = lines
    return ["```{eval-rst}", f".. {first}", *(f"   {o}" for o in options), "```", ""]


def cli_page() -> str:
    """What each command says of itself."""
    import click

    from fossa.cli import main

    lines: list[str] = []
    for path, command in _commands(main, "fossa"):
        context = click.Context(command, info_name=path, terminal_width=92, max_content_width=92)
        lines += [f"## {path}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        if not sub.hidden:
            yield from _commands(sub, f"{path} {name}")


def http_page() -> str:
    """The operations of the OpenAPI document."""
    document = openapi()
    lines: list[str] = []
    base = document["servers"][0]["url"]
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            if isinstance(operation, Mapping) and "responses" in operation:
                lines += _operation(document, verb.upper(), base + path, operation)
    lines += ["## Documents", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += _document(name, schema)
    return "\n".join(lines)


def _document(name: str, schema: Any) -> list[str]:
    lines = [f"### {name}", "", schema.get("description", ""), ""]
    if "properties" not in schema:
        return lines
    lines += ["| member | type | what it is |", "| --- | --- | --- |"]
    lines += [
        f"| `{member}` | {_name(about)} | {_cell(about)} |"
        for member, about in schema["properties"].items()
    ]
    return [*lines, ""]


def openapi() -> Mapping[str, Any]:
    """The document that the node serves."""
    module = importlib.import_module("fossa.admin.openapi")
    found: Mapping[str, Any] = module.openapi_document("/api/1")
    return found


def _operation(document: Any, verb: str, path: str, operation: Any) -> list[str]:
    lines = [f"## {verb} {path}", ""]
    lines += [text for text in (operation.get("summary"), operation.get("description")) if text]
    if parameters := [_resolved(document, p) for p in operation.get("parameters", ())]:
        lines += ["", "| parameter | in | what it is |", "| --- | --- | --- |"]
        lines += [f"| `{p['name']}` | {p['in']} | {_cell(p)} |" for p in parameters]
    if body := operation.get("requestBody"):
        lines += ["", f"Body: {_shape(_resolved(document, body))}"]
    lines += ["", "| status | answer |", "| --- | --- |"]
    for status, referred in sorted(operation["responses"].items()):
        response = _resolved(document, referred)
        text = " ".join(response.get("description", "").split())
        lines.append(f"| {status} | {text} {_shape(response)} |")
    return [*lines, ""]


def _resolved(document: Any, value: Any) -> Any:
    if "$ref" not in value:
        return value
    found = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def _cell(parameter: Any) -> str:
    text = parameter.get("description") or parameter.get("schema", {}).get("description", "")
    return " ".join(text.split()).replace("|", "\\|")


def _shape(value: Any) -> str:
    names = [_name(c.get("schema", {})) for c in value.get("content", {}).values()]
    return ", ".join(f"`{n}`" for n in names if n)


def _name(schema: Any) -> str:
    """What a schema is, in a word or two."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if either := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_name, either))
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"array of {_name(schema.get('items', {}))}"
    return kind if isinstance(kind, str) else " or ".join(kind)


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]


PAGES = {
    "settings.md": settings_page,
    "limits.md": limits_page,
    "reasons.md": reasons_page,
    "hooks.md": hooks_page,
    "names.md": names_page,
    "testing.md": testing_page,
    "cli.md": cli_page,
    "http.md": http_page,
}


def write_all(directory: Path) -> None:
    """Write every generated page; one that has not changed is left alone."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        file, text = directory / name, page() + "\n"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
