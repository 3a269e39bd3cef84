"""Messages of `ayeaye-fossa` 0.0.37: recorded ones, ours like them, and hostile ones."""

import contextlib
import json

import attrs
import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from legacy_support import (
    LIMIT,
    RECORDED,
    attempt,
    complete,
    failed,
    recorded,
)

from fossa import Reason, Request, Status
from fossa_rabbitmq.legacy import (
    QUEUE,
    Repeats,
    Turn,
    decode_task,
    encode_subtask,
    turn_of,
    unread,
)
from fossa_rabbitmq.legacy_replies import Reply, decode_reply, encode_reply
from fossa_rabbitmq.wire import BadMessage

WANTED = {
    "model_class": "Squares",
    "method": "square",
    "method_kwargs": {"number": 3},
    "resolver_context": {},
}


def asked(**properties):
    values = {"correlation_id": "abcde:0", "reply_to": "answers"} | properties
    return decode_task(json.dumps(WANTED).encode(), pika.BasicProperties(**values), LIMIT)


def there_and_back(outcome, **properties):
    letter = encode_reply(asked(**properties), outcome, "task-1")
    return decode_reply(letter.body, letter.properties, LIMIT)


# recorded messages


@pytest.mark.parametrize("name", ["task-squares", "task-squares-again"])
def test_a_recorded_subtask_is_read(name):
    found = decode_task(*recorded(name), LIMIT)
    assert found.request == Request(
        model="Squares",
        method="square",
        method_kwargs={"number": 0},
        model_construction_kwargs={"linger": 0.0},
        partition_initialise_kwargs={"offset": 100},
        resolver_context={"colour": "nävy 0"},
        retries=0,
    )
    assert found.reply_to.startswith("amq.gen-")
    assert found.correlation_id.endswith(":0")
    assert not found.ours


def test_a_subtask_of_another_model_than_its_parents_is_read():
    request = decode_task(*recorded("task-errands"), LIMIT).request
    assert (request.model, request.method) == ("Greeting", "greet")
    assert request.model_construction_kwargs == {"word": "good day"}


COMPLETE = {
    "complete-plain-model": "hello, x",
    "complete-with-context": "nävy/3",
    "complete-not-finite": [None, None, 3],
    "complete-go": True,
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_recorded_reply_of_a_complete_task_is_read(name):
    reply = decode_reply(*recorded(f"reply-{name}"), LIMIT)
    assert (reply.outcome.status, reply.outcome.reason) == (Status.COMPLETE, Reason.RETURNED)
    assert reply.outcome.result == COMPLETE[name]
    assert reply.outcome.result_is_json
    assert reply.correlation_id == f"asked:{name}"
    assert not reply.counted


FAILED = {
    "failed": ("ValueError", "no square of 3 töday"),
    "failed-not-json": ("TypeError", "Object of type set is not JSON serializable"),
    "failed-no-such-method": ("AttributeError", "'Squares' object has no attribute 'nope'"),
}


@pytest.mark.parametrize("name", FAILED)
def test_a_recorded_reply_of_a_failed_task_is_read(name):
    outcome = decode_reply(*recorded(f"reply-{name}"), LIMIT).outcome
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.EXCEPTION)
    assert (outcome.error, outcome.message) == FAILED[name]
    assert outcome.traceback[0].startswith("Traceback:  File[")


def test_a_failed_subtask_is_told_from_another_exception():
    outcome = decode_reply(*recorded("reply-failed-subtask"), LIMIT).outcome
    assert outcome.reason is Reason.SUBTASK_FAILED
    assert outcome.failed_subtask.startswith("wwyuq:0::amq.gen-")
    assert outcome.failed_subtask in outcome.message


def test_go_that_returned_false_is_a_failed_check():
    outcome = decode_reply(*recorded("reply-complete-check-failed"), LIMIT).outcome
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.CHECK_FAILED)


def test_every_recorded_message_is_replayed():
    for path in RECORDED.glob("*.json"):
        decode = decode_task if path.stem.startswith("task-") else decode_reply
        assert decode(*recorded(path.stem), LIMIT).correlation_id, path.stem
    assert len(list(RECORDED.glob("*.json"))) == 15


