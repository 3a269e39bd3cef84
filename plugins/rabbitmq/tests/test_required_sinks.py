"""A required sink that will not have an outcome, over RabbitMQ."""

import pytest
from node_support import eventually

from fossa import settling
from fossa.testing import MemorySink


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(settling, "FIRST_DELAY", 0.01)


async def test_an_outcome_that_a_required_sink_refuses_is_a_dead_letter(start_node, client):
    sink = MemorySink(required=True, failures=settling.TRIES)
    node = await start_node("a", alone=True, SINKS=[sink])
    task = {"model": "Echo", "method": "say", "method_kwargs": {"what": 7}}
    reply = await client.ask(task, message_id="m-1")
    assert reply["outcome"]["status"] == "complete"
    headers, properties, body = await client.dead()
    assert headers["fossa-reason"] == "sink_refused"
    assert "MemorySink: it does not take outcomes: ConnectionError" in headers["fossa-detail"]
    assert sink.taken == []
    # Somebody sends it back: the sink has it now, and the model has run once.
    await client.send(body, message_id=properties.message_id, correlation_id="again")
    await client.reply("again")
    await eventually(lambda: sink.taken)
    [taken] = sink.taken
    assert taken.outcome.result["what"] == 7
    assert (await node.governor.record(taken.task.id)).attempts == 1


async def test_outcomes_of_subtasks_go_to_no_sink_of_the_node_that_runs_them(start_node):
    far, near = MemorySink(required=True), MemorySink(required=True)
    await start_node("b", alone=True, SINKS=[far])
    a = await start_node("a", SINKS=[near])
    handle = await a.submit("Squares", model_construction_kwargs={"count": 30})
    assert (await handle.outcome(20)).complete
    await eventually(lambda: near.taken)
    assert [taken.task.id for taken in near.taken] == [handle.id]
    assert far.taken == []
