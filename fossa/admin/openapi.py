"""The description of `/api/1/`, kept by hand: a test holds it against the running node."""

from importlib.metadata import version
from typing import Any

from fossa.admin.waiting import MAX_WAIT
from fossa.tasks import Reason, Status

Schema = dict[str, Any]

_DESCRIPTION = """\
Submit tasks to a node, follow them, and see what the node is made of.

Times are RFC 3339 in UTC, durations are seconds. Every refusal has the shape of `Error`. What a
POST accepted is seen by the very next GET. Where the node has a token, send it as
`Authorization: Bearer …`."""


def openapi_document(server: str) -> Schema:
    """The OpenAPI document of the API that is found at `server`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fossa",
            "version": version("ayeaye-fossa"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{}, {"token": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
        },
    }


# schemas


def _object(description: str, **members: Any) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


def _text(description: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _number(description: str, low: float | None = None, high: float | None = None) -> Schema:
    return {"type": "number", "description": description, **_range(low, high)}


def _whole(description: str, low: int | None = None, high: int | None = None) -> Schema:
    return {"type": "integer", "description": description, **_range(low, high)}


def _range(low: float | None, high: float | None) -> Schema:
    found = {"minimum": low, "maximum": high}
    return {name: bound for name, bound in found.items() if bound is not None}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _moment(description: str) -> Schema:
    return _text(description, format="date-time")


def _kwargs(description: str) -> Schema:
    return {"type": ["object", "null"], "description": description}


_STATUS = _text("Where a task stands; the last three are final.", enum=list(Status))
_REASON = _text("Why a task ended as it did.", enum=list(Reason))
_ID = _text("A task's id, a UUIDv7.")

_SUBMISSION = {
    "type": "object",
    "description": "A request to run one method of one accepted model. null is the default.",
    "required": ["model"],
    "additionalProperties": False,
    "properties": {
        "model": _text("Class name of an accepted model."),
        "method": {**_nullable(_text("A public method of it.")), "default": "go"},
        "method_kwargs": _kwargs("Keyword arguments of the method."),
        "model_construction_kwargs": _kwargs("Keyword arguments of the model's constructor."),
        "partition_initialise_kwargs": _kwargs("Keyword arguments of partition_initialise."),
        "resolver_context": _kwargs("Ayeaye's resolver context while the method runs."),
        "idempotency_key": _nullable(
            _text("Two submissions with the same key are one task.", pattern="^[!-~]{1,200}$")
        ),
        "timeout": _nullable(_number("Seconds that one attempt may take.", 0.001, 1e9)),
        "retries": _nullable(_whole("Attempts after the first, where the model fails.", 0, 1000)),
        "priority": _nullable(_whole("Higher first; 0 is the model's own.", -100, 100)),
    },
}

_FLEET_NODE = _object(
    "A node, as the node that is asked has heard of it.",
    name=_text("The same after a restart."),
    id=_text("Made afresh at each boot."),
    booted=_number("Seconds since the epoch."),
    versions={"type": "object", "additionalProperties": _text()},
    models=_list(_text("Class name of a model that it accepts.")),
    slots=_whole("Attempts that may run at once.", 0),
    slots_free=_whole("Slots that nobody holds.", 0),
    running=_whole("Attempts that hold a slot.", 0),
    queued=_whole("Tasks that wait for a slot.", 0),
    state=_text("new, starting, running, stopping or stopped."),
    last_seen=_number("Seconds since the epoch: when it was last heard of."),
    this={"type": "boolean", "description": "It is the node that answers."},
)
_FLEET_NODE["properties"]["url"] = _text("Where it answers, where that is known.")

_SCHEMAS: dict[str, Schema] = {
    "Submission": _SUBMISSION,
    "Task": _object(
        "A task with everything that is known of it.",
        id=_ID,
        model=_text("Class name of the model."),
        method=_text(),
        status=_STATUS,
        waiting={"type": "boolean", "description": "It waits for subtasks and holds no slot."},
        parent_id=_nullable(_text("The task whose model made this one.")),
        root_id=_text("The task that began it all."),
        retry_of=_nullable(_text("The task that this one tries again.")),
        arguments={"type": "object", "description": "What was submitted, less what was empty."},
        idempotency_key=_nullable(_text()),
        priority=_whole("Higher first."),
        timeout=_nullable(_number("Seconds that one attempt may take.")),
        retries=_whole("Attempts after the first, where the model fails.", 0),
        source=_text("Name of the source that it came from."),
        accepted=_moment("When it was admitted."),
        started=_nullable(_moment("When its first attempt began.")),
        finished=_nullable(_moment("When it had its outcome.")),
        attempts=_whole("Attempts begun.", 0),
        node=_nullable(_text("Name of the node that ran it, once it has ended and that is known.")),
        progress=_ref("Progress"),
        outcome={"oneOf": [_ref("Outcome"), {"type": "null"}]},
    ),
    "Progress": _object(
        "How far a task has come.",
        fraction=_nullable(_number("From 0 to 1, where the model says.")),
        message=_text("What the model said with it."),
        subtasks=_whole("Subtasks that the model has made so far.", 0),
        subtasks_total=_nullable(_whole("Subtasks in all, where that is known.", 0)),
        subtasks_done=_whole("Subtasks that have ended.", 0),
        subtasks_failed=_whole("Subtasks that have failed or were cancelled.", 0),
        eta=_nullable(_number("Estimated seconds to the end.", 0)),
    ),
    "Outcome": _object(
        "How a task ended.",
        status=_STATUS,
        reason=_REASON,
        message=_text("One line for people."),
        error=_nullable(_text("Qualified name of the exception's class.")),
        traceback=_list(_text()),
        failed_subtask=_nullable(_text("The subtask that made this task fail.")),
        attempt=_whole("The attempt that it is the outcome of; 0 where there was none.", 0),
        result={"description": "The return value. NaN and infinities are null."},
        result_is_json={
            "type": "boolean",
            "description": "False where the value is not JSON: result then describes it.",
        },
    ),
    "Tasks": _object(
        "A page of tasks, the newest first.",
        tasks=_list(_ref("Task")),
        next=_nullable(_text("Path of the next page; null on the last.")),
    ),
    "Logs": _object(
        "Lines that a task wrote, in order.",
        lines=_list(
            _object(
                "A line.",
                position=_whole("From 1.", 1),
                time=_moment("When it was written."),
                level=_text("DEBUG, PROGRESS, INFO, WARNING, ERROR or CRITICAL."),
                stream=_text("model, stdout, stderr, logging, warnings or node."),
                attempt=_whole("The attempt that wrote it.", 1),
                text=_text(),
            )
        ),
        next=_nullable(_text("Path of what comes after; null where nothing will.")),
    ),
    "Node": {
        "type": "object",
        "description": "The node in numbers and names.",
        "required": ["name", "id", "state", "models", "slots", "slots_free", "queued", "running"],
        "properties": {
            "name": _text("The same after a restart."),
            "id": _text("Made afresh at each boot."),
            "title": _text(),
            "state": _text("new, starting, running, stopping or stopped."),
            "booted": _number("Seconds since the epoch."),
            "pid": _whole("Of the node's process."),
            "versions": {"type": "object", "additionalProperties": _text()},
            "models": _list(_text()),
            "slots": _whole("Attempts that may run at once."),
            "slots_free": _whole("Slots that nobody holds.", 0),
            "queued": _whole("Tasks that wait for a slot.", 0),
            "queued_subtasks": _whole("Subtasks that wait for a slot.", 0),
            "waiting_parents": _whole("Tasks that wait for subtasks.", 0),
            "running": _whole("Attempts that hold a slot.", 0),
            "state_dir": _text("Where its ledger is; empty where it is in memory."),
            "not_ready": _list(_text("Why the node should get no work now.")),
        },
    },
    "Nodes": _object("The nodes that work together.", nodes=_list(_ref("FleetNode"))),
    "FleetNode": _FLEET_NODE,
    "Plugins": _object(
        "What the node is made of.",
        plugins=_list(
            {
                **_object(
                    "A component or a plugin.",
                    name=_text("As the config names it."),
                    kind=_text(enum=["source", "executor", "sink", "plugin"]),
                    distribution=_nullable(_text("What it was installed with, if by name.")),
                    version=_nullable(_text("Of that distribution.")),
                    not_ready=_nullable(_text("Why it cannot do its work now.")),
                    **{"class": _text("Its class, or its module.")},
                ),
            }
        ),
    ),
    "Readiness": _object(
        "Whether the node should get work now.",
        ready={"type": "boolean"},
        reasons=_list(_text("Why not.")),
    ),
    "Error": _object(
        "Why a request was refused.",
        error=_object(
            "The refusal.",
            status=_whole("HTTP status."),
            message=_text("For people: what is wrong, and what to do."),
            reason=_text("One word for programs."),
        ),
    ),
}


# operations


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "allowEmptyValue": False}


_TASK_ID = {"name": "id", "in": "path", "required": True, "schema": _text(minLength=1)}
_WAIT = _query(
    "wait", _number("Hold the answer back for so many seconds at the most.", 0, MAX_WAIT)
)
_PAGING = [
    _query("status", _STATUS),
    _query("model", _text("Class name of the model.")),
    _query("before", _whole("As the link to the next page has it.", 1, 2**59)),
    _query("limit", _whole("Tasks on a page; 50 if not given.", 1, 200)),
]


def _json(schema: Schema, description: str, **headers: str) -> Schema:
    found: Schema = {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }
    if headers:
        shown = {n: {"schema": _text(), "description": d} for n, d in headers.items()}
        found["headers"] = shown
    return found


def _refused(description: str) -> Schema:
    return _json(_ref("Error"), description)


_COMMON = {
    "400": _refused("Something in the request is not as it should be."),
    "401": _refused("The node asks for its token."),
    "403": _refused("A page of another site asked for it."),
    "421": _refused("The node is not known by that host name."),
    "503": _refused("The node is stopping, or its ledger cannot be used."),
}
_UNKNOWN = {"404": _refused("This node knows no such task.")}


def _operation(
    name: str,
    summary: str,
    answers: dict[str, Schema],
    parameters: list[Schema] | None = None,
    **more: Any,
) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {**_COMMON, **answers},
        **more,
    }


def _new_task(description: str) -> Schema:
    return _json(_ref("Task"), description, Location="Path of the task.")


def _paths() -> dict[str, Schema]:
    return {
        "/tasks": {"post": _submit(), "get": _tasks()},
        "/tasks/{id}": {
            "get": _operation(
                "getTask",
                "A task, at once or when it has ended",
                {"200": _json(_ref("Task"), "The task."), **_UNKNOWN},
                [_TASK_ID, _WAIT],
            )
        },
        "/tasks/{id}/subtasks": {
            "get": _operation(
                "listSubtasks",
                "A page of a task's subtasks, the newest first",
                {"200": _json(_ref("Tasks"), "The page."), **_UNKNOWN},
                [_TASK_ID, *_PAGING],
            )
        },
        "/tasks/{id}/logs": {"get": _logs()},
        "/tasks/{id}/cancel": {
            "post": _operation(
                "cancelTask",
                "Ask a task, and its subtasks, to stop",
                {
                    "202": _json(_ref("Task"), "It was asked."),
                    **_UNKNOWN,
                    "409": _refused("It has ended already."),
                },
                [_TASK_ID],
            )
        },
        "/tasks/{id}/retry": {
            "post": _operation(
                "retryTask",
                "A new task that does again what an ended one did; complete subtasks are kept",
                {
                    "202": _new_task("The new task."),
                    **_UNKNOWN,
                    "409": _refused("It has not ended."),
                    "412": _refused("The model, or its method, is not accepted any more."),
                },
                [_TASK_ID],
            )
        },
        "/node": _get("getNode", "The node in numbers and names", "Node"),
        "/nodes": _get(
            "listNodes",
            "The nodes that work together: this one first, and those it has heard of",
            "Nodes",
        ),
        "/plugins": _get("listPlugins", "What the node is made of", "Plugins"),
        "/health/live": {
            "get": _operation(
                "isLive",
                "Whether the node's event loop answers; needs no token",
                {"200": _json(_object("It does.", live={"const": True}), "It does.")},
                security=[{}],
            )
        },
        "/health/ready": {
            "get": _operation(
                "isReady",
                "Whether the node should get work now; needs no token",
                {
                    "200": _json(_ref("Readiness"), "It should."),
                    "503": _json(_ref("Readiness"), "It should not, and why."),
                },
                security=[{}],
            )
        },
        "/metrics": {
            "get": _operation(
                "getMetrics",
                "The node's metrics for Prometheus",
                {
                    "200": {
                        "description": "The metrics.",
                        "content": {"text/plain": {"schema": _text()}},
                    }
                },
            )
        },
        "/openapi.json": {
            "get": _operation(
                "getDescription",
                "This document",
                {"200": _json({"type": "object"}, "The document.")},
            )
        },
    }


def _get(name: str, summary: str, schema: str) -> Schema:
    return {"get": _operation(name, summary, {"200": _json(_ref(schema), "As of now.")})}


def _submit() -> Schema:
    return _operation(
        "submitTask",
        "Submit a task; the answer comes once it is durable",
        {
            "200": _new_task("The task that the idempotency key belongs to."),
            "202": _new_task("The new task, as it was accepted."),
            "408": _refused("The body did not arrive in time."),
            "412": _refused("The model, or its method, is not accepted."),
            "413": _refused("The body is larger than HTTP_MAX_BODY_BYTES."),
            "415": _refused("The body is not said to be JSON."),
            "503": _refused("The queue is full or the node is stopping: try later."),
        },
        [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": _text("As the member.", pattern="^[!-~]{1,200}$"),
            }
        ],
        requestBody={
            "required": True,
            "content": {"application/json": {"schema": _ref("Submission")}},
        },
    )


def _tasks() -> Schema:
    return _operation(
        "listTasks",
        "A page of tasks, the newest first",
        {"200": _json(_ref("Tasks"), "The page.")},
        _PAGING,
    )


def _logs() -> Schema:
    return _operation(
        "getLogs",
        "Lines that a task wrote, at once or when there are some",
        {"200": _json(_ref("Logs"), "The lines."), **_UNKNOWN},
        [
            _TASK_ID,
            _query("after", _whole("Position after which to begin; 0 if not given.", 0, 2**59)),
            _query("limit", _whole("Lines at the most; 1000 if not given.", 1, 10_000)),
            _WAIT,
        ],
    )