# our subtasks, as 0.0.37 wants them


def test_a_subtask_is_written_as_0_0_37_writes_it():
    arguments = {
        "method_kwargs": {"number": 0},
        "resolver_context": {"colour": "nävy 0"},
        "model_construction_kwargs": {"linger": 0.0},
        "partition_initialise_kwargs": {"offset": 100},
    }
    letter = encode_subtask(attempt(arguments=arguments), "answers")
    body, properties = recorded("task-squares")
    assert json.loads(letter.body) == json.loads(body)
    assert letter.properties.content_type == properties.content_type
    assert letter.properties.delivery_mode == properties.delivery_mode


def test_empty_arguments_are_written_out():
    body = json.loads(encode_subtask(attempt(arguments={}), "answers").body)
    assert body == {
        "model_class": "Squares",
        "method": "square",
        "method_kwargs": {},
        "resolver_context": {},
        "model_construction_kwargs": {},
        "partition_initialise_kwargs": {},
    }


def test_a_node_of_this_version_is_told_what_a_body_has_no_room_for():
    letter = encode_subtask(attempt(timeout=2.5, retries=3, priority=-7), "answers", turn=2)
    encoded = b"".join(letter.properties.encode())
    read = pika.BasicProperties().decode(encoded)
    found = decode_task(letter.body, read, LIMIT)
    assert found.ours
    assert found.request.timeout == 2.5
    assert (found.request.retries, found.request.priority) == (3, -7)


@pytest.mark.parametrize("said", ["soon", -1, True, {"x": 1}])
def test_what_a_header_says_is_left_to_admission(said):
    letter = encode_subtask(attempt(), "answers")
    letter.properties.headers["fossa-retries"] = said
    assert decode_task(letter.body, letter.properties, LIMIT).request.retries == said


@given(st.text("0123456789abcdef-", min_size=8, max_size=64), st.integers(0, 10**9 - 1))
def test_a_correlation_id_says_which_attempt_it_was(task_id, number):
    turn = Turn(task_id, number, 2)
    assert turn_of(str(turn)) == turn
    assert "::" not in str(turn)


@pytest.mark.parametrize("other", ["", "abcde:0", "a:1.1", "0123456789:1.1::x", "0123456789:1.1\n"])
def test_a_correlation_id_of_somebody_else_is_none_of_ours(other):
    assert turn_of(other) is None


# hostile tasks


def without(*names):
    return {name: value for name, value in WANTED.items() if name not in names}


