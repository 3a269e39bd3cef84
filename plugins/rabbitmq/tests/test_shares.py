"""Subtasks that travel together: how many, in whose lane, and what becomes of those that wait."""

import asyncio
import json

import far_models
import pytest
from msgspec import Raw
from node_support import PATIENCE, Far, eventually, page

from fossa import new_id
from fossa_rabbitmq import wire
from fossa_rabbitmq.outbox import Outbox
from fossa_rabbitmq.post import Post
from fossa_rabbitmq.shapes import Versions

#: Seconds in which what waits on a busy node begins on a free one, on a busy computer of two
#: processors at the worst: 0.1 is promised.
WORST = 1.0


@pytest.fixture
def sizes(monkeypatch):
    """How many subtasks each message had, in the order in which they were sent."""
    sizes = []
    send_off = Outbox._send_off

    def counted(self, sents):
        sizes.append(len(sents))
        send_off(self, sents)

    monkeypatch.setattr(Outbox, "_send_off", counted)
    return sizes


async def parent(start_node, **settings):
    """A node that has all its subtasks run by others, and takes none of them."""
    return await start_node("a", SOURCES=[], PLUGINS=[Far()], **settings)


async def naps(node, **kwargs):
    handle = await node.submit("Naps", model_construction_kwargs=kwargs)
    assert (await handle.outcome(PATIENCE)).complete
    return handle


async def gated(node, gate, count=40, seconds=0.02, number=8):
    """Naps whose durations are known, with a long one among them."""
    kwargs = {"count": 10, "seconds": 0.02, "number": -1}
    first = await node.submit("Gates", model_construction_kwargs=kwargs)
    assert (await first.outcome(PATIENCE)).complete
    kwargs = {"count": count, "seconds": seconds, "number": number, "gate": str(gate)}
    return await node.submit("Gates", model_construction_kwargs=kwargs)


def behind(node):
    """What waits on a node for one that came in the same lane."""
    lanes = node.governor._slots._far_lanes._lanes.values()
    return [live.task.id for lane in lanes for live in lane.waiting]


async def held_up(gate, *nodes):
    """The node on which the long one runs, and what waits there behind it."""

    def found():
        for node in nodes:
            long = [r for r in node.governor.running() if str(gate) in r.task.arguments.decode()]
            if long and behind(node):
                return node, set(behind(node))
        return None

    return await eventually(found)


async def ended(handle):
    return [r for r in await handle.subtasks(limit=1000) if r.outcome is not None]


async def until_ended(handle, count):
    async with asyncio.timeout(PATIENCE):
        while len(await ended(handle)) < count:
            await asyncio.sleep(0.02)


async def test_where_there_is_plenty_several_travel_together_and_the_last_ones_alone(
    start_node, sizes
):
    await start_node("b", alone=True)
    a = await parent(start_node)
    await naps(a, count=5, seconds=0.05)
    assert set(sizes) == {1}  # nobody knew yet how long they take
    sizes.clear()
    handle = await naps(a, count=100, seconds=0.05)
    assert sum(sizes) == 100
    assert 4 < max(sizes) <= 10  # half a second of them
    assert sizes[-2:] == [1, 1]
    assert len(sizes) < 40
    assert {r.attempts for r in await handle.subtasks(limit=1000)} == {1}


async def test_what_its_own_node_takes_is_not_taken_for_long(start_node, sizes):
    a, b = await start_node("a", PLUGINS=[Far()]), await start_node("b")
    await naps(a, count=5, seconds=0.05)
    sizes.clear()
    await naps(a, count=100, seconds=0.05)
    assert len(await page(b)) > 20
    assert max(sizes[:3]) > 1
    assert sum(size > 2 for size in sizes) > 8


async def test_long_ones_travel_alone(start_node, sizes):
    await start_node("b", alone=True, SLOTS=4)
    a = await parent(start_node)
    await naps(a, count=8, seconds=0.51)
    assert sizes == [1] * 8


async def test_what_came_in_one_lane_runs_one_after_another(start_node, sizes, tmp_path):
    """A model that asks for one at a time gets that, on a node with slots for more."""
    b = await start_node("b", alone=True, SLOTS=3)
    a = await parent(start_node)
    kwargs = {"directory": str(tmp_path), "at_most": 1, "count": 30}
    handle = await a.submit("Crowd", model_construction_kwargs=kwargs)
    assert (await handle.outcome(PATIENCE)).complete
    assert max(sizes) > 3
    assert len(await page(b)) == 30
    assert {r.outcome.result for r in await handle.subtasks(limit=100)} == {1}
    assert not behind(b)


