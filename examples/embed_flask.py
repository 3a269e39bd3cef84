"""A node inside a Flask application, which has threads and no event loop.

    pip install flask
    python embed_flask.py
    curl --request POST http://127.0.0.1:8080/greetings/Ada

The node runs on an event loop in a thread of its own; any thread may ask it.
"""

import os

import ayeaye
from flask import Flask, jsonify

from fossa import BaseConfig, Fossa


class GreetEtl(ayeaye.Model):
    """Runs in a worker process, not in a thread of the web server."""

    def build(self):
        pass

    def greet(self, name):
        self.log(f"Greeting {name}")
        return f"Hello {name}"


class FossaConfig(BaseConfig):
    """What the node accepts."""

    ACCEPTED_MODEL_CLASSES = [GreetEtl]


def create_app(node):
    """The application, given a node that runs."""
    app = Flask(__name__)

    @app.post("/greetings/<name>")
    def greet(name):
        """Submit a task and answer with its outcome."""
        outcome = node.submit(GreetEtl, "greet", method_kwargs={"name": name}).outcome(timeout=30)
        return jsonify(status=outcome.status, said=outcome.result)

    @app.post("/tasks")
    def submit():
        """Submit a task and answer at once; GET tells how it stands."""
        task = node.submit(GreetEtl, "greet", method_kwargs={"name": "whoever asks later"})
        return jsonify(task=task.id), 202

    @app.get("/tasks/<task_id>")
    def status(task_id):
        return jsonify(status=node.task(task_id).status)

    return app


if __name__ == "__main__":
    with Fossa(FossaConfig).in_thread() as running:
        create_app(running).run(port=int(os.environ.get("PORT", "8080")), threaded=True)