HOSTILE = {
    "not JSON": (b"{nope", "bad_json"),
    "nothing": (b"", "bad_json"),
    "not UTF-8": (b'{"model_class": "\xff"}', "bad_json"),
    "UTF-16": (json.dumps(WANTED).encode("utf-16"), "bad_json"),
    "NaN": (json.dumps(WANTED | {"method_kwargs": {"x": float("nan")}}).encode(), "bad_json"),
    "too deep": (b'{"model_class": ' + b"[" * 100_000, "bad_json"),
    "a pickle": (b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins", "bad_json"),
    "an array": (b"[1]", "bad_message"),
    "text": (b'"Squares"', "bad_message"),
    "no model": (json.dumps(without("model_class")).encode(), "bad_message"),
    "no context": (json.dumps(without("resolver_context")).encode(), "bad_message"),
    "more fields": (json.dumps(WANTED | {"task_id": "x"}).encode(), "bad_message"),
    "a callback": (json.dumps(WANTED | {"on_completion_callback": 1}).encode(), "bad_message"),
    "too large": (json.dumps(WANTED | {"method": "x" * 2000}).encode(), "too_large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_with_a_reason(name):
    body, reason = HOSTILE[name]
    limit = 1000 if reason == "too_large" else LIMIT
    with pytest.raises(BadMessage) as refused:
        decode_task(body, pika.BasicProperties(reply_to="answers"), limit)
    assert refused.value.reason == reason
    assert len(str(refused.value)) < 500


HOSTILE_PROPERTIES = {
    "a reply into the tasks": ({"reply_to": QUEUE}, "bad_message"),
    "a reply to bytes": ({"reply_to": b"\xff"}, "bad_message"),
    "an id of bytes": ({"correlation_id": b"\xff"}, "bad_message"),
    "another version": ({"headers": {"fossa-version": "9.0"}}, "version"),
}


@pytest.mark.parametrize("name", HOSTILE_PROPERTIES)
def test_hostile_properties_are_refused_with_a_reason(name):
    values, reason = HOSTILE_PROPERTIES[name]
    with pytest.raises(BadMessage) as refused:
        asked(**values)
    assert refused.value.reason == reason


@given(st.binary(max_size=200))
def test_no_body_at_all_does_worse_than_be_refused(body):
    for decode in (decode_task, decode_reply):
        with contextlib.suppress(BadMessage):
            decode(body, pika.BasicProperties(correlation_id="x"), LIMIT)


@given(
    st.dictionaries(
        st.sampled_from(["type", "payload", "model_class", "method", "method_kwargs"]),
        st.recursive(st.none() | st.text() | st.floats(), st.lists, max_leaves=5)
        | st.dictionaries(
            st.sampled_from(["return_value", "traceback", "exception_class_name", "method_name"]),
            st.none() | st.text() | st.lists(st.text() | st.floats()),
        ),
    )
)
def test_no_document_at_all_does_worse_than_be_refused(document):
    body = json.dumps(document).encode()
    for decode in (decode_task, decode_reply):
        with contextlib.suppress(BadMessage):
            decode(body, pika.BasicProperties(correlation_id="x"), LIMIT)


def test_a_task_that_wants_no_reply_is_read():
    found = asked(reply_to=None, correlation_id=None)
    assert (found.reply_to, found.correlation_id, found.key) == (None, None, None)


def test_whoever_sent_what_cannot_be_read_can_be_told():
    properties = pika.BasicProperties(reply_to="answers", correlation_id="abcde:0")
    letter = encode_reply(unread(properties), failed(Reason.REFUSED, message="it is not JSON"))
    assert letter.properties.correlation_id == "abcde:0"
    payload = json.loads(letter.body)["payload"]
    assert payload["traceback"] == ["it is not JSON"]
    assert payload["method_kwargs"] == {}


@pytest.mark.parametrize("values", [{}, {"reply_to": QUEUE}, {"reply_to": b"\xff"}])
def test_nobody_is_told_where_there_is_nobody(values):
    assert unread(pika.BasicProperties(**values)) is None


# redelivered, or sent again


def keys(repeats, *deliveries):
    """Idempotency keys of deliveries of the same message: True is a redelivery."""
    return [repeats.request(asked(), redelivered=again).idempotency_key for again in deliveries]


def test_a_redelivery_has_the_key_of_what_was_delivered():
    first, second = keys(Repeats(), False, True)
    assert first == second


def test_a_failed_subtask_that_is_sent_again_is_another_task():
    first, again, redelivered = keys(Repeats(), False, False, True)
    assert first != again
    assert again == redelivered


def test_a_redelivery_after_a_restart_has_the_key_of_the_first_delivery():
    assert keys(Repeats(), False) == keys(Repeats(), True)


def test_other_messages_have_other_keys():
    repeats = Repeats()
    tasks = [asked(), asked(correlation_id="abcde:1"), asked(reply_to="other")]
    assert len({repeats.request(t, redelivered=False).idempotency_key for t in tasks}) == 3


def test_only_so_many_messages_are_remembered():
    repeats = Repeats(remembered=2)
    tasks = [asked(correlation_id=f"abcde:{n}") for n in range(3)]
    first = [repeats.request(t, redelivered=False).idempotency_key for t in tasks]
    assert repeats.request(tasks[2], redelivered=False).idempotency_key != first[2]
    assert repeats.request(tasks[0], redelivered=False).idempotency_key == first[0]


def test_what_a_node_of_this_version_sends_twice_is_one_task():
    letter = encode_subtask(attempt(), "answers")
    repeats, sent = Repeats(), decode_task(letter.body, letter.properties, LIMIT)
    found = [repeats.request(sent, redelivered=False).idempotency_key for _ in range(2)]
    assert found[0] == found[1] is not None


# our replies, as 0.0.37 wants them


def shape(payload):
    return {name: type(value) for name, value in payload.items()}


def test_a_reply_is_written_as_0_0_37_writes_it():
    task = decode_task(*recorded("task-squares"), LIMIT)
    written = json.loads(encode_reply(task, complete({"square": 9})).body)
    expected = json.loads(recorded("reply-complete")[0])
    assert written["type"] == expected["type"] == "TaskComplete"
    assert shape(written["payload"]) == shape(expected["payload"])


def test_a_failure_is_written_as_0_0_37_writes_it():
    outcome = failed(message="no", error="ValueError", traceback=("File x, line 1",))
    written = json.loads(encode_reply(asked(), outcome, "task-1").body)
    expected = json.loads(recorded("reply-failed")[0])
    assert written["type"] == expected["type"] == "TaskFailed"
    assert shape(written["payload"]) == shape(expected["payload"])
    assert written["payload"]["exception_class_name"] == "<class 'ValueError'>"
    assert written["payload"]["method_kwargs"] == {"number": 3}


def test_a_failed_check_is_a_complete_task_to_0_0_37():
    document = json.loads(encode_reply(asked(), failed(Reason.CHECK_FAILED)).body)
    assert document["type"] == "TaskComplete"
    assert document["payload"]["return_value"] is False


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.RETURNED, Reason.CHECK_FAILED}))
def test_a_node_of_this_version_is_told_the_reason(reason):
    outcome = failed(reason, message="oh", error=None, traceback=("a", "b"), failed_subtask="s-1")
    assert there_and_back(outcome) == Reply(correlation_id="abcde:0", outcome=outcome, counted=True)


