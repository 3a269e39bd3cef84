"""`/api/1/`, and the document that describes it."""

import asyncio
import io
import json
import re
import time
import uuid
from datetime import datetime
from pathlib import Path

import ayeaye
import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings, strategies

from fossa import Fossa, hookimpl
from fossa.admin.api_1 import FIELDS
from fossa.tasks import Status
from http_support import HttpConfig, ended, get, hosted, post, serving, submitted
from support import running, until

TASKS = "/api/1/tasks"
JSON = {"Content-Type": "application/json"}
NAP = {"method": "sleep", "method_kwargs": {"seconds": 30}}


def is_error(answer, status):
    error = answer["error"]
    assert set(answer) == {"error"}
    assert set(error) == {"status", "message", "reason"}
    assert error["status"] == status
    assert error["message"]
    assert re.fullmatch("[a-z_]+", error["reason"])
    return error["reason"]


# submit


async def test_a_submitted_task():
    async with serving() as (_, session):
        members = {
            "model": "Echo",
            "method": "say",
            "method_kwargs": {"what": "é"},
            "model_construction_kwargs": {"greeting": "hi"},
            "resolver_context": {"a": "b"},
            "idempotency_key": "key-1",
            "timeout": 20,
            "retries": 2,
            "priority": 7,
        }
        async with session.post(TASKS, json=members) as response:
            assert response.status == 202
            task = await response.json()
            assert response.headers["Location"] == f"{TASKS}/{task['id']}"
            assert response.headers["Content-Type"] == "application/json"
        assert task["status"] == "queued"
        assert task["outcome"] is None
        assert uuid.UUID(task["id"]).version == 7
        done = await ended(session, task["id"])
        assert done["outcome"]["result"] == {"greeting": "hi", "what": "é"}
        given = ("method_kwargs", "model_construction_kwargs", "resolver_context")
        assert done["arguments"] == {name: members[name] for name in given}
        for name in ("model", "method", "idempotency_key", "timeout", "retries", "priority"):
            assert done[name] == members[name]
        assert done["source"] == "http"
        moments = [datetime.fromisoformat(done[k]) for k in ("accepted", "started", "finished")]
        assert moments == sorted(moments)


async def test_a_submission_with_a_known_key_is_the_same_task():
    async with serving() as (_, session):
        body = {"model": "Nothing"}
        key = {"Idempotency-Key": "k"}
        status, first = await post(session, TASKS, body, headers=key)
        assert (status, first["idempotency_key"]) == (202, "k")
        for again in (
            post(session, TASKS, body, headers=key),
            post(session, TASKS, {**body, "idempotency_key": "k"}),
        ):
            status, second = await again
            assert (status, second["id"]) == (200, first["id"])
        differs = {**body, "idempotency_key": "other"}
        status, answer = await post(session, TASKS, differs, headers=key)
        assert status == 400
        assert "differ" in answer["error"]["message"]
        _, page = await get(session, TASKS)
        assert len(page["tasks"]) == 1


async def test_null_is_the_default():
    async with serving() as (_, session):
        task = await submitted(session, "Nothing", **dict.fromkeys(FIELDS[2:]))
        assert (await ended(session, task["id"]))["status"] == "complete"


