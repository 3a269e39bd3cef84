"""`/api/0.01/` answers as `ayeaye-fossa` 0.0.37 did: recorded from it, held here."""

import asyncio
import json
import re
from email.utils import parsedate_to_datetime

import ayeaye
import pytest
from aiohttp import web

from http_support import HttpConfig, get, hosted, post, serving
from support import TestConfig, running

A = "/api/0.01"
TEN = {
    "method", "method_kwargs", "model_class", "model_construction_kwargs",
    "on_completion_callback", "partition_initialise_kwargs", "resolver_context", "started",
    "status", "task_id",
}  # fmt: skip
FAILED = {
    "exception_class_name", "failure_origin_task_id", "method_kwargs", "method_name",
    "model_class_name", "model_construction_kwargs", "partition_initialise_kwargs",
    "resolver_context", "task_id", "traceback",
}  # fmt: skip
JSON = {"Content-Type": "application/json"}


class Cafe(ayeaye.Model):
    def build(self):
        pass

    def custom(self, **kwargs):
        return {**kwargs, "nested": {"b": [1, 2.5, None, True], "a": "café <b>&"}}

    def nothing(self):
        return None

    def key(self):
        return {}["kk"]

    def pair(self):
        return (1, 2)


class Config(HttpConfig):
    ACCEPTED_MODEL_CLASSES = (*TestConfig.ACCEPTED_MODEL_CLASSES, Cafe)


async def text(session, path, method="GET", **options):
    """Status, content type and body."""
    async with session.request(method, path, allow_redirects=False, **options) as response:
        return response.status, response.headers.get("Content-Type"), await response.text()


async def submit(session, model, **members):
    status, answer = await post(session, f"{A}/task", {"model_class": model, **members})
    assert status == 200, answer
    return answer["task_id"]


async def ended(session, task_id):
    async with asyncio.timeout(20):
        while True:
            status, document = await get(session, f"{A}/task/{task_id}")
            assert status == 200
            if document["status"] != "running":
                return document
            await asyncio.sleep(0.01)


async def run(session, model, **members):
    return await ended(session, await submit(session, model, **members))


# documents


async def test_hello():
    async with serving() as (_, session):
        assert await text(session, f"{A}/") == (200, "application/json", '{"hello":"world"}\n')


async def test_an_accepted_task():
    async with serving() as (_, session):
        body = b'{"model_class":"Nothing"}'
        async with session.post(f"{A}/task", data=body, headers=JSON) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json"
            assert "Location" not in response.headers
            answer = await response.text()
        task_id = json.loads(answer)["task_id"]
        _, info = await get(session, f"{A}/node_info")
        ident = info["node_info"]["node_ident"]
        assert re.fullmatch(r"\d+:[0-9a-f-]+", ident)
        link = f"{session._base_url}{A}/task/{task_id}"
        assert answer == (
            f'{{"_metadata":{{"links":{{"task":"{link}"}}}},'
            f'"governor_accepted_ident":"{ident}","task_id":"{task_id}"}}\n'
        )


async def test_a_running_task_has_ten_keys():
    async with serving() as (_, session):
        nap = {"method": "sleep", "method_kwargs": {"seconds": 5}}
        task_id = await submit(session, "Echo", **nap, resolver_context={"a": "b"})
        status, kind, body = await text(session, f"{A}/task/{task_id}")
        assert (status, kind) == (200, "application/json")
        document = json.loads(body)
        assert set(document) == TEN
        started = document.pop("started")
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", started)
        assert document == {
            "method": "sleep",
            "method_kwargs": {"seconds": 5},
            "model_class": "Echo",
            "model_construction_kwargs": {},
            "on_completion_callback": None,
            "partition_initialise_kwargs": {},
            "resolver_context": {"a": "b"},
            "status": "running",
            "task_id": task_id,
        }


