"""What a request must be before it becomes a task."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fossa.admission import Admission
from fossa.composition import compose
from fossa.errors import BadArguments, NodeStopped, NotAccepted, QueueFull, TaskRefused
from fossa.tasks import Delivery, Request
from support import TestConfig, outcome, running

ADMISSION = Admission(compose(TestConfig, MAX_ARGUMENTS_BYTES=10_000))


def refused(error, words, **request):
    with pytest.raises(error, match=words):
        ADMISSION.task(Delivery(request=Request(**{"model": "Echo", **request}), source="test"))


@pytest.mark.parametrize(
    "method",
    [
        "_secret", "__init__", "__class__", "log", "set_logger", "lock", "datasets", "connects",
        "close_datasets", "partition_slice", "process_pool", "greeting", "nothing", "", None, 5,
        ["go"], "log_to_stdout", "go ", "say.__globals__",
    ],
)  # fmt: skip
def test_only_runnable_public_methods(method):
    refused(NotAccepted, "is not a method of Echo", method=method)


@pytest.mark.parametrize("method", ["go", "build", "pre_build_check", "say", "resolve"])
def test_what_may_be_run(method):
    assert (
        ADMISSION.task(Delivery(request=Request(model="Echo", method=method), source="test")).method
        == method
    )


@pytest.mark.parametrize("model", ["Unaccepted", "", None, 5, ["Echo"], {"a": 1}, "models.Echo"])
def test_only_accepted_models(model):
    refused(NotAccepted, "is not in ACCEPTED_MODEL_CLASSES", model=model)


def test_the_nearest_name_is_told():
    refused(NotAccepted, "did you mean 'Echo'", model="Ecoh")
    refused(NotAccepted, "did you mean 'resolve'", method="resolv")


def test_arguments_are_json_objects_of_a_sane_size_and_depth():
    refused(BadArguments, "method_kwargs is of type list", method_kwargs=[1])
    refused(BadArguments, "resolver_context is of type str", resolver_context="x")
    refused(BadArguments, "which is not JSON", method_kwargs={"a": object()})
    refused(BadArguments, "not text", method_kwargs={"a": {1: 2}})
    refused(BadArguments, "MAX_ARGUMENTS_BYTES is 10000", method_kwargs={"a": "x" * 20_000})
    refused(BadArguments, "written as JSON", method_kwargs={"a": "\udc80"})
    deep = {}
    for _ in range(10_000):
        deep = {"a": deep}
    refused(BadArguments, "MAX_ARGUMENTS_DEPTH", method_kwargs=deep)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0), ("timeout", "5"), ("timeout", True), ("timeout", float("nan")),
        ("retries", -1), ("retries", 1.5), ("priority", 101), ("priority", "high"),
        ("idempotency_key", ""), ("idempotency_key", "a b"), ("idempotency_key", 5),
        ("idempotency_key", "x" * 201),
    ],
)  # fmt: skip
def test_options_are_checked(name, value):
    refused(BadArguments, f"{name} is", **{name: value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values) | json_values, json_values, json_values)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_it_is_a_task_or_refused(kwargs, timeout, key):
    request = Request(
        model="Echo", method="say", method_kwargs=kwargs, timeout=timeout, idempotency_key=key
    )
    try:
        task = ADMISSION.task(Delivery(request=request, source="test"))
    except TaskRefused as error:
        assert str(error)
    else:
        assert isinstance(task.arguments_of("method_kwargs"), dict)


async def test_a_full_queue_refuses():
    async with running(SLOTS=1, MAX_QUEUED_TASKS=1) as node:
        await node.submit("Echo", "sleep", method_kwargs={"seconds": 0.5})
        await asyncio.sleep(0)
        await node.submit("Nothing")
        with pytest.raises(QueueFull, match="MAX_QUEUED_TASKS is 1"):
            await node.submit("Nothing")


async def test_without_a_queue_a_node_with_no_free_slot_refuses():
    async with running(SLOTS=1, MAX_QUEUED_TASKS=0) as node:
        await outcome(node, "Nothing")
        handle = await node.submit("Echo", "sleep", method_kwargs={"seconds": 0.3})
        with pytest.raises(QueueFull, match="no slot is free"):
            await node.submit("Nothing")
        await handle.outcome(10)
        assert (await outcome(node, "Nothing")).complete


async def test_a_stopped_node_says_so():
    async with running() as node:
        pass
    with pytest.raises(NodeStopped):
        await node.submit("Nothing")