async def test_an_accepted_task_is_seen_at_once(tmp_path):
    async with serving(LEDGER="sqlite", STATE_DIR=str(tmp_path)) as (_, session):
        for _ in range(50):
            task = await submitted(session, "Nothing")
            assert (await get(session, f"{TASKS}/{task['id']}"))[0] == 200
            _, page = await get(session, f"{TASKS}?limit=1")
            assert page["tasks"][0]["id"] == task["id"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"{bad", 400, "JSON"),
        (b"\xff\xfe\x00", 400, "JSON"),
        (b'{"model":"\xff"}', 400, "JSON"),
        (b'{"model":"Echo","method_kwargs":{"what":"\\ud800"}}', 400, ""),
        (b"[" * 1_000_000, 400, ""),
        (b'{"model":"Echo","method_kwargs":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, 400, ""),
        (b'{"model":"Echo","method_kwargs":{"a":' + b"[" * 40 + b"]" * 40 + b"}}", 400, "DEPTH"),
        (b'{"model":"Echo","timeout":1e999}', 400, ""),
        (b'{"model":"Echo","priority":' + b"9" * 5000 + b"}", 400, ""),
        (b'{"model":"Echo","method_kwargs":{"a":NaN}}', 400, "JSON"),
        (b"5", 400, "object"),
        (b"null", 400, "object"),
        (b"[]", 400, "object"),
        (b"{}", 400, "model is missing"),
        (b'{"model":"Echo","priorty":1}', 400, "did you mean priority?"),
        (b'{"model":"Echo","":1}', 400, ""),
        (b'{"model":"Echoo"}', 412, "did you mean 'Echo'?"),
        (b'{"model":null}', 412, ""),
        (b'{"model":["Echo"]}', 412, ""),
        (b'{"model":"Echo","method":"_secret"}', 412, "_secret"),
        (b'{"model":"Echo","method":5}', 412, ""),
        (b'{"model":"Echo","method_kwargs":[]}', 400, "method_kwargs"),
        (b'{"model":"Echo","timeout":-1}', 400, "timeout"),
        (b'{"model":"Echo","retries":1.5}', 400, "retries"),
        (b'{"model":"Echo","retries":true}', 400, "retries"),
        (b'{"model":"Echo","priority":101}', 400, "priority"),
        (b'{"model":"Echo","idempotency_key":"a b"}', 400, "idempotency_key"),
        (b'{"model":"Echo","idempotency_key":5}', 400, "idempotency_key"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
async def test_bad_submissions_are_refused(body, status, says):
    async with serving() as (node, session):
        async with session.post(TASKS, data=body, headers=JSON) as response:
            answer = await response.json()
            assert response.status == status, answer
        is_error(answer, status)
        assert says in answer["error"]["message"]
        assert await node.governor.page() == []


async def test_hostile_headers_are_refused():
    async with serving() as (_, session):
        body = b'{"model":"Nothing"}'
        for kind in ("text/plain", "", "application/jsonp", "multipart/form-data"):
            headers = {"Content-Type": kind}
            async with session.post(TASKS, data=body, headers=headers) as response:
                assert is_error(await response.json(), 415) == "unsupported_media_type"
        for key in ("", "a b", "é", "x" * 201):
            headers = {**JSON, "Idempotency-Key": key}
            async with session.post(TASKS, data=body, headers=headers) as response:
                is_error(await response.json(), 400)


async def test_a_full_queue_answers_503():
    async with serving(SLOTS=1, MAX_QUEUED_TASKS=1) as (node, session):
        await submitted(session, "Echo", **NAP)
        await until(lambda: node.governor.status()["running"])
        await submitted(session, "Nothing")
        async with session.post(TASKS, json={"model": "Nothing"}) as response:
            assert is_error(await response.json(), 503) == "queue_full"
            assert response.headers["Retry-After"] == "1"


async def test_a_stopping_node_still_answers_and_takes_nothing():
    async with serving() as (node, session):
        task = await submitted(session, "Echo", method="sleep", method_kwargs={"seconds": 1.5})
        await until(lambda: node.governor.status()["running"])
        stopping = asyncio.create_task(node.stop())
        await until(lambda: node.governor.status()["state"] == "stopping")
        status, answer = await post(session, TASKS, {"model": "Nothing"})
        assert is_error(answer, status) == "node_stopping"
        assert status == 503
        status, ready = await get(session, "/api/1/health/ready")
        assert (status, ready) == (503, {"ready": False, "reasons": ["the node is stopping"]})
        assert (await get(session, f"{TASKS}/{task['id']}"))[1]["status"] == "running"
        await stopping


# one task


async def test_waiting_for_the_end():
    async with serving() as (node, session):
        task = await submitted(session, "Echo", method="sleep", method_kwargs={"seconds": 0.3})
        path = f"{TASKS}/{task['id']}"
        status, seen = await get(session, f"{path}?wait=0.05")
        assert (status, seen["outcome"]) == (200, None)
        for _ in range(5):
            await get(session, f"{path}?wait=0.001")
        assert node.governor._live[task["id"]].waiters == []
        _, seen = await get(session, f"{path}?wait=20")
        assert seen["outcome"]["result"] == 0.3
        began = asyncio.get_running_loop().time()
        await get(session, f"{path}?wait=20")
        assert asyncio.get_running_loop().time() - began < 5


async def test_a_failed_task_tells_why():
    async with serving() as (_, session):
        task = await ended(session, (await submitted(session, "Fails"))["id"])
        outcome = task["outcome"]
        assert (outcome["status"], outcome["reason"]) == ("failed", "exception")
        assert (outcome["error"], outcome["message"]) == ("ValueError", "no such luck")
        assert "models.py" in outcome["traceback"][-1]


async def test_unknown_tasks():
    async with serving() as (_, session):
        for name in ("x", "%00", "%ff", "é", "..%2f", "x" * 3000):
            for method, rest in (
                ("GET", ""), ("GET", "?wait=1"), ("GET", "/subtasks"), ("GET", "/logs"),
                ("POST", "/cancel"), ("POST", "/retry"),
            ):  # fmt: skip
                async with session.request(method, f"{TASKS}/{name}{rest}") as response:
                    assert is_error(await response.json(), 404) in ("unknown_task", "not_found")


async def test_cancel():
    async with serving() as (_, session):
        task = await submitted(session, "Echo", **NAP)
        path = f"{TASKS}/{task['id']}"
        status, answer = await post(session, f"{path}/cancel")
        assert (status, answer["id"]) == (202, task["id"])
        assert (await ended(session, task["id"]))["status"] == "cancelled"
        status, answer = await post(session, f"{path}/cancel")
        assert is_error(answer, status) == "too_late"
        assert status == 409


async def test_retry():
    async with serving() as (_, session):
        failed = await submitted(session, "Fails")
        await ended(session, failed["id"])
        async with session.post(f"{TASKS}/{failed['id']}/retry") as response:
            assert response.status == 202
            again = await response.json()
            assert response.headers["Location"] == f"{TASKS}/{again['id']}"
        assert again["retry_of"] == failed["id"]
        assert (await ended(session, again["id"]))["status"] == "failed"
        under_way = await submitted(session, "Echo", **NAP)
        status, answer = await post(session, f"{TASKS}/{under_way['id']}/retry")
        assert is_error(answer, status) == "too_late"
        assert status == 409


async def test_logs():
    async with serving() as (_, session):
        task = await submitted(session, "Writes", "many", method_kwargs={"count": 25})
        await ended(session, task["id"])
        path = f"{TASKS}/{task['id']}/logs"
        lines, following = [], f"{path}?limit=10"
        while following:
            status, answer = await get(session, following)
            assert status == 200
            lines += answer["lines"]
            following = answer["next"]
        assert [line["text"] for line in lines] == [f"line {i}" for i in range(25)]
        assert [line["position"] for line in lines] == list(range(1, 26))
        assert {line["stream"] for line in lines} == {"stdout"}
        datetime.fromisoformat(lines[0]["time"])


class Waits(ayeaye.Model):
    def build(self):
        pass

    def between(self, path):
        """Writes two lines, and in between waits for a file."""
        print("one")
        while not Path(path).exists():
            time.sleep(0.01)
        print("two")


async def test_following_the_log_of_a_running_task(tmp_path):
    go = tmp_path / "go"
    async with serving(ACCEPTED_MODEL_CLASSES=[Waits]) as (_, session):
        task = await submitted(session, "Waits", "between", method_kwargs={"path": str(go)})
        following, texts = f"{TASKS}/{task['id']}/logs?wait=20", []
        while following:
            status, answer = await get(session, following)
            assert status == 200
            texts += [line["text"] for line in answer["lines"]]
            go.touch() if texts == ["one"] else None
            following = answer["next"] and f"{answer['next']}&wait=20"
        assert texts == ["one", "two"]


async def test_waiting_for_lines_ends_with_the_task():
    async with serving() as (_, session):
        task = await submitted(session, "Echo", method="sleep", method_kwargs={"seconds": 0.3})
        status, answer = await get(session, f"{TASKS}/{task['id']}/logs?wait=30")
        assert (status, answer) == (200, {"lines": [], "next": None})


# pages of tasks


async def follow(session, path):
    found = []
    while path:
        status, page = await get(session, path)
        assert status == 200, page
        found += page["tasks"]
        path = page["next"]
    return found


async def test_pages_of_tasks():
    async with serving() as (_, session):
        ids = [
            (await submitted(session, model))["id"]
            for model in ("Nothing", "Fails", "Nothing", "Nothing", "Fails", "Nothing")
        ]
        for task_id in ids:
            await ended(session, task_id)
        for limit in (1, 2, 3, 6, 200):
            found = await follow(session, f"{TASKS}?limit={limit}")
            assert [t["id"] for t in found] == ids[::-1]
        _, page = await get(session, f"{TASKS}?limit=6")
        assert page["next"] is None
        failed = [ids[4], ids[1]]
        for query in ("status=failed", "model=Fails", "status=failed&model=Fails"):
            found = await follow(session, f"{TASKS}?limit=1&{query}")
            assert [t["id"] for t in found] == failed
        assert await follow(session, f"{TASKS}?model=%00%ff") == []


async def test_subtasks():
    async with serving() as (_, session):
        task = await submitted(session, "Squares", model_construction_kwargs={"count": 7})
        await ended(session, task["id"])
        assert len((await get(session, TASKS))[1]["tasks"]) == 1
        path = f"{TASKS}/{task['id']}/subtasks"
        found = await follow(session, f"{path}?limit=3")
        assert len({t["id"] for t in found}) == 7
        assert {t["parent_id"] for t in found} == {task["id"]}
        assert await follow(session, f"{path}?status=failed") == []
        leaf = await get(session, f"{TASKS}/{found[0]['id']}/subtasks")
        assert leaf == (200, {"tasks": [], "next": None})


@pytest.mark.parametrize(
    "query",
    [
        "state=failed", "status=", "status=gone", "limit=0", "limit=201", "limit=-1", "limit=1.0",
        "limit=", "limit=%D9%A1", "limit=1&limit=2", "before=0", "before=x", "before=" + "9" * 30,
        "limit=+5", "=", "limit=1_0",
    ],
)  # fmt: skip
async def test_bad_queries_are_refused(query):
    async with serving() as (_, session):
        status, answer = await get(session, f"{TASKS}?{query}")
        assert is_error(answer, status) == "bad_request"
        assert status == 400


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "1e1", "x", "", "0x1", "١"])
async def test_bad_waits_are_refused(wait):
    async with serving() as (_, session):
        task = await submitted(session, "Nothing")
        status, answer = await get(session, f"{TASKS}/{task['id']}", params={"wait": wait})
        assert is_error(answer, status) == "bad_request"