async def test_one_lane_is_one_lane_also_where_a_node_passes_its_message_on(start_node, tmp_path):
    """It does not accept the model: another node gets the whole message."""
    b = await start_node("b", alone=True, ACCEPTED_MODEL_CLASSES=[far_models.Naps])
    c = await start_node("c", alone=True, SLOTS=3)
    a = await parent(start_node)
    kwargs = {"directory": str(tmp_path), "at_most": 1, "count": 30}
    handle = await a.submit("Crowd", model_construction_kwargs=kwargs)
    assert (await handle.outcome(PATIENCE)).complete
    assert (len(await page(b)), len(await page(c))) == (0, 30)
    assert {r.outcome.result for r in await handle.subtasks(limit=100)} == {1}


async def test_a_message_with_models_for_different_nodes(start_node, client, fresh_prefix):
    """Nodes of ours send none, but anybody may."""
    b = await start_node("b", alone=True, ACCEPTED_MODEL_CLASSES=[far_models.Naps])
    c = await start_node("c", ACCEPTED_MODEL_CLASSES=[far_models.OnlyThere])
    parent_id = new_id()
    calls = [
        ("Naps", "nap", b'{"method_kwargs":{"number":1,"seconds":0.01}}'),
        ("OnlyThere", "echo", b'{"method_kwargs":{"value":1}}'),
        ("Unknown", "go", b"{}"),
    ]
    subtasks = [
        wire.Subtask(
            id=new_id(), parent=parent_id, root=parent_id, depth=1, key="0", model=model,
            method=method, arguments=Raw(arguments), attempt=1,
        )
        for model, method, arguments in calls
    ]  # fmt: skip
    sender = wire.NodeName(id=new_id(), name="x")
    letter = wire.letter(wire.SUBTASKS, wire.Subtasks(sender, subtasks))
    said = {"type": wire.SUBTASKS, "reply_to": client.queue, "message_id": new_id()}
    queue = f"{fresh_prefix}.subtasks"
    said["headers"] = letter.properties.headers
    await client.do(client._publish, queue, letter.body, said)
    outcomes = {}
    async with asyncio.timeout(PATIENCE):
        while len(outcomes) < 3:
            await client.do(client._connection.process_data_events, 0.1)
            for _, document in client.replies[None]:
                for item in document.get("outcomes", ()):
                    outcomes[item["id"]] = item["outcome"]["reason"]
    ends = [outcomes[subtask.id] for subtask in subtasks]
    assert ends == ["returned", "returned", "refused"]
    assert [len(await page(node)) for node in (b, c)] == [1, 1]


@pytest.mark.parametrize("back", [False, True])
async def test_a_second_message_of_a_node_that_has_gone_while_the_first_is_being_dropped(
    start_node, client, fresh_prefix, tmp_path, back
):
    """What is in it runs here and cannot be stopped at once: it is settled all the same.

    Or run anew afterwards, where its node was thought to have gone and is `back`.
    """
    b = await start_node("b", SLOTS=2, INTERRUPT_GRACE=5.0)
    gone = wire.Presence(
        id=new_id(), name="gone", booted=0.0, versions=Versions(), models=[],
        slots=1, slots_free=0, running=1, queued=0, state="running",
    )  # fmt: skip
    begun = tmp_path / "begun"
    arguments = {"method_kwargs": {"begun": str(begun), "seconds": 2.0}}
    parent_id = new_id()
    subtask = wire.Subtask(
        id=new_id(), parent=parent_id, root=parent_id, depth=1, key="0", model="Unmoved",
        method="hold", arguments=Raw(json.dumps(arguments).encode()), attempt=1,
    )  # fmt: skip
    content = wire.Subtasks(wire.NodeName(id=gone.id, name="gone"), [subtask])

    async def send(kind, said, queue, exchange=""):
        letter = wire.letter(kind, said, message_id=new_id(), reply_to=client.queue)
        publish = client._channel.basic_publish
        await client.do(publish, exchange, queue, letter.body, letter.properties)

    control = f"{fresh_prefix}.control"
    await send(wire.PRESENCE, gone, "", control)
    await eventually(lambda: len(b.governor.fleet()) == 2)
    await send(wire.SUBTASKS, content, f"{fresh_prefix}.subtasks")
    await eventually(begun.exists)
    await send(wire.GOODBYE, wire.Goodbye(gone.id), "", control)
    await eventually(lambda: len(b.governor.fleet()) == 1)
    if back:
        await send(wire.PRESENCE, gone, "", control)
        await eventually(lambda: len(b.governor.fleet()) == 2)
    await send(wire.SUBTASKS, content, f"{fresh_prefix}.subtasks")
    (source,) = b.governor.composition.sources
    await eventually(lambda: not source._guests.held and not b.governor._live)
    assert await client.ready("subtasks") == 0
    await client.do(client._connection.process_data_events, 0.1)
    said = [properties.type for _, replies in client.replies.items() for properties, _ in replies]
    assert said.count(wire.OUTCOMES) == back