async def test_a_complete_task_byte_by_byte():
    async with serving(Config) as (_, session):
        task_id = await submit(
            session,
            "Cafe",
            method="custom",
            method_kwargs={"zulu": 2, "alpha": "x"},
            resolver_context={"who": "me"},
        )
        document = await ended(session, task_id)
        _, _, body = await text(session, f"{A}/task/{task_id}")
        assert body == (
            f'{{"finished":"{document["finished"]}","method":"custom",'
            '"method_kwargs":{"alpha":"x","zulu":2},"model_class":"Cafe",'
            '"model_construction_kwargs":{},"on_completion_callback":null,'
            '"partition_initialise_kwargs":{},"resolver_context":{"who":"me"},'
            '"results":{"payload":{"method_kwargs":{"alpha":"x","zulu":2},'
            '"method_name":"custom","model_cls_name":"Cafe","return_value":{"alpha":"x",'
            '"nested":{"a":"caf\\u00e9 <b>&","b":[1,2.5,null,true]},"zulu":2}},'
            f'"type":"TaskComplete"}},"started":"{document["started"]}",'
            f'"status":"complete","task_id":"{task_id}"}}\n'
        )
        times = [parsedate_to_datetime(document[k]) for k in ("started", "finished")]
        assert times == sorted(times)


@pytest.mark.parametrize(
    ("model", "method", "value"),
    [
        ("Nothing", "go", True),
        # A failed check was a complete task.
        ("Checks", "go", False),
        ("Cafe", "nothing", None),
        ("Cafe", "pair", [1, 2]),
    ],
)
async def test_what_a_method_returns(model, method, value):
    async with serving(Config) as (_, session):
        document = await run(session, model, method=method)
        assert document["status"] == "complete"
        assert document["results"]["type"] == "TaskComplete"
        assert document["results"]["payload"]["return_value"] is value or value == [1, 2]


async def test_a_failed_task():
    async with serving() as (_, session):
        document = await run(session, "Fails", resolver_context={"a": "b"})
        payload = document["results"].pop("payload")
        assert document["results"] == {"type": "TaskFailed"}
        assert document["status"] == "failed"
        assert set(document) == TEN | {"finished", "results"}
        assert set(payload) == FAILED
        first, *frames = payload.pop("traceback")
        assert first == "no such luck"
        pattern = r"Traceback:  File\[.+\] Line\[\d+\] Text\[.*\]"
        assert all(re.fullmatch(pattern, frame) for frame in frames)
        assert re.search(r"models\.py\] Line\[\d+\] Text\[raise ValueError\(", frames[-1])
        assert payload == {
            "exception_class_name": "<class 'ValueError'>",
            "failure_origin_task_id": None,
            "method_kwargs": {},
            "method_name": "go",
            "model_class_name": "Fails",
            "model_construction_kwargs": {},
            "partition_initialise_kwargs": {},
            "resolver_context": {"a": "b"},
            "task_id": document["task_id"],
        }


async def test_the_text_of_an_exception_is_its_str():
    async with serving(Config) as (_, session):
        payload = (await run(session, "Cafe", method="key"))["results"]["payload"]
        assert payload["exception_class_name"] == "<class 'KeyError'>"
        assert payload["traceback"][0] == "'kk'"


async def test_a_task_that_failed_by_a_subtask(tmp_path):
    async with serving() as (_, session):
        kwargs = {"journal": str(tmp_path / "journal"), "fail_at": 1}
        document = await run(session, "Journal", model_construction_kwargs=kwargs)
        payload = document["results"]["payload"]
        assert payload["exception_class_name"] == "<class 'ayeaye.exception.SubTaskFailed'>"
        assert payload["traceback"] == []
        status, origin = await get(session, f"{A}/task/{payload['failure_origin_task_id']}")
        assert (status, origin["status"]) == (200, "failed")


async def test_a_task_that_ended_otherwise_is_a_failed_one():
    async with serving() as (node, session):
        died = await run(session, "Dies", method="os_exit")
        assert died["status"] == "failed"
        assert died["results"]["payload"]["exception_class_name"] == "<class 'fossa.exit'>"
        task_id = await submit(session, "Echo", method="sleep", method_kwargs={"seconds": 20})
        await node.governor.cancel(task_id)
        cancelled = await ended(session, task_id)
        assert (cancelled["status"], cancelled["results"]["type"]) == ("failed", "TaskFailed")