# the node


async def test_the_node():
    async with serving(NODE_NAME="n1") as (node, session):
        status, answer = await get(session, "/api/1/node")
        assert status == 200
        assert answer == json.loads(json.dumps(node.governor.status()))
        assert (answer["name"], answer["state"], answer["slots"]) == ("n1", "running", 2)


class Watches:
    @hookimpl
    def fossa_node_started(self, node):
        pass


async def test_plugins():
    async with serving(SINKS=("log",), PLUGINS=[Watches]) as (_, session):
        status, answer = await get(session, "/api/1/plugins")
        assert status == 200
        found = {(p["kind"], p["name"]): p for p in answer["plugins"]}
        assert set(found) == {
            ("source", "http"), ("executor", "local"), ("sink", "log"), ("plugin", "Watches"),
        }  # fmt: skip
        http = found["source", "http"]
        assert http["class"] == "fossa.builtin.http.HttpSource"
        assert http["distribution"] == "ayeaye-fossa"
        assert http["version"]
        assert http["not_ready"] is None
        assert found["plugin", "Watches"]["distribution"] is None


async def test_errors_have_one_shape():
    async with serving() as (_, session):
        for method, path, status, reason in (
            ("GET", "/api/1/nope", 404, "not_found"),
            ("GET", "/api/1/", 404, "not_found"),
            ("GET", "/nope", 404, "not_found"),
            ("DELETE", TASKS, 405, "method_not_allowed"),
            ("PUT", "/api/1/node", 405, "method_not_allowed"),
            ("POST", "/", 405, "method_not_allowed"),
        ):
            async with session.request(method, path) as response:
                assert response.status == status
                assert is_error(await response.json(), status) == reason
                if status == 405:
                    assert "GET" in response.headers["Allow"]


