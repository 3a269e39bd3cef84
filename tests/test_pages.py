"""The pages, as a browser shows them."""

import asyncio
import os
import re
import shutil
import time
from contextlib import asynccontextmanager
from pathlib import Path

import ayeaye
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import async_playwright, expect

from fossa.admin.pages import MAX_SHOWN, STATIC, TAIL
from fossa.admin.views import ago, duration
from http_support import HttpConfig, serving
from support import outcome, running, until

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
OWN = "document.title='owned'"
HOSTILE = f'<script>{OWN}</script><img src=x onerror="{OWN}">&amp;'
TOKEN = "a-token-of-more-than-sixteen-characters"


class Hostile(ayeaye.Model):
    """Everything that a model can say, in HTML."""

    def build(self):
        self.log(HOSTILE)
        print(HOSTILE)
        self.log_progress(0.5, HOSTILE)
        raise ValueError(HOSTILE)

    def result(self, text):
        return {text: [text]}


class Steps(ayeaye.Model):
    """Goes on when a file appears."""

    def build(self):
        pass

    def step(self, directory):
        self.log("the first line")
        self.log_progress(0.25, "a quarter")
        while not (Path(directory) / "go").exists():
            time.sleep(0.01)
        self.log("the last line")
        return {"answer": 42}


class Config(HttpConfig):
    ACCEPTED_MODEL_CLASSES = (*HttpConfig.ACCEPTED_MODEL_CLASSES, Hostile, Steps)
    NODE_NAME = "node-7"


@asynccontextmanager
async def browsing(url, **context):
    """A page in a browser; nothing may go wrong in it unnoticed."""
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium to test the pages with: apt-get install chromium")
        pytest.skip("there is no Chromium to test the pages with: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = await browser.new_page(base_url=url, **context)
        page.set_default_timeout(15_000)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        yield page, wrong
        await browser.close()


@asynccontextmanager
async def seen(look=None, fine=(), **settings):
    """A node and a page in a browser; errors with one of the `fine` words in them are fine."""
    async with (
        serving(Config, **settings) as (node, session),
        browsing(str(session._base_url), **(look or {})) as (page, wrong),
    ):
        yield node, page
        assert [line for line in wrong if not any(word in line for word in fine)] == []


async def source_of(session, path, status=200):
    async with session.get(path) as response:
        assert response.status == status
        return await response.text()


# in a browser


async def test_the_node_at_a_glance(tmp_path):
    async with seen() as (node, page):
        assert not (await outcome(node, "Fails")).complete
        await page.goto("/")
        await expect(page).to_have_title("node-7 · Fossa")
        await expect(page.locator(".facts")).to_contain_text("running")
        await expect(page.locator("#models")).to_contain_text("Steps")
        await expect(page.locator("#running")).to_contain_text("Nothing is running")
        recent = page.locator("#recent tbody tr")
        await expect(recent).to_have_count(1)
        await expect(recent).to_contain_text("failed")
        await expect(recent).to_contain_text("no such luck")
        # From here on nobody loads the page again.
        task = await node.submit("Steps", "step", method_kwargs={"directory": str(tmp_path)})
        row = page.locator("#running tbody tr")
        await expect(row).to_contain_text("Steps.step")
        await expect(row).to_contain_text("25 %")
        await expect(page.locator(".facts")).to_contain_text("1 of 2")
        (tmp_path / "go").touch()
        await expect(recent).to_have_count(2)
        await expect(recent.first).to_contain_text("complete")
        await recent.first.get_by_role("link").click()
        await expect(page).to_have_url(re.compile(f"/task/{task.id}$"))


async def test_a_task_from_begin_to_end(tmp_path):
    async with seen() as (node, page):
        task = await node.submit("Steps", "step", method_kwargs={"directory": str(tmp_path)})
        await page.goto(f"/task/{task.id}")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Steps.step")
        await expect(page.locator("#progress")).to_contain_text("25 %")
        await expect(page.locator("#progress")).to_contain_text("a quarter")
        await expect(page.locator("#logs")).to_contain_text("the first line")
        await expect(page.locator("#about")).to_contain_text(str(tmp_path))
        (tmp_path / "go").touch()
        await expect(page.locator("#outcome pre")).to_have_text('{\n  "answer": 42\n}')
        await expect(page.locator("#logs")).to_contain_text("the last line")
        await expect(page.locator(".badge")).to_have_text("complete")
        await expect(page.get_by_role("button")).to_have_text("Run again")


async def test_cancel_and_run_again(tmp_path):
    async with seen() as (node, page):
        task = await node.submit("Steps", "step", method_kwargs={"directory": str(tmp_path)})
        await page.goto(f"/task/{task.id}")
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.locator(".badge")).to_have_text("cancelled")
        assert (await task.status()) == "cancelled"
        (tmp_path / "go").touch()
        await page.get_by_role("button", name="Run again").click()
        await page.wait_for_url(lambda url: "/task/" in url and task.id not in url)
        await expect(page.locator("#about")).to_contain_text(task.id)
        await expect(page.locator(".badge")).to_have_text("complete")