async def test_an_unknown_task():
    async with serving() as (_, session):
        unknown = (404, "application/json", '{"message":"task unknown"}\n')
        for name in ("zzzzz", "%00%ff%20", "a%5Cb", "é", "x" * 3000):
            assert await text(session, f"{A}/task/{name}") == unknown


async def test_node_info():
    async with serving(SLOTS=2) as (_node, session):
        _, _, idle = await text(session, f"{A}/node_info")
        assert idle == (
            '{"node_info":{"available_processing_capacity":2,"max_concurrent_tasks":2,'
            f'"node_ident":"{json.loads(idle)["node_info"]["node_ident"]}"}},'
            '"recent_completed_tasks":[],"running_tasks":[]}\n'
        )
        done = [await run(session, model) for model in ("Nothing", "Fails", "Nothing")]
        nap = {"method": "sleep", "method_kwargs": {"seconds": 20}}
        under_way = [await submit(session, "Echo", **nap) for _ in range(3)]
        _, info = await get(session, f"{A}/node_info")
        assert info["node_info"]["available_processing_capacity"] == 0
        # Two run and one is queued, which was not to be told from running.
        assert [t["task_id"] for t in info["running_tasks"]] == under_way
        assert {t["status"] for t in info["running_tasks"]} == {"running"}
        assert info["recent_completed_tasks"] == done[::-1]


async def test_node_info_stays_small():
    async with serving() as (node, session):
        tasks = [await node.submit("Nothing") for _ in range(120)]
        for task in tasks:
            await task.outcome(20)
        _, info = await get(session, f"{A}/node_info")
        shown = [t["task_id"] for t in info["recent_completed_tasks"]]
        assert len(shown) == 100
        assert set(shown) <= {t.id for t in tasks}


async def test_an_accepted_task_is_seen_at_once():
    async with serving() as (_, session):
        for _ in range(50):
            task_id = await submit(session, "Nothing")
            assert (await get(session, f"{A}/task/{task_id}"))[0] == 200
            _, info = await get(session, f"{A}/node_info")
            shown = info["running_tasks"] + info["recent_completed_tasks"]
            assert [t["task_id"] for t in shown].count(task_id) == 1


async def test_debug_indents():
    async with serving(DEBUG=True) as (_, session):
        indented = '{\n  "hello": "world"\n}\n'
        assert await text(session, f"{A}/") == (200, "application/json", indented)


# refusals


BAD = (400, "application/json", '{"msg":"Bad Request"}\n')
NOT_JSON = [
    b"{bad", b"", b'{"model_class":"Nothing"} x', b"{'model_class':'Nothing'}", b"\xff\xfe\xff",
    b'{"model_class":"Nothing","x":' + b"9" * 5000 + b"}", b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:20]))
async def test_a_body_that_is_not_json(body):
    async with serving() as (_, session):
        assert await text(session, f"{A}/task", "POST", data=body, headers=JSON) == BAD


async def test_content_types():
    wrong = [
        "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonp",
        "*/*", "application/json,text/plain", "multipart/form-data",
    ]  # fmt: skip
    right = [
        "application/json", "APPLICATION/JSON", "application/json; charset=latin-1",
        "application/vnd.x+json",
    ]  # fmt: skip
    body = b'{"model_class":"Nothing"}'
    async with serving() as (_, session):
        refused = (415, "application/json", '{"msg":"Unsupported Media Type"}\n')
        for kind in wrong:
            headers = {"Content-Type": kind}
            assert await text(session, f"{A}/task", "POST", data=body, headers=headers) == refused
        for kind in right:
            headers = {"Content-Type": kind}
            status, *_ = await text(session, f"{A}/task", "POST", data=body, headers=headers)
            assert status == 200, kind


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
async def test_other_encodings_of_json(encoding):
    async with serving() as (_, session):
        body = '{"model_class":"Nothing","é":1}'.encode(encoding)
        status, *_ = await text(session, f"{A}/task", "POST", data=body, headers=JSON)
        assert status == 200