async def test_a_mistake_of_ours_is_a_500_without_its_secrets(monkeypatch, caplog):
    async with serving() as (node, session):

        def broken():
            raise RuntimeError("the password is hunter2")

        monkeypatch.setattr(node.governor, "status", broken)
        status, answer = await get(session, "/api/1/node")
        assert is_error(answer, status) == "internal"
        assert status == 500
        assert "hunter2" not in json.dumps(answer)
        assert "hunter2" in caplog.text
        monkeypatch.undo()


async def test_it_can_be_mounted_below_a_path():
    async with running() as node:
        host = web.Application()
        host.add_subapp("/etl", node.admin_app())
        async with hosted(host) as session:
            path = "/etl/api/1/tasks"
            async with session.post(path, json={"model": "Nothing"}) as response:
                assert response.status == 202
                location = response.headers["Location"]
            assert location.startswith(f"{path}/")
            status, task = await get(session, f"{location}?wait=20")
            assert (status, task["status"]) == (200, "complete")
            await post(session, path, {"model": "Nothing"})
            _, page = await get(session, f"{path}?limit=1")
            assert page["next"].startswith(f"{path}?")
            assert len((await get(session, page["next"]))[1]["tasks"]) == 1
            status, answer = await get(session, "/etl/api/1/nope")
            assert is_error(answer, status) == "not_found"
            _, description = await get(session, "/etl/api/1/openapi.json")
            assert description["servers"] == [{"url": "/etl/api/1"}]


