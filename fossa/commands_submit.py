"""`fossa submit`: to a node, or through a broker to whichever node takes it."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

import click

from fossa.client import Client, RemoteTask
from fossa.command_line import (
    EXIT_FAILED,
    Refused,
    Via,
    client_options,
    pair,
    print_json,
    print_outcome,
    said,
    via_options,
)

if TYPE_CHECKING:
    from fossa.tasks import Outcome


@click.command()
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
@client_options
@via_options
def submit(
    client: Client,
    via: Via | None,
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
      fossa submit Nightly --via amqp://etl@rabbit/    to whichever node takes it

    Prints the task's id; through a broker, where a task has none before a node takes it, the id of
    the message. With --wait the exit status says how it ended: 0 complete, 1 failed or cancelled.
    2: no node or broker answered, or it refused the task.
    """
    document = _request(model, request, given)
    if (broker := _chosen(via)) is not None:
        from fossa.commands_via import submit_via

        submit_via(broker, document, wait=wait, as_json=as_json)
        return
    task = RemoteTask(client, client.call("POST", "/tasks", body=document)["id"])
    if not wait:
        print_json(task.document()) if as_json else click.echo(task.id)
        return
    wait_for(task, document["model"], as_json)


def _chosen(via: Via | None) -> Via | None:
    """The broker that is meant: a --url with the command itself wins over FOSSA_VIA."""
    if via is None or not said("url"):
        return via
    if said("url_via"):
        raise Refused("--url names a node and --via a broker: give one of them")
    return None


def _request(model: str | None, request: TextIO | None, given: dict[str, Any]) -> dict[str, Any]:
    """The document to send: the file's, with what the options say on top."""
    document: dict[str, Any] = _read_request(request) if request else {}
    told = {
        "model": model,
        "method": None if request and _is_default("method") else given["method"],
        "method_kwargs": dict(_json_pair(a) for a in given["args"]) or None,
        "resolver_context": dict(pair("--context", c) for c in given["contexts"]) or None,
        "idempotency_key": given["key"],
        **{name: given[name] for name in ("timeout", "retries", "priority")},
    }
    document.update({name: value for name, value in told.items() if value is not None})
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


def _json_pair(text: str) -> tuple[str, Any]:
    name, value = pair("--arg", text)
    try:
        return name, json.loads(value)
    except ValueError:
        raise Refused(
            f"--arg {name}: {value!r} is not JSON; text takes quotes: --arg {name}='\"{value}\"'"
        ) from None


def wait_for(task: RemoteTask, model: str, as_json: bool) -> None:
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
        print_json(task.document())
    else:
        print_outcome(console(), f"task {task.id}", outcome)
    sys.exit(0 if outcome.complete else EXIT_FAILED)


def _watch(task: RemoteTask, model: str, bars: Any) -> "Outcome":
    for outcome, status, progress in task.watch():
        bars.show(model, status, progress, outcome)
        if outcome is not None:
            return outcome
    raise AssertionError("a task is watched until it has ended")