REFUSED = [
    # No model_class.
    ("{}", 400), ('{"method":"go"}', 400), ('{"Model_Class":"Nothing"}', 400), ("[]", 400),
    ('[{"model_class":"Nothing"}]', 400), ('"x"', 400),
    # Not accepted.
    ('{"model_class":"Nope"}', 412), ('{"model_class":"nothing"}', 412),
    ('{"model_class":"Nothing "}', 412), ('{"model_class":""}', 412),
    ('{"model_class":"models.Nothing"}', 412), ('{"model_class":null}', 412),
    ('{"model_class":5}', 412), ('{"model_class":true}', 412), ('{"model_class":NaN}', 412),
    ('{"model_class":"it\'s \\"q\\""}', 412),
    # Were answered with a 500.
    ('{"model_class":[]}', 400), ('{"model_class":{}}', 400), ("5", 400), ("null", 400),
    ("true", 400), ('["model_class"]', 400), ('"model_class"', 400),
    # Ran internals.
    ('{"model_class":"Echo","method":"_secret"}', 412),
    ('{"model_class":"Echo","method":"__init__"}', 412),
    ('{"model_class":"Echo","method":"_build"}', 412),
    ('{"model_class":"Echo","method":"set_logger"}', 412),
    # Could only fail.
    ('{"model_class":"Echo","method":"nope"}', 412), ('{"model_class":"Echo","method":""}', 412),
    ('{"model_class":"Echo","method":null}', 400), ('{"model_class":"Echo","method":["go"]}', 400),
    ('{"model_class":"Echo","method_kwargs":[]}', 400),
    ('{"model_class":"Echo","method_kwargs":null}', 400),
    ('{"model_class":"Echo","resolver_context":""}', 400),
    ('{"model_class":"Echo","model_construction_kwargs":0}', 400),
    ('{"model_class":"Echo","method":"\\ud800"}', 412),
    ('{"model_class":"Echo","method_kwargs":{"a":"\\ud800"}}', 400),
    ('{"model_class":"Echo","method_kwargs":{"a":' + "[" * 300 + "]" * 300 + "}}", 400),
]  # fmt: skip


async def test_what_is_refused_and_how():
    async with serving() as (node, session):
        for body, wanted in REFUSED:
            status, kind, answer = await text(
                session, f"{A}/task", "POST", data=body.encode(), headers=JSON
            )
            assert (status, kind) == (wanted, "application/json"), body[:80]
            document = json.loads(answer)
            assert list(document) == ["error"]
            assert list(document["error"]) == ["message"]
            assert document["error"]["message"]
        assert await node.governor.page() == []


async def test_what_is_ignored():
    async with serving() as (_, session):
        document = await run(
            session,
            "Nothing",
            task_id="mine",
            partition_initialise_kwargs={"a": 1},
            on_completion_callback="x",
            more=[1],
        )
        assert document["task_id"] != "mine"
        assert document["partition_initialise_kwargs"] == {}
        assert document["on_completion_callback"] is None


async def test_a_full_node_answers_503():
    async with serving(SLOTS=1, MAX_QUEUED_TASKS=0) as (_, session):
        nap = {"method": "sleep", "method_kwargs": {"seconds": 20}}
        await submit(session, "Echo", **nap)
        status, document = await post(session, f"{A}/task", {"model_class": "Nothing"})
        assert status == 503
        assert set(document["error"]) == {"message"}


async def test_numbers_of_any_size_come_back():
    async with serving() as (_, session):
        for number in (10**400, -(2**63) - 1, 1e308, 5e-324):
            document = await run(session, "Echo", method="say", method_kwargs={"what": number})
            assert document["results"]["payload"]["return_value"]["what"] == number


# paths and methods