async def test_a_mounted_application_has_its_own_limit_for_bodies():
    async with running(HTTP_MAX_BODY_BYTES=4 << 20, MAX_ARGUMENTS_BYTES=3 << 20) as node:
        host = web.Application(client_max_size=1000)
        host.add_subapp("/etl", node.admin_app())
        async with hosted(host) as session:
            body = {"model": "Echo", "method": "say", "method_kwargs": {"what": "x" * 2_000_000}}
            data = io.BytesIO(json.dumps(body).encode())
            async with session.post("/etl/api/1/tasks", data=data, headers=JSON) as response:
                assert response.status == 202


# the description


def operations(document):
    return {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if method != "parameters"
    }


async def test_the_description_has_every_route_and_no_other():
    async with running() as node:
        app = node.admin_app()
        routes = {
            (route.method, route.resource.canonical.removeprefix("/api/1"))
            for route in app.router.routes()
            if route.method != "HEAD" and route.resource.canonical.startswith("/api/1/")
        }
        async with hosted(app) as session:
            _, document = await get(session, "/api/1/openapi.json")
        assert operations(document) == routes
        submission = document["components"]["schemas"]["Submission"]
        assert tuple(submission["properties"]) == FIELDS


class Described(HttpConfig):
    # What a generated request starts must not take long.
    SLOTS = 2
    MAX_QUEUED_TASKS = 100


# Schemathesis's own strategies use the random module.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
def test_every_answer_is_as_described():
    """Schemathesis makes requests, good and bad, and compares the answers with the document."""
    with Fossa(Described).in_thread() as node:
        url = node.node.composition.sources[0].url
        ids = [node.submit(model).id for model in ("Squares", "Fails")]
        schema = schemathesis.openapi.from_url(f"{url}/api/1/openapi.json")
        found = [result.ok() for result in schema.get_all_operations()]
        # All but the document itself, which it leaves out.
        assert len(found) == 13
        for operation in found:
            check_operation(operation, f"{url}/api/1", ids)


def check_operation(operation, url, ids):
    modes = list(schemathesis.GenerationMode)
    cases = strategies.one_of(operation.as_strategy(generation_mode=mode) for mode in modes)
    known = strategies.sampled_from([None, *ids])
    checks = schemathesis.checks.CHECKS
    # Which models and methods are accepted, the node alone knows.
    left_out = ["positive_data_acceptance"]

    @settings(
        max_examples=30, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases, task_id=known)
    def check(case, task_id):
        if task_id and "id" in case.path_parameters:
            case.path_parameters["id"] = task_id
        if task_id and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "Nothing"
        case.query.pop("wait", None)
        response = case.call(base_url=url, timeout=10)
        # A model that is not accepted is refused before the rest of the request is looked at.
        refused = ["negative_data_rejection"] if response.status_code == 412 else []
        excluded = [checks.get_one(name) for name in left_out + refused]
        case.validate_response(response, excluded_checks=excluded)

    check()


async def test_examples_of_every_operation_get_a_described_status():
    async with serving() as (_, session):
        task = await submitted(session, "Squares")
        await ended(session, task["id"])
        _, document = await get(session, "/api/1/openapi.json")
        for method, path in sorted(operations(document)):
            described = document["paths"][path][method.lower()]["responses"]
            url = "/api/1" + path.replace("{id}", task["id"])
            body = {"model": "Nothing"} if (method, path) == ("POST", "/tasks") else None
            async with session.request(method, url, json=body) as response:
                assert str(response.status) in described, (method, path)
                assert response.status < 500
                kinds = described[str(response.status)]["content"]
                assert response.content_type in kinds
        described = document["components"]["schemas"]["Task"]
        assert set(task) == set(described["properties"]) == set(described["required"])
        assert described["properties"]["status"]["enum"] == list(Status)
