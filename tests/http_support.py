"""A node that serves HTTP, and a client of it."""

from contextlib import asynccontextmanager

import aiohttp
from aiohttp.test_utils import TestServer

from fossa import Fossa
from support import TestConfig


class HttpConfig(TestConfig):
    SOURCES = ("http",)
    HTTP_PORT = 0


@asynccontextmanager
async def serving(config=HttpConfig, headers=None, **settings):
    """A running node and a session with it; every request has a deadline."""
    async with Fossa(config, **settings) as node:
        source = node.composition.sources[0]
        deadline = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(source.url, timeout=deadline, headers=headers) as session:
            yield node, session
            # What still runs is of no interest any more.
            await node.stop(timeout=0)


@asynccontextmanager
async def hosted(app):
    """A session with an application of a host's."""
    async with TestServer(app, host="127.0.0.1") as server:
        session = aiohttp.ClientSession(server.make_url("/"))
        try:
            yield session
        finally:
            await session.close()


async def post(session, path, document=None, **options):
    """Status and decoded answer."""
    async with session.post(path, json=document, **options) as response:
        return response.status, await response.json()


async def get(session, path, **options):
    async with session.get(path, **options) as response:
        return response.status, await response.json()


async def submitted(session, model, method="go", **members):
    """The document of a new task."""
    document = {"model": model, "method": method, **members}
    status, task = await post(session, "/api/1/tasks", document)
    assert status == 202, task
    return task


async def ended(session, task_id):
    """The document of a task once it has ended."""
    status, task = await get(session, f"/api/1/tasks/{task_id}?wait=20")
    assert status == 200
    assert task["outcome"] is not None, task
    return task
