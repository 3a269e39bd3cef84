"""A node inside an aiohttp application: one process, one event loop.

    python embed_aiohttp.py
    curl --request POST http://127.0.0.1:8080/greetings/Ada

The node's own pages and API are mounted below /fossa/.
"""

import os

import ayeaye
from aiohttp import web

from fossa import BaseConfig, Fossa


class GreetEtl(ayeaye.Model):
    """Runs in a worker process: however long it takes, the application goes on answering."""

    def build(self):
        pass

    def greet(self, name):
        self.log(f"Greeting {name}")
        return f"Hello {name}"


class FossaConfig(BaseConfig):
    """The node shares the application's address, so it needs no HTTP source of its own."""

    ACCEPTED_MODEL_CLASSES = [GreetEtl]


NODE = web.AppKey("node", Fossa)


async def greet(request):
    """Submit a task and answer with its outcome."""
    name = request.match_info["name"]
    task = await request.app[NODE].submit(GreetEtl, "greet", method_kwargs={"name": name})
    outcome = await task.outcome(timeout=30)
    return web.json_response({"task": task.id, "status": outcome.status, "said": outcome.result})


async def with_node():
    """The application and its node, which starts and stops with it."""
    node = Fossa(FossaConfig)
    await node.start()
    app = web.Application()
    app[NODE] = node
    app.router.add_post("/greetings/{name}", greet)
    app.add_subapp("/fossa/", node.admin_app())
    app.on_cleanup.append(lambda _: node.stop())
    return app


if __name__ == "__main__":
    web.run_app(with_node(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
