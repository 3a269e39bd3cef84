"""`fossa submit --via`: a task goes to a broker, its outcome comes back from some node."""

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import click

from fossa.brokers import Reply, Submitted
from fossa.command_line import EXIT_FAILED, Refused, Via, print_json, print_outcome
from fossa.tasks import Request
from fossa.terminal import console

if TYPE_CHECKING:
    from fossa.brokers import Broker

#: What a submitter may say.
_FIELDS = [a.name for a in attrs.fields(Request) if a.name != "retry_of"]
#: What the API's document of an outcome has not.
_NOT_SHOWN = ("result_json", "started", "finished", "node")


def submit_via(via: Via, document: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Send a task; with `wait`, print its outcome and leave with that."""
    sent: list[Submitted] = []
    request = _request(document)
    try:
        reply = asyncio.run(_send(via.connect(), request, sent.append, wait))
    except KeyboardInterrupt:
        raise Refused(_interrupted(sent)) from None
    if reply is not None:
        _print_reply(sent[0], reply, as_json)
        sys.exit(0 if reply.outcome.complete else EXIT_FAILED)
    if as_json:
        print_json(_sent_document(sent[0]))
    else:
        click.echo(sent[0].id)


async def _send(
    broker: "Broker", request: Request, told: Callable[[Submitted], None], wait: bool
) -> Reply | None:
    async with broker:
        sent = await broker.submit(request, reply=wait)
        told(sent)
        if not wait:
            return None
        click.echo(f"{request.model}: sent to {sent.queue} as {sent.id}", err=True)
        return await broker.outcome(sent)


def _request(document: dict[str, Any]) -> Request:
    for name in document:
        if name not in _FIELDS:
            raise Refused(f"{name!r:.60} is no member of a task: there are {', '.join(_FIELDS)}")
    return Request(**{name: value for name, value in document.items() if value is not None})


def _interrupted(sent: list[Submitted]) -> str:
    if not sent:
        return (
            "the broker had not confirmed the task yet, and may have it: with the same --key it "
            "is safe to submit it again"
        )
    return (
        f"the task goes on without you, as message {sent[0].id} of {sent[0].queue}: the node that "
        "takes it tells its sinks of the outcome"
    )


def _print_reply(sent: Submitted, reply: Reply, as_json: bool) -> None:
    if as_json:
        print_json({**_sent_document(sent), **_reply_document(reply)})
        return
    what = f"task {reply.task_id}" if reply.task_id else f"message {sent.id}"
    print_outcome(console(), f"{what} on {reply.node}", reply.outcome)


def _sent_document(sent: Submitted) -> dict[str, Any]:
    return {"message_id": sent.id, "queue": sent.queue}


def _reply_document(reply: Reply) -> dict[str, Any]:
    outcome = attrs.asdict(reply.outcome, filter=lambda a, _: a.name not in _NOT_SHOWN)
    return {
        "task_id": reply.task_id,
        "node": {"name": reply.node, "id": reply.node_id},
        "outcome": {**outcome, "result": reply.outcome.result},
    }