async def test_methods():
    refused = (405, "application/json", '{"msg":"Method Not Allowed"}\n')
    async with serving() as (_, session):
        for path in (f"{A}/", f"{A}/node_info", f"{A}/task/abc"):
            for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
                assert await text(session, path, method) == refused
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            assert await text(session, f"{A}/task", method) == refused
        async with session.put(f"{A}/") as response:
            assert "Allow" not in response.headers


async def test_head_is_get_without_the_body():
    async with serving() as (_, session):
        for path in (f"{A}/", f"{A}/node_info", f"{A}/task/abc"):
            async with session.get(path) as by_get, session.head(path) as by_head:
                assert by_head.status == by_get.status
                assert await by_head.read() == b""
                for name in ("Content-Type", "Content-Length"):
                    assert by_head.headers[name] == by_get.headers[name]


async def test_options():
    async with serving() as (_, session):
        for path in (f"{A}/", f"{A}/node_info", f"{A}/task/abc", f"{A}/task"):
            async with session.options(path) as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/html; charset=utf-8"
                assert await response.read() == b""
                wanted = {"POST"} if path.endswith("/task") else {"GET", "HEAD"}
                assert set(response.headers["Allow"].split(", ")) == wanted | {"OPTIONS"}


async def test_unknown_paths():
    refused = (404, "application/json", '{"msg":"Not Found"}\n')
    async with serving() as (_, session):
        for path in ("nope", "Task", "nodes", "task/", "task/zz/", "task/zz/zz", "node_info/"):
            assert await text(session, f"{A}/{path}") == refused
        for path in ("/api/", "/api/0.1/", "/api/0.02/"):
            assert await text(session, path) == refused
        for path in (A, f"{A}/task/"):
            assert await text(session, path, "POST", json={"model_class": "Nothing"}) == refused


async def test_redirects():
    async with serving() as (_, session):
        root = str(session._base_url).rstrip("/")
        for method, path, wanted in (
            ("GET", A, f"{A}/"),
            ("GET", f"{A}?a=1", f"{A}/?a=1"),
            ("GET", f"{A}//node_info", f"{A}/node_info"),
            ("GET", f"{A}/task//x", f"{A}/task/x"),
            ("POST", f"{A}//task", f"{A}/task"),
        ):
            async with session.request(method, path, allow_redirects=False) as response:
                assert response.status == 308, path
                assert response.headers["Location"] == root + wanted


# links


async def test_links_have_the_host_that_the_client_used():
    async with serving(HTTP_ALLOWED_HOSTS=["example.com"]) as (_, session):
        for host, root in (
            ("localhost:23451", "http://localhost:23451"),
            ("EXAMPLE.com:8080", "http://example.com:8080"),
            ("example.com:80", "http://example.com"),
            ("[::1]:99", "http://[::1]:99"),
        ):
            body = {"model_class": "Nothing"}
            _, answer = await post(session, f"{A}/task", body, headers={"Host": host})
            link = answer["_metadata"]["links"]["task"]
            assert link == f"{root}{A}/task/{answer['task_id']}"


async def test_links_have_the_scheme_of_the_config():
    async with serving(PREFERRED_URL_SCHEME="https") as (_, session):
        _, answer = await post(
            session, f"{A}/task", {"model_class": "Nothing"}, headers={"Host": "localhost:443"}
        )
        assert answer["_metadata"]["links"]["task"].startswith(f"https://localhost{A}/task/")


async def test_it_can_be_mounted_below_a_path():
    async with running() as node:
        host = web.Application()
        host.add_subapp("/etl/fossa", node.admin_app())
        async with hosted(host) as session:
            path = f"/etl/fossa{A}"
            _, answer = await post(session, f"{path}/task", {"model_class": "Nothing"})
            link = answer["_metadata"]["links"]["task"]
            root = str(session._base_url).rstrip("/")
            assert link == f"{root}{path}/task/{answer['task_id']}"
            assert (await get(session, link))[0] == 200
            assert await get(session, f"{path}/nope") == (404, {"msg": "Not Found"})
            assert (await text(session, f"{path}//node_info"))[0] == 308
            assert (await get(session, f"{path}//node_info"))[0] == 200
