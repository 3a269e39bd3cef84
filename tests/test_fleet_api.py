"""The nodes that work together, as the API, the client, the command and the page show them."""

import json
import os
import time
import zlib
from contextlib import asynccontextmanager

import pytest
import schemathesis
from playwright.async_api import expect

from fossa import Client, Sink
from fossa.admin.views import MAX_NODES
from http_support import HttpConfig, get, serving
from programs import FOSSA, run
from test_pages import HOSTILE, OWN, browsing


def other(name="grace", **about):
    """What a component has heard of another node."""
    return {
        "name": name,
        "id": f"0198f0e0-0000-7000-8000-{zlib.crc32(name.encode()):012}",
        "booted": time.time() - 7300,
        "versions": {"fossa": "1.0.0", "ayeaye": "0.1.7", "python": "3.12.1"},
        "models": ["Nightly", "Flights"],
        "slots": 8,
        "slots_free": 5,
        "running": 3,
        "queued": 1200,
        "state": "running",
        "last_seen": time.time() - 3,
        **about,
    }


class Hears(Sink):
    """Has heard of other nodes."""

    def __init__(self, *heard):
        self.heard = list(heard)

    def fleet(self):
        return self.heard

    async def take(self, task, outcome):
        pass


def hearing(*heard):
    """A config of a node that has heard of others."""

    class Config(HttpConfig):
        NODE_NAME = "ada"
        SINKS = (Hears(*heard),)

    return Config


GRACE, EDSGER = other("grace"), other("edsger", state="stopping", url="http://edsger:2345")


async def test_a_node_alone_is_a_fleet_of_one():
    async with serving(NODE_NAME="ada") as (node, session):
        status, document = await get(session, "/api/1/nodes")
        [alone] = document["nodes"]
        assert status == 200
        assert (alone["name"], alone["id"], alone["this"]) == ("ada", node.governor.id, True)
        assert alone["slots"] == 2
        assert alone["last_seen"] == pytest.approx(time.time(), abs=30)
        status, refused = await get(session, "/api/1/nodes?limit=1")
        assert (status, refused["error"]["reason"]) == (400, "bad_request")


async def test_this_node_comes_first_then_those_it_has_heard_of():
    async with serving(hearing(GRACE, EDSGER, GRACE)) as (node, session):
        _, document = await get(session, "/api/1/nodes")
        assert [n["name"] for n in document["nodes"]] == ["ada", "grace", "edsger"]
        assert [n["this"] for n in document["nodes"]] == [True, False, False]
        assert document["nodes"][2] == {**EDSGER, "this": False}
        node.composition.sinks[0].heard.clear()
        _, document = await get(session, "/api/1/nodes")
        assert [n["name"] for n in document["nodes"]] == ["ada"]


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
def test_the_answer_is_as_described(fossa_node):
    url = fossa_node(hearing(GRACE, EDSGER)).node.composition.sources[0].url
    schema = schemathesis.openapi.from_url(f"{url}/api/1/openapi.json")
    answer = schema["/nodes"]["GET"].Case().call_and_validate(base_url=f"{url}/api/1", timeout=10)
    assert len(answer.json()["nodes"]) == 3


def test_the_client_and_the_command_show_them(fossa_node):
    url = fossa_node(hearing(GRACE, EDSGER)).node.composition.sources[0].url
    assert [node["name"] for node in Client(url).nodes()] == ["ada", "grace", "edsger"]
    mine = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}
    env = {**mine, "FOSSA_URL": url}
    lines = run([*FOSSA, "nodes"], env=env).stdout.splitlines()
    shown = {line.split()[0]: line for line in lines if line}
    assert "ada (this one)" in shown["ada"]
    assert "5 of 8 free" in shown["grace"]
    assert "1,200" in shown["grace"]
    assert "Nightly, Flights" in shown["grace"]
    assert "stopping" in shown["edsger"]
    assert "http://edsger:2345" in shown["edsger"]
    documents = json.loads(run([*FOSSA, "nodes", "--json"], env=env).stdout)
    assert [d["id"] for d in documents[1:]] == [GRACE["id"], EDSGER["id"]]


# the page


@asynccontextmanager
async def seen(*heard, **look):
    """A node that has heard of others and its page in a browser, where nothing goes wrong."""
    async with (
        serving(hearing(*heard)) as (node, session),
        browsing(str(session._base_url), **look) as (page, wrong),
    ):
        await page.goto("/")
        yield node, page
        assert wrong == []


async def test_the_page_shows_the_nodes_as_they_come_and_go():
    async with seen(GRACE, EDSGER) as (node, page):
        rows = page.locator("#nodes tbody tr")
        await expect(rows).to_have_count(3)
        await expect(rows.nth(0)).to_contain_text("this node")
        await expect(rows.nth(1)).to_contain_text("3 of 8")
        await expect(rows.nth(1)).to_contain_text("1,200")
        await expect(rows.nth(2)).to_contain_text("stopping")
        link = rows.nth(2).get_by_role("link")
        await expect(link).to_have_attribute("href", "http://edsger:2345")
        await expect(page.locator("#nodes h2")).to_contain_text("3 nodes, 6 of 18 slots in use")
        # Nobody loads the page again.
        node.composition.sinks[0].heard.pop(0)
        await expect(rows).to_have_count(2)
        node.composition.sinks[0].heard.clear()
        await expect(page.locator("#nodes h2")).to_have_count(0)
        node.composition.sinks[0].heard.append(GRACE)
        await expect(rows).to_have_count(2)


async def test_what_another_node_says_is_shown_and_never_run():
    evil = other(HOSTILE, models=[HOSTILE], url=f"javascript:{OWN}", state='"><b>', slots=0)
    async with seen(evil) as (_, page):
        row = page.locator("#nodes tbody tr").nth(1)
        await expect(row).to_contain_text("<script>document.title=")
        assert await page.locator("#nodes script, #nodes img").count() == 0
        assert await row.get_by_role("link").count() == 0
        assert "owned" not in await page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_nodes_fit_a_phone(scheme):
    look = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    long = other("a-name-of-many-letters." * 6, models=[f"Model{n}" for n in range(40)])
    async with seen(GRACE, long, **look) as (_, page):
        await expect(page.locator("#nodes tbody tr")).to_have_count(3)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_only_so_many_rows_are_shown():
    many = [other(f"node-{number}") for number in range(MAX_NODES + 20)]
    async with serving(hearing(*many)) as (_, session):
        async with session.get("/") as response:
            text = await response.text()
        assert text.count('class="slots"') == MAX_NODES
        assert f"{MAX_NODES + 21} nodes" in text
        assert f"{MAX_NODES} are shown" in text
