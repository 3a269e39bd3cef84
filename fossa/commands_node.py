"""`fossa status`, `nodes`, `logs`, `cancel`, `retry`: look at a node, and act on its tasks."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

import time
from typing import Any

import click

from fossa.client import Client, RemoteTask
from fossa.command_line import client_options, print_json
from fossa.commands_submit import wait_for


@click.command()
@click.argument("task_id", required=False)
@click.option("--limit", default=10, show_default=True, help="Recent tasks to show.")
@click.option("--json", "as_json", is_flag=True, help="Print documents of the API.")
@client_options
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
        print_json(found)
    else:
        _show_node(**found)


def _show_task(client: Client, task_id: str, as_json: bool) -> None:
    document = client.task(task_id).document()
    if as_json:
        print_json(document)
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


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print documents of the API.")
@client_options
def nodes(client: Client, as_json: bool) -> None:
    """Show the nodes that work together.

    They are those that the node that is asked has heard of; one that stops is gone in seconds.

    \b
    Examples:
      fossa nodes
      fossa nodes --json | jq '.[] | select(.slots_free > 0) | .name'
    """
    found = client.nodes()
    if as_json:
        print_json(found)
        return
    from fossa.terminal import console, table

    console().print(table("Nodes", _NODE_COLUMNS, [_node_row(node) for node in found]))


_NODE_COLUMNS = ("node", "state", "slots", "running", "queued", "models", "fossa", "seen", "url")


def _node_row(node: dict[str, Any]) -> list[Any]:
    from rich.markup import escape

    cells = {
        "node": f"{node['name']} (this one)" if node["this"] else node["name"],
        "state": node["state"],
        "slots": f"{node['slots_free']} of {node['slots']} free",
        "running": node["running"],
        "queued": node["queued"],
        "models": ", ".join(node["models"]),
        "fossa": node["versions"].get("fossa", ""),
        "seen": _seen(node),
        "url": node.get("url") or "",
    }
    return [escape(cell) if isinstance(cell, str) else cell for cell in cells.values()]


def _seen(node: dict[str, Any]) -> str:
    from fossa.terminal import duration

    return "now" if node["this"] else f"{duration(max(0.0, time.time() - node['last_seen']))} ago"


@click.command()
@click.argument("task_id")
@click.option("--follow", "-f", is_flag=True, help="Wait for more until the task has ended.")
@client_options
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


@click.command()
@click.argument("task_id")
@client_options
def cancel(client: Client, task_id: str) -> None:
    """Ask a task, and its subtasks, to stop.

    A model has some seconds to clean up (INTERRUPT_GRACE) before its process is ended.

    \b
    Example:
      fossa cancel 019a4b3c-…
    """
    RemoteTask(client, task_id).cancel()
    click.echo(f"task {task_id} was asked to stop: fossa status {task_id}")


@click.command()
@click.argument("task_id")
@click.option("--wait", is_flag=True, help="Wait for the outcome and exit with it.")
@client_options
def retry(client: Client, task_id: str, wait: bool) -> None:
    """Do again what a task that has ended failed to do; its finished subtasks are not repeated.

    \b
    Example:
      fossa retry 019a4b3c-… --wait

    Prints the id of the new task.
    """
    task = RemoteTask(client, task_id).retry()
    if wait:
        wait_for(task, task.document()["model"], as_json=False)
    else:
        click.echo(task.id)
