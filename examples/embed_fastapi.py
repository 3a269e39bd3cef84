"""A node inside a FastAPI application, started and stopped by its lifespan.

    pip install fastapi uvicorn
    uvicorn embed_fastapi:app --port 8080
    curl --request POST http://127.0.0.1:8080/greetings/Ada

One process, one node: `uvicorn --workers 4` would be four nodes, and each needs its own STATE_DIR.
"""

import os
from contextlib import asynccontextmanager

import ayeaye
from fastapi import FastAPI, Request

from fossa import BaseConfig, Fossa


class GreetEtl(ayeaye.Model):
    """Runs in a worker process: however long it takes, the application goes on answering."""

    def build(self):
        pass

    def greet(self, name):
        self.log(f"Greeting {name}")
        return f"Hello {name}"


class FossaConfig(BaseConfig):
    """What the node accepts."""

    ACCEPTED_MODEL_CLASSES = [GreetEtl]


@asynccontextmanager
async def lifespan(app):
    """The node lives as long as the application."""
    async with Fossa(FossaConfig) as node:
        app.state.node = node
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/greetings/{name}")
async def greet(name: str, request: Request):
    """Submit a task and answer with its outcome."""
    task = await request.app.state.node.submit(GreetEtl, "greet", method_kwargs={"name": name})
    outcome = await task.outcome(timeout=30)
    return {"task": task.id, "status": outcome.status, "said": outcome.result}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