async def test_what_a_model_says_is_shown_and_never_run():
    async with seen() as (node, page):
        failed = await node.submit("Hostile")
        await failed.outcome(20)
        done = await node.submit("Hostile", "result", method_kwargs={"text": HOSTILE})
        await done.outcome(20)
        for path, places in (
            (f"/task/{failed.id}", ("#outcome", "#logs")),
            (f"/task/{done.id}", ("#outcome", "#about")),
            ("/", ("#recent",)),
        ):
            await page.goto(path)
            for place in places:
                shown = await page.locator(place).inner_text()
                assert "<script>document.title=" in shown, (path, place)
                assert "&amp;" in shown
                assert await page.locator(f"{place} script, {place} img").count() == 0
            # And what is fetched while somebody looks is no different.
            await page.evaluate("refresh()")
            assert "owned" not in await page.title()
        assert await page.locator("main script, main img").count() == 0


async def test_a_node_that_goes_away_is_told_of():
    async with seen(fine=["ERR_"]) as (node, page):
        await page.goto("/")
        await expect(page.locator("#connection")).to_have_text("")
        await node.stop(timeout=0)
        await expect(page.locator("#connection")).to_have_text("The node does not answer.")
        await expect(page.locator("#models")).to_contain_text("Steps")


async def test_signing_in():
    async with seen(fine=["401"], HTTP_TOKEN=TOKEN) as (node, page):
        task = await node.submit("Nothing")
        await task.outcome(20)
        await page.goto(f"/task/{task.id}")
        await page.get_by_label("token").fill("wrong")
        await page.get_by_role("button").click()
        await expect(page.get_by_role("alert")).to_contain_text("not this node's token")
        await page.get_by_label("token").fill(TOKEN)
        await page.get_by_role("button").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Nothing")
        # The page's own requests have the cookie.
        await page.get_by_role("button", name="Run again").click()
        await expect(page.locator("#about")).to_contain_text(task.id)
        await expect(page.locator(".badge")).to_have_text("complete")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(scheme):
    look = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    async with seen(look, fine=["404"]) as (node, page):
        failed = await node.submit("Hostile")
        await failed.outcome(20)
        squares = await node.submit("Squares")
        await squares.outcome(20)
        for path in ("/", f"/task/{failed.id}", f"/task/{squares.id}", "/task/none"):
            await page.goto(path)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, path
            ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            lightness = sum(map(int, re.findall(r"\d+", ground)[:3]))
            assert (lightness > 600) == (scheme == "light")


async def test_it_works_below_a_path():
    async with running(Config, SOURCES=()) as node:
        host = web.Application()
        host.add_subapp("/etl/fossa", node.admin_app())
        async with (
            TestServer(host, host="127.0.0.1") as server,
            browsing(str(server.make_url("/"))) as (page, wrong),
        ):
            task = await node.submit("Nothing")
            await task.outcome(20)
            await page.goto("/etl/fossa")
            assert page.url.endswith("/etl/fossa/")
            await page.locator("#recent").get_by_role("link").click()
            await expect(page).to_have_url(re.compile(f"/etl/fossa/task/{task.id}$"))
            ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert ground == "rgb(250, 248, 245)"
            await page.get_by_role("button", name="Run again").click()
            await expect(page.locator("#about")).to_contain_text(task.id)
            await page.locator(".brand").click()
            await expect(page).to_have_url(re.compile("/etl/fossa/$"))
            assert wrong == []


# their source