async def test_what_comes_in_two_messages_at_once_is_settled_with_both(
    start_node, client, fresh_prefix
):
    """The first one's other subtask is being looked up when the second comes."""
    b = await start_node("b", SLOTS=3)
    sender, parent_id = wire.NodeName(id=new_id(), name="x"), new_id()
    (source,) = b.governor.composition.sources
    for number in range(1, 11):
        first, second = (
            wire.Subtask(
                id=new_id(), parent=parent_id, root=parent_id, depth=1, key="0", model="Naps",
                method="nap", arguments=Raw(b'{"method_kwargs":{"number":1,"seconds":0.05}}'),
                attempt=1,
            )
            for _ in range(2)
        )  # fmt: skip
        letters = [
            wire.letter(
                wire.SUBTASKS,
                wire.Subtasks(sender, subtasks),
                message_id=new_id(),
                reply_to=client.queue,
                headers={wire.AGAIN_HEADER: True},
            )
            for subtasks in ([first, second], [second])
        ]

        def send(letters=letters):
            channel = client._connection.channel()  # no confirms: one right after the other
            for letter in letters:
                channel.basic_publish(
                    "", f"{fresh_prefix}.subtasks", letter.body, letter.properties
                )
            channel.close()

        await client.do(send)
        async with asyncio.timeout(PATIENCE):
            while len(await page(b)) < 2 * number:
                await asyncio.sleep(0.01)
        await eventually(lambda: not source._guests.held and not b.governor._live)
    assert not source._guests.reports._watches


async def test_a_message_is_settled_once_its_outcomes_are_confirmed_and_no_sooner(
    start_node, client, fresh_prefix, tmp_path, monkeypatch
):
    """Also where what kept it here has come again in another message."""
    b = await start_node("b", SLOTS=3)
    sender, parent_id, gate = wire.NodeName(id=new_id(), name="x"), new_id(), tmp_path / "gate"
    quick, slow = (
        wire.Subtask(
            id=new_id(), parent=parent_id, root=parent_id, depth=1, key="0", model="Gates",
            method="nap", arguments=Raw(json.dumps({"method_kwargs": kwargs}).encode()), attempt=1,
        )
        for kwargs in (
            {"number": 1, "seconds": 0.01, "gate": ""},
            {"number": 2, "seconds": 0.01, "gate": str(gate)},
        )
    )  # fmt: skip

    async def send(*subtasks):
        content = wire.Subtasks(sender, list(subtasks))
        letter = wire.letter(wire.SUBTASKS, content, message_id=new_id(), reply_to=client.queue)
        publish = client._channel.basic_publish
        await client.do(publish, "", f"{fresh_prefix}.subtasks", letter.body, letter.properties)

    (source,) = b.governor.composition.sources
    guests, confirmed = source._guests, asyncio.Event()
    publish = guests.post.send

    async def late(*arguments, **options):
        await confirmed.wait()
        await publish(*arguments, **options)

    monkeypatch.setattr(guests.post, "send", late)
    await send(quick, slow)
    await eventually(lambda: [p for p in guests.parcels.values() if p._ready])
    (first,) = guests.held
    await send(slow)
    await eventually(lambda: guests.parcels[slow.id].held is not first)
    await asyncio.sleep(0.1)
    assert not first.over
    confirmed.set()
    await eventually(lambda: first.over)
    gate.touch()
    await eventually(lambda: not guests.held)


def some_ended(parcel):
    return any(sent.outcome.done() for sent in parcel.sents)


async def test_what_is_lost_is_missed_also_where_another_of_its_message_has_ended(
    start_node, tmp_path, monkeypatch
):
    b = await start_node("b", alone=True)
    a = await parent(start_node)
    gate = tmp_path / "gate"
    # Each takes so long that its node speaks of it.
    handle = await gated(a, gate, seconds=0.3, number=4)
    await held_up(gate, b)
    (executor,) = [e for e in a.governor.composition.executors if e.name == "rabbitmq"]
    outbox = executor._outbox
    for name in ("outbox.LOOK_INTERVAL", "outbox.SILENT_AFTER"):
        monkeypatch.setattr(f"fossa_rabbitmq.{name}", 0.5)
    together = await eventually(lambda: [p for p in outbox._parcels(begun=True) if some_ended(p)])
    assert any(sent.begun for sent in together[0].sents)
    monkeypatch.setattr("fossa_rabbitmq.reports.Reports._report", lambda reports: None)
    await asyncio.sleep(1)
    missed = {sent.attempt.task.id for p in outbox._unheard_of() for sent in p.sents}
    assert outbox._sent.keys() <= missed
    gate.touch()
    await handle.cancel()
    await handle.outcome(PATIENCE)