def test_a_result_that_is_no_json_is_still_said_to_be_none():
    outcome = attrs.evolve(complete({"type": "set", "repr": "{1}"}), result_is_json=False)
    assert there_and_back(outcome).outcome == outcome


@given(st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=5))
def test_results_survive(value):
    assert there_and_back(complete(value)).outcome.result == value


def test_arguments_that_cannot_be_written_are_left_out_of_the_reply():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    task = attrs.evolve(asked(), request=Request(model=["M"], method_kwargs={"deep": deep}))
    payload = json.loads(encode_reply(task, failed(Reason.REFUSED)).body)["payload"]
    assert (payload["method_kwargs"], payload["model_class_name"]) == ({}, "")


BAD_REPLIES = {
    "another type": b'{"type": "TaskLogMessage", "payload": {"msg": "x"}}',
    "no payload": b'{"type": "TaskComplete"}',
    "no value": b'{"type": "TaskComplete", "payload": {}}',
    "a payload that is none": b'{"type": "TaskFailed", "payload": []}',
    "a traceback of numbers": b'{"type": "TaskFailed", "payload": {"traceback": [1]}}',
    "not JSON": b"{",
    "half a character": b'{"type": "TaskComplete", "payload": {"return_value": "\\ud800"}}',
    "too many digits": b'{"type": "TaskComplete", "payload": {"return_value": %s}}' % (b"9" * 5000),
    "too deep": b'{"type": "TaskComplete", "payload": ' + b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_hostile_reply_is_refused(name):
    with pytest.raises(BadMessage):
        decode_reply(BAD_REPLIES[name], pika.BasicProperties(correlation_id="x"), LIMIT)


def test_a_reply_that_is_too_large_or_has_no_correlation_id_is_refused():
    body, properties = recorded("reply-complete")
    with pytest.raises(BadMessage, match="the limit is 10"):
        decode_reply(body, properties, 10)
    with pytest.raises(BadMessage, match="correlation_id is missing"):
        decode_reply(body, pika.BasicProperties(), LIMIT)


def test_a_header_cannot_make_a_failure_a_success():
    body, _ = recorded("reply-failed")
    for said in ("returned", "check_failed", "nonsense", 7, ["returned"]):
        properties = pika.BasicProperties(correlation_id="x", headers={"fossa-reason": said})
        assert decode_reply(body, properties, LIMIT).outcome.reason is Reason.EXCEPTION
