"""The nodes of a fleet, as each of them tells of the others."""

import asyncio
import os
import time

import aiohttp
import far_models
import pytest
from node_support import PATIENCE, eventually
from test_kill_points import killed, victim

from fossa import use
from fossa_rabbitmq.fleet import GONE_AFTER, LOOKS, PRESENCE_INTERVAL
from programs import FOSSA, run

#: Seconds after which a node that stopped, however it did, is shown no more.
GONE = 15


@pytest.fixture
async def ada(start_node):
    """A node that answers by HTTP."""
    rabbit = use("rabbitmq", **start_node.options)
    return await start_node("ada", HTTP_PORT=0, SLOTS=3, SOURCES=["http", rabbit])


def url_of(node):
    return next(s.url for s in node.governor.composition.sources if s.name == "http")


async def nodes(node):
    """What `GET /api/1/nodes` answers, by name."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url_of(node)}/api/1/nodes") as response,
    ):
        assert response.status == 200
        return {found["name"]: found for found in (await response.json())["nodes"]}


async def test_each_node_of_three_is_told_of_with_what_it_runs(ada, start_node):
    grace = await start_node("grace", SLOTS=2)
    edsger = await start_node("edsger", ACCEPTED_MODEL_CLASSES=[far_models.Naps])
    before = time.time()
    found = await nodes(ada)
    assert {name: n["id"] for name, n in found.items()} == {
        "ada": ada.governor.id, "grace": grace.governor.id, "edsger": edsger.governor.id,
    }  # fmt: skip
    assert [name for name, n in found.items() if n["this"]] == ["ada"]
    assert [found[name]["slots"] for name in ("ada", "grace", "edsger")] == [3, 2, 1]
    assert found["edsger"]["models"] == ["Naps"]
    assert "Sends" in found["grace"]["models"]
    for name in ("grace", "edsger"):
        assert found[name]["versions"] == found["ada"]["versions"]
        assert before - PATIENCE < found[name]["last_seen"] <= time.time()
        assert found[name]["booted"] <= found[name]["last_seen"]


async def test_what_a_node_runs_is_told_of(ada, start_node, monkeypatch):
    monkeypatch.setattr("fossa_rabbitmq.post.PRESENCE_INTERVAL", 0.2)
    grace = await start_node("grace")
    handle = await grace.submit("Talks", "talk", method_kwargs={"go": "/no/such/file"})
    await eventually(lambda: _numbers(ada, "grace") == (1, 0))
    await handle.cancel()
    await eventually(lambda: _numbers(ada, "grace") == (0, 1))


def _numbers(node, name):
    """What another node runs, and its free slots, as this one has heard of it."""
    return next((n["running"], n["slots_free"]) for n in node.governor.fleet() if n["name"] == name)


async def test_the_command_shows_them(ada, start_node):
    await start_node("grace", SLOTS=2)
    mine = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}
    shown = await asyncio.to_thread(
        run, [*FOSSA, "nodes"], env=mine | {"FOSSA_URL": url_of(ada), "COLUMNS": "200"}
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert any("ada (this one)" in line and "3 of 3 free" in line for line in lines)
    assert any("grace" in line and "2 of 2 free" in line for line in lines)


async def test_a_node_that_stops_is_gone_at_once(ada, start_node):
    grace = await start_node("grace")
    assert set(await nodes(ada)) == {"ada", "grace"}
    await grace.stop()
    began = time.monotonic()
    await eventually(lambda: len(ada.governor.fleet()) == 1)
    assert time.monotonic() - began < 2
    assert set(await nodes(ada)) == {"ada"}


@pytest.mark.slow
async def test_a_node_that_is_killed_is_gone_in_time(ada, broker, fresh_prefix, tmp_path):
    async with victim(broker, fresh_prefix, tmp_path / "state") as process:
        await eventually(lambda: len(ada.governor.fleet()) == 2)
        process.kill()
        await killed(process)
        began = time.monotonic()
        await eventually(lambda: len(ada.governor.fleet()) == 1, GONE)
        # Not for its silence of a moment.
        assert time.monotonic() - began > PRESENCE_INTERVAL
    assert set(await nodes(ada)) == {"ada"}


def test_the_silence_that_is_waited_for_is_noticed_in_time():
    """Whatever the moment at which a node was killed."""
    assert GONE_AFTER + PRESENCE_INTERVAL / LOOKS <= GONE - 1