async def test_what_a_message_has_no_room_for_is_sent_later(start_node, monkeypatch, sizes):
    """In a lane of its own, and not beside what has its lane."""
    monkeypatch.setattr("fossa_rabbitmq.outbox.LETTER_BYTES", 1200)
    await start_node("b", alone=True)
    a = await parent(start_node)
    await naps(a, count=5)
    handle = await naps(a, count=40)
    assert max(sizes) == 2
    assert {r.attempts for r in await handle.subtasks(limit=100)} == {1}


async def test_what_waits_behind_a_long_one_begins_on_the_node_that_becomes_free(
    start_node, tmp_path, record_property
):
    """Both had work when they were last heard of: which of them is free says so at once."""
    nodes = [await start_node(name, alone=True) for name in "bc"]
    a = await parent(start_node)
    gate = tmp_path / "gate"
    handle = await gated(a, gate)
    busy, waiting = await held_up(gate, *nodes)
    await until_ended(handle, 39)
    records = {r.task.id: r for r in await handle.subtasks(limit=1000)}
    other = next(n.governor.status()["name"] for n in nodes if n is not busy)
    assert {records[task_id].outcome.node for task_id in waiting} == {other}
    assert {r.attempts for r in records.values()} == {1}
    free = max(r.outcome.finished for i, r in records.items() if r.outcome and i not in waiting)
    waited = min(records[task_id].outcome.started for task_id in waiting) - free
    record_property("handed on", f"{waited * 1000:.0f} ms")
    print(f"handed on after {waited * 1000:.0f} ms")
    assert waited < WORST
    gate.touch()
    assert (await handle.outcome(PATIENCE)).complete
    assert not behind(busy)


async def test_what_waits_behind_a_long_one_begins_in_another_slot_of_its_node(
    start_node, tmp_path
):
    """There is nobody else: its node is the one that has a slot free."""
    b = await start_node("b", alone=True, SLOTS=3)
    a = await parent(start_node)
    gate = tmp_path / "gate"
    handle = await gated(a, gate)
    await held_up(gate, b)
    await until_ended(handle, 39)
    gate.touch()
    assert (await handle.outcome(PATIENCE)).complete
    assert not behind(b)


async def test_nodes_are_asked_who_is_idle_where_what_came_together_takes_long(
    start_node, tmp_path, monkeypatch
):
    """They may have said so before it came."""
    asked, announce = [], Post.announce

    def listened(post, *, hello=False):
        asked.append((post.node.name, hello))
        announce(post, hello=hello)

    b = await start_node("b", alone=True)
    a = await parent(start_node)
    monkeypatch.setattr(Post, "announce", listened)
    gate = tmp_path / "gate"
    handle = await gated(a, gate)
    await held_up(gate, b)
    await eventually(lambda: ("b", True) in asked)
    gate.touch()
    assert (await handle.outcome(PATIENCE)).complete


async def test_what_waits_behind_a_long_one_is_run_elsewhere_when_its_node_stops(
    start_node, tmp_path
):
    b = await start_node("b", alone=True)
    a = await parent(start_node)
    gate = tmp_path / "gate"
    handle = await gated(a, gate)
    _, waiting = await held_up(gate, b)
    c = await start_node("c")
    stopping = asyncio.create_task(b.stop(timeout=PATIENCE))
    await until_ended(handle, 39)
    assert waiting <= {r.task.id for r in await page(c)}
    gate.touch()
    assert (await handle.outcome(PATIENCE)).complete
    await stopping
    assert {r.attempts for r in await handle.subtasks(limit=1000)} == {1}


async def test_what_waits_behind_a_long_one_is_cancelled_with_its_parent(start_node, tmp_path):
    b = await start_node("b", alone=True)
    a = await parent(start_node)
    gate = tmp_path / "gate"
    handle = await gated(a, gate)
    await held_up(gate, b)
    await handle.cancel()
    await eventually(lambda: not b.governor._live)
    assert not b.governor._slots._far_lanes._lanes
    await until_ended(handle, 40)
    records = await handle.subtasks(limit=1000)
    assert {str(r.status) for r in records if not r.outcome.complete} == {"cancelled"}
    await naps(a, count=5)  # its slots are there for others