async def test_pages_tell_the_browser_to_be_careful():
    async with serving(Config) as (node, session):
        task = await node.submit("Nothing")
        for path in ("/", f"/task/{task.id}", "/task/none", "/?fragment=1"):
            async with session.get(path) as response:
                headers = response.headers
                assert "default-src 'self'" in headers["Content-Security-Policy"]
                assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Content-Type"] == "text/html; charset=utf-8"
                # What the policy would refuse is not there to begin with.
                refused = r"<[^>]+\s(on\w+|style)=|<style|<script>"
                assert not re.search(refused, await response.text())
        for file in STATIC.iterdir():
            async with session.get(f"/static/{file.name}") as response:
                assert response.status == 200
        async with session.get("/static/../app.py") as response:
            assert response.status == 404


async def test_a_fragment_is_the_part_that_changes():
    async with serving(Config) as (_, session):
        whole = await source_of(session, "/")
        part = await source_of(session, "/?fragment=1")
        assert "<header>" in whole
        assert "<header>" not in part
        assert 'id="running"' in part


async def test_an_unknown_task_has_a_page():
    async with serving(Config) as (_, session):
        text = await source_of(session, "/task/%3Cb%3E", status=404)
        assert "Task not found" in text
        assert "<b>&" not in text
        assert "&lt;b&gt;" in text


async def test_the_end_of_a_long_log_is_shown():
    async with serving(Config) as (node, session):
        task = await node.submit("Writes", "many", method_kwargs={"count": 2500})
        await task.outcome(30)
        for _ in range(2):
            text = await source_of(session, f"/task/{task.id}")
            assert len(re.findall("line 2[34]", text)) == TAIL
            assert "line 2499<" in text
            assert "2,300 earlier lines" in text


async def test_a_large_result_is_cut():
    async with serving(Config) as (node, session):
        task = await node.submit("Returns", "huge", method_kwargs={"size": 900_000})
        await task.outcome(30)
        text = await source_of(session, f"/task/{task.id}")
        assert MAX_SHOWN < len(text) < MAX_SHOWN + 10_000


async def test_failed_subtasks_come_first(tmp_path):
    kwargs = {"journal": str(tmp_path / "journal"), "fail_at": 2, "count": 130, "handle": True}
    async with serving(Config) as (node, session):
        task = await node.submit("Journal", model_construction_kwargs=kwargs)
        await task.outcome(30)
        text = await source_of(session, f"/task/{task.id}")
        rows = text[text.index('id="subtasks"') :].split("<tr>")[2:]
        assert len(rows) == 100
        assert "2 is not to be" in rows[0]
        assert "130 of 130 done, 1 failed" in text


async def test_two_visitors_at_the_first_moment():
    async with serving(Config) as (_, session):
        texts = await asyncio.gather(*(source_of(session, "/") for _ in range(5)))
        assert all("node-7" in text for text in texts)


async def test_a_queued_task_is_shown(tmp_path):
    async with serving(Config, SLOTS=1) as (node, session):
        for _ in range(2):
            await node.submit("Steps", "step", method_kwargs={"directory": str(tmp_path)})
        await until(lambda: node.governor.status()["running"])
        text = await source_of(session, "/")
        running_part = text[text.index('id="running"') : text.index('id="recent"')]
        assert re.findall('"badge ([a-z]+)"', running_part) == ["running", "queued"]


# words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "< 1 ms"), (0.0006, "1 ms"), (0.0124, "12 ms"), (0.9996, "1.0 s"), (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"), (3599.7, "1 h 00 min"), (7800, "2 h 10 min"), (273_600, "3 d 4 h"),
        (-5, "< 1 ms"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-9, "just now"), (0.2, "just now"), (30, "30 s ago"), (119, "119 s ago"), (600, "10 min ago"),
     (7300, "2 h ago"), (200_000, "2 d ago")],
)  # fmt: skip
def test_ages(monkeypatch, seconds, text):
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert ago(1_000_000.0 - seconds) == text


async def test_the_pages_need_nothing_from_elsewhere():
    async with serving(Config) as (_, session):
        texts = [await source_of(session, "/")]
        texts += [(STATIC / name).read_text() for name in ("fossa.css", "fossa.js")]
    assert not any(re.search(r"(src|href|url)\W{1,3}https?:", text) for text in texts)
