"""The command `fossa`: run a node, and talk to one."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from fossa.client import DEFAULT_URL, Client, RemoteTask
from fossa.errors import FossaError

if TYPE_CHECKING:
    from types import ModuleType

    from rich.console import Console

    from fossa.config import BaseConfig
    from fossa.tasks import Outcome

F = TypeVar("F", bound=Callable[..., Any])

#: Exit statuses: the task failed or was cancelled; there was no node, or it refused.
EXIT_FAILED, EXIT_REFUSED = 1, 2
#: Ends the name under which a script is imported whose own name is a standard module's.
_SCRIPT_SUFFIX = "_script"


class Refused(click.ClickException):
    """One line on standard error, and exit status 2."""

    exit_code = EXIT_REFUSED

    def show(self, file: Any = None) -> None:
        click.echo(f"fossa: {self.message}", err=True)


class Commands(click.Group):
    """A group whose commands' errors are messages, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FossaError as error:
            raise Refused(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run Aye-Aye ETL models on a node, and talk to one.

    \b
    Begin with a script that has a config in it:
      fossa run etl.py                     start a node
      fossa submit NothingEtl --wait       run a model on it
      fossa status                         see what it does

    FOSSA_URL and FOSSA_TOKEN in the environment say where the node is.
    """


# run


@main.command()
@click.argument("target")
@click.option("--debug", is_flag=True, help="Run models in this process: breakpoints work.")
@click.option("--host", "HTTP_HOST", metavar="ADDRESS", help="The address to listen on.")
@click.option("--port", "HTTP_PORT", type=int, metavar="N", help="The port; 0: any that is free.")
@click.option("--state-dir", "STATE_DIR", metavar="DIRECTORY", help="The node's own directory.")
@click.option("--name", "NODE_NAME", metavar="TEXT", help="The node's name.")
@click.option("--slots", "SLOTS", type=int, metavar="N", help="Attempts that run at once.")
def run(target: str, debug: bool, **given: Any) -> None:
    """Start a node and run it until Ctrl-C or SIGTERM.

    TARGET says where the config is: in a script or in a module. The name may be left out where
    only one config is defined there. The script's own run_fossa(…) is ignored.

    \b
    Examples:
      fossa run etl.py
      fossa run etl.py:FossaConfig --port 2346
      fossa run mycompany.etl:Nightly --state-dir /var/lib/fossa
      fossa run etl.py --debug             pdb and an IDE's breakpoints work

    The options win over the config; so does the environment, such as FOSSA_HTTP_PORT.
    """
    from fossa.standalone import run_fossa

    settings = {key: value for key, value in given.items() if value is not None}
    run_fossa(find_config(target), debug=debug, **settings)


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


# talk to a node


def _client_options(command: F) -> F:
    """`--url` and `--token`, which become the parameter `client`."""
    from functools import wraps

    @click.option(
        "--url", envvar="FOSSA_URL", default=DEFAULT_URL, show_default=True, show_envvar=True,
        help="Where the node answers.",
    )  # fmt: skip
    @click.option(
        "--token", envvar="FOSSA_TOKEN", show_envvar=True,
        help="The node's HTTP_TOKEN. Other users see a command's options: prefer the variable.",
    )  # fmt: skip
    @wraps(command)
    def with_client(url: str, token: str | None, **given: Any) -> Any:
        return command(client=Client(url, token), **given)

    return with_client  # type: ignore[return-value]


@main.command()
@click.argument("model", required=False)
@click.option("--method", default="go", show_default=True, help="A public method of the model.")
@click.option("--arg", "args", multiple=True, metavar="K=JSON", help="A keyword argument of it.")
@click.option(
    "--context", "contexts", multiple=True, metavar="K=V", help="A value for ayeaye's resolver."
)
@click.option("--request", type=click.File(), help="The whole request as JSON; -: standard input.")
@click.option("--wait", is_flag=True, help="Wait for the outcome and exit with it.")
@click.option("--timeout", type=float, metavar="S", help="Seconds that one attempt may take.")
@click.option("--retries", type=int, metavar="N", help="Attempts after the first.")
@click.option("--priority", type=int, metavar="N", help="Higher first; -100 to 100.")
@click.option("--key", help="Two submissions with the same key are one task.")
@click.option("--json", "as_json", is_flag=True, help="Print the task as JSON.")
@_client_options
def submit(
    client: Client,
    model: str | None,
    request: TextIO | None,
    wait: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Submit a task: run a method (go) of an accepted MODEL.

    \b
    Examples:
      fossa submit NothingEtl --wait
      fossa submit Flights --arg month=3 --arg airports='["JFK"]' --wait
      fossa submit Flights --context data_dir=/srv/data --retries 2
      echo '{"model": "Flights", "priority": 5}' | fossa submit --request -
      fossa submit Nightly --key nightly-2026-01-31    safe to say twice

    Prints the task's id. With --wait the exit status says how it ended: 0 complete, 1 failed or
    cancelled. 2: no node answered, or it refused the task.
    """
    document = _request(model, request, given)
    task = RemoteTask(client, client.call("POST", "/tasks", body=document)["id"])
    if not wait:
        _print_json(task.document()) if as_json else click.echo(task.id)
        return
    _wait(task, document["model"], as_json)


def _request(model: str | None, request: TextIO | None, given: dict[str, Any]) -> dict[str, Any]:
    """The document to send: the file's, with what the options say on top."""
    document: dict[str, Any] = _read_request(request) if request else {}
    said = {
        "model": model,
        "method": None if request and _is_default("method") else given["method"],
        "method_kwargs": dict(_json_pair(a) for a in given["args"]) or None,
        "resolver_context": dict(_pair("--context", c) for c in given["contexts"]) or None,
        "idempotency_key": given["key"],
        **{name: given[name] for name in ("timeout", "retries", "priority")},
    }
    document.update({name: value for name, value in said.items() if value is not None})
    if "model" not in document:
        raise Refused("name the model: fossa submit MODEL (fossa status lists them)")
    return document


def _is_default(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.DEFAULT


def _read_request(request: TextIO) -> dict[str, Any]:
    try:
        document = json.load(request)
    except ValueError as error:
        raise Refused(f"--request is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Refused('--request is no JSON object: it should be like {"model": "…"}')
    return document


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused(f"{option} {text}: it should be {option} NAME=VALUE")
    return name, value


def _json_pair(text: str) -> tuple[str, Any]:
    name, value = _pair("--arg", text)
    try:
        return name, json.loads(value)
    except ValueError:
        raise Refused(
            f"--arg {name}: {value!r} is not JSON; text takes quotes: --arg {name}='\"{value}\"'"
        ) from None


def _wait(task: RemoteTask, model: str, as_json: bool) -> None:
    """Show how a task comes on, then how it ended, and leave with that."""
    from fossa.terminal import TaskBars, console

    with TaskBars(console(stderr=True)) as bars:
        try:
            outcome = _watch(task, model, bars)
        except KeyboardInterrupt:
            raise Refused(
                f"task {task.id} goes on without you: fossa status {task.id}; "
                f"fossa cancel {task.id} ends it"
            ) from None
    if as_json:
        _print_json(task.document())
    else:
        _print_outcome(console(), task.id, outcome)
    sys.exit(0 if outcome.complete else EXIT_FAILED)


def _watch(task: RemoteTask, model: str, bars: Any) -> "Outcome":
    for outcome, status, progress in task.watch():
        bars.show(model, status, progress, outcome)
        if outcome is not None:
            return outcome
    raise AssertionError("a task is watched until it has ended")


def _print_outcome(console: "Console", task_id: str, outcome: "Outcome") -> None:
    line = f"task {task_id} {outcome.status} ({outcome.reason})"
    console.print(f"{line}: {outcome.message}" if outcome.message else line, markup=False)
    for frame in outcome.traceback:
        console.print(f"  {frame}", markup=False)
    if outcome.complete and outcome.result_json != b"null":
        click.echo(outcome.result_json.decode())


@main.command()
@click.argument("task_id", required=False)
@click.option("--limit", default=10, show_default=True, help="Recent tasks to show.")
@click.option("--json", "as_json", is_flag=True, help="Print documents of the API.")
@_client_options
def status(client: Client, task_id: str | None, limit: int, as_json: bool) -> None:
    """Show the node with its running and recent tasks, or one task.

    \b
    Examples:
      fossa status
      fossa status 019a4b3c-…              one task, with its outcome
      fossa status --json | jq .node.queued
      fossa status --url http://etl1:2345
    """
    if task_id is not None:
        _show_task(client, task_id, as_json)
        return
    found = {
        "node": client.node(),
        "running": client.call("GET", "/tasks", query={"status": "running"})["tasks"],
        "recent": client.call("GET", "/tasks", query={"limit": limit})["tasks"],
    }
    if as_json:
        _print_json(found)
    else:
        _show_node(**found)


def _show_task(client: Client, task_id: str, as_json: bool) -> None:
    document = client.task(task_id).document()
    if as_json:
        _print_json(document)
        return
    from fossa.terminal import console, task_facts

    console().print(task_facts(document))


def _show_node(
    node: dict[str, Any], running: list[dict[str, Any]], recent: list[dict[str, Any]]
) -> None:
    from fossa.terminal import TASK_COLUMNS, console, node_facts, table, task_row

    out = console()
    out.print(node_facts(node))
    for title, tasks in (("Running", running), ("Recent", recent)):
        if tasks:
            out.print()
            out.print(table(title, TASK_COLUMNS, [task_row(task) for task in tasks]))
    if not recent:
        out.print("No tasks yet. Submit one: fossa submit MODEL --wait")


@main.command()
@click.argument("task_id")
@click.option("--follow", "-f", is_flag=True, help="Wait for more until the task has ended.")
@_client_options
def logs(client: Client, task_id: str, follow: bool) -> None:
    """Print what a task has written: its log, prints and warnings.

    \b
    Examples:
      fossa logs 019a4b3c-…
      fossa logs 019a4b3c-… --follow
    """
    from datetime import datetime

    for _, line in client.task(task_id).lines(follow=follow):
        at = datetime.fromtimestamp(line.time).strftime("%H:%M:%S.%f")[:-3]
        click.echo(f"{at} {line.level:8} {line.text}")


@main.command()
@click.argument("task_id")
@_client_options
def cancel(client: Client, task_id: str) -> None:
    """Ask a task, and its subtasks, to stop.

    A model has some seconds to clean up (INTERRUPT_GRACE) before its process is ended.

    \b
    Example:
      fossa cancel 019a4b3c-…
    """
    RemoteTask(client, task_id).cancel()
    click.echo(f"task {task_id} was asked to stop: fossa status {task_id}")


@main.command()
@click.argument("task_id")
@click.option("--wait", is_flag=True, help="Wait for the outcome and exit with it.")
@_client_options
def retry(client: Client, task_id: str, wait: bool) -> None:
    """Do again what a task that has ended failed to do; its finished subtasks are not repeated.

    \b
    Example:
      fossa retry 019a4b3c-… --wait

    Prints the id of the new task.
    """
    task = RemoteTask(client, task_id).retry()
    if wait:
        _wait(task, task.document()["model"], as_json=False)
    else:
        click.echo(task.id)


@main.command()
def version() -> None:
    """Print the versions of Fossa, Aye-Aye and Python."""
    from importlib.metadata import version as version_of
    from platform import python_version

    click.echo(
        f"fossa {version_of('ayeaye-fossa')}, ayeaye {version_of('ayeaye')}, "
        f"Python {python_version()}"
    )


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2))
