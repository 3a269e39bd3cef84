"""A node to be weighed: it runs a few tasks, then as many as it is told to, and says when."""

import asyncio
import sys
import tempfile

from workloads import Work

from fossa import BaseConfig, Fossa


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (Work,)
    SOURCES = ("http",)
    HTTP_PORT = 0
    SLOTS = 2
    SINKS = ()


async def run(node, count):
    handles = [await node.submit(Work, "noop", method_kwargs={"i": i}) for i in range(count)]
    for handle in handles:
        assert (await handle.outcome()).complete


async def main(count):
    with tempfile.TemporaryDirectory() as directory:
        async with Fossa(Config, STATE_DIR=directory) as node:
            await run(node, 20)
            await asyncio.sleep(1)
            print("idle", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            for _ in range(count // 1000):
                await run(node, 1000)
            await asyncio.sleep(1)
            print("idle again", flush=True)
            await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main(int(sys.argv[1])))
