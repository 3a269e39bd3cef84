"""What is read from a wire: recorded messages for ever, and whatever else somebody may send."""

import datetime
import json
import struct

import msgspec
import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika.frame import Header

from fossa import Attempt, LogLine, Outcome, Reason, Request, Status, Task
from fossa_rabbitmq import wire
from fossa_rabbitmq.properties import UNREADABLE, carried, frame_of
from fossa_rabbitmq.wire import BadMessage

LIMIT = 100_000

#: Messages as version 1.0 wrote them. They are read for as long as there is a version 1.
TASK = (
    b'{"model":"FlightDelays","method":"go","method_kwargs":{"a":[1,null]},'
    b'"model_construction_kwargs":{"b":"\xc3\xb1"},"partition_initialise_kwargs":{"year":2013},'
    b'"resolver_context":{"output_dir":"/data/out"},"timeout":3600,"retries":1,"priority":-2,'
    b'"reply":true}'
)
RECORDED = {
    wire.SUBTASKS: b'{"node":{"id":"019a4b3a-0e7f-7c11-8f0a-5b8a4d2c9e10","name":"etl1"},"subtasks"'
    b':[{"id":"019a4b3c-6d20-7e44-a1b2-3c4d5e6f7081","parent":"019a4b3c-5f1e-7a3b-9c55-0d6a1c1f2e3d'
    b'","root":"019a4b3c-5f1e-7a3b-9c55-0d6a1c1f2e3d","depth":1,"key":"9f86d081884c7d659a2feaa0c55a'
    b'd015","model":"FlightDelays","method":"delays","arguments":{"method_kwargs":{"month":1}},'
    b'"timeout":3600.0,"retries":1,"lane":0,"lanes":3},{"id":"019a4b3c-6d20-7e44-a1b2-3c4d5e6f7082"'
    b',"parent":"019a4b3c-5f1e-7a3b-9c55-0d6a1c1f2e3d","root":"019a4b3c-5f1e-7a3b-9c55-0d6a1c1f2e3d'
    b'","depth":1,"key":"0","model":"FlightDelays","method":"delays","arguments":{}}]}',
    wire.OUTCOMES: b'{"node":{"id":"019a4b3b-77aa-7d02-b3c4-d5e6f7a8b9c0","name":"etl2"},"outcomes"'
    b':[{"id":"019a4b3c-6d20-7e44-a1b2-3c4d5e6f7081","attempt":1,"outcome":{"status":"complete",'
    b'"reason":"returned","result":{"flights":27004},"attempt":1,"started":1785571200.25,"finished"'
    b':1785571201.0},"lines":[{"time":1785571200.9,"level":"INFO","stream":"model","text":"Month 1"'
    b',"attempt":1}],"fraction":1.0,"message":"done"},{"id":"019a4b3c-6d20-7e44-a1b2-3c4d5e6f7082","attempt":2,"outcome":{"status":'
    b'"failed","reason":"exception","message":"no","error":"ValueError","traceback":["a","b"],'
    b'"attempt":2,"started":1.5,"finished":2.5}}]}',
    wire.OUTCOME: b'{"task_id":null,"node":{"id":"019a4b3b-77aa-7d02-b3c4-d5e6f7a8b9c0","name":"etl'
    b'2"},"outcome":{"status":"failed","reason":"refused","message":"no such model"}}',
    wire.EVENTS: b'{"node":{"id":"019a4b3b-77aa-7d02-b3c4-d5e6f7a8b9c0","name":"etl2"},"events":[{"'
    b'id":"019a4b3c-6d20-7e44-a1b2-3c4d5e6f7081"},{"id":"019a4b3c-6d20-7e44-a1b2-3c4d5e6f7082",'
    b'"lines":[{"time":1.5,"level":"INFO","stream":"stdout","text":"x","attempt":1}],"fraction":0.4'
    b',"message":"month 1"}]}',
    wire.DROPPED: b'{"node":{"id":"019a4b3b-77aa-7d02-b3c4-d5e6f7a8b9c0","name":"etl2"},"ids":["'
    b'019a4b3c-6d20-7e44-a1b2-3c4d5e6f7081"]}',
    wire.PRESENCE: b'{"name":"etl1","id":"019a4b3a-0e7f-7c11-8f0a-5b8a4d2c9e10","booted":1785570000'
    b'.5,"versions":{"fossa":"1.0.0","ayeaye":"0.1.7","python":"3.12.3"},"models":["FlightDelays"],'
    b'"slots":4,"slots_free":1,"running":3,"queued":9,"state":"running","hello":true}',
    wire.GOODBYE: b'{"id":"019a4b3a-0e7f-7c11-8f0a-5b8a4d2c9e10"}',
    wire.CANCEL: b'{"ids":["019a4b3c-6d20-7e44-a1b2-3c4d5e6f7081"]}',
    wire.QUEUES_LOST: b'{"queue":"fossa.subtasks"}',
    wire.PARKED: b'{"model":"FlightDelays"}',
}


def said(version="1.0", **more):
    return pika.BasicProperties(
        **{"reply_to": "replies", "headers": {"fossa-version": version}, **more}
    )


def refused(read, *arguments):
    """What is said of a message that is not taken: (reason, detail)."""
    with pytest.raises(BadMessage) as caught:
        read(*arguments)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= wire.MAX_DETAIL
    return caught.value.reason, str(caught.value)


def task(body, properties=None):
    return wire.read_task(body, properties or said(), LIMIT)


# recorded


def test_a_recorded_task():
    request, reply = task(TASK, said(message_id="m-1"))
    assert reply
    assert request == Request(
        model="FlightDelays",
        method="go",
        method_kwargs={"a": [1, None]},
        model_construction_kwargs={"b": "ñ"},
        partition_initialise_kwargs={"year": 2013},
        resolver_context={"output_dir": "/data/out"},
        timeout=3600,
        retries=1,
        priority=-2,
        idempotency_key="m-1",
    )


def test_recorded_subtasks():
    first, second = wire.read(wire.SUBTASKS, RECORDED[wire.SUBTASKS], said()).subtasks
    request, origin = wire.request_of(first), wire.origin_of(first)
    assert (request.model, request.method) == ("FlightDelays", "delays")
    assert request.method_kwargs == {"month": 1}
    assert (request.timeout, request.retries, request.priority) == (3600, 1, 0)
    assert (origin.task_id[-2:], origin.parent_id[-2:], origin.depth) == ("81", "3d", 1)
    assert (origin.lane, origin.lanes) == (0, 3)
    assert wire.request_of(second).method_kwargs is None
    assert (second.attempt, second.lane) == (1, None)


def test_recorded_outcomes():
    first, second = wire.read(wire.OUTCOMES, RECORDED[wire.OUTCOMES], said()).outcomes
    assert (first.fraction, first.message) == (1.0, "done")
    assert (second.fraction, second.message) == (None, "")
    assert wire.outcome_of(first.outcome, "etl2") == Outcome(
        status=Status.COMPLETE,
        reason=Reason.RETURNED,
        result_json=b'{"flights":27004}',
        attempt=1,
        started=1785571200.25,
        finished=1785571201.0,
        node="etl2",
    )
    assert wire.lines_of(first) == [
        LogLine(time=1785571200.9, level="INFO", stream="model", text="Month 1", attempt=1)
    ]
    ended = wire.outcome_of(second.outcome)
    assert (ended.reason, ended.error, ended.traceback) == (
        Reason.EXCEPTION,
        "ValueError",
        ("a", "b"),
    )


def test_recorded_events_and_control():
    first, second = wire.read(wire.EVENTS, RECORDED[wire.EVENTS], said()).events
    assert (first.fraction, first.lines) == (None, [])
    assert (second.fraction, second.message, second.lines[0].text) == (0.4, "month 1", "x")
    here = wire.read(wire.PRESENCE, RECORDED[wire.PRESENCE], said())
    assert (here.name, here.slots, here.hello, here.versions.ayeaye) == ("etl1", 4, True, "0.1.7")
    assert wire.read(wire.OUTCOME, RECORDED[wire.OUTCOME], said()).task_id is None
    assert wire.read(wire.DROPPED, RECORDED[wire.DROPPED], said()).ids[0].endswith("7081")
    assert wire.read(wire.CANCEL, RECORDED[wire.CANCEL], said()).ids[0].startswith("019a4b3c")
    assert wire.read(wire.QUEUES_LOST, RECORDED[wire.QUEUES_LOST], said()).queue == "fossa.subtasks"
    assert wire.read(wire.PARKED, RECORDED[wire.PARKED], said()).model == "FlightDelays"


@pytest.mark.parametrize("kind", RECORDED)
def test_what_is_written_is_what_was_recorded(kind):
    """Field by field: a 1.0 node finds nothing in it that it does not know."""
    written = wire.letter(kind, wire.read(kind, RECORDED[kind], said("1.1")))
    assert json.loads(written.body) == json.loads(RECORDED[kind])


def test_an_attempt_as_it_is_written_is_read():
    made = Task(
        id="0198f0e0-0000-7000-8000-000000000001",
        model="M",
        depth=1,
        key="ab",
        parent_id="0198f0e0-0000-7000-8000-000000000002",
        arguments=b'{"method_kwargs":{}}',
    )
    node = wire.NodeName(made.id, "n")
    content = wire.Subtasks(node, [wire.subtask(Attempt(task=made, number=3))])
    letter = wire.letter(wire.SUBTASKS, content)
    assert letter.properties.headers["fossa-version"] == "1.0"
    (found,) = wire.read(wire.SUBTASKS, letter.body, letter.properties).subtasks
    assert (found.id, found.attempt, bytes(found.arguments)) == (made.id, 3, made.arguments)


def test_what_is_too_long_is_cut_where_it_is_written():
    """A field over its bound would make the whole message one that nobody can read."""
    long = "x" * (wire.MAX_LINE + 1)
    outcome = Outcome(status="failed", reason="exception", message=long, error=long,
                      traceback=(long, "y"))  # fmt: skip
    line = LogLine(time=1.0, level=long, stream=long, text=long)
    item = wire.SubtaskOutcome("0" * 8, 1, wire.outcome(outcome), wire.lines([line]))
    letter = wire.letter(wire.OUTCOMES, wire.Outcomes(wire.NodeName("0" * 8, "n"), [item]))
    (found,) = wire.read(wire.OUTCOMES, letter.body, letter.properties).outcomes
    assert found.outcome.message == found.lines[0].text == long[:-1]
    assert found.outcome.traceback == (long[:-1], "y")


# versions


@pytest.mark.parametrize("kind", RECORDED)
def test_fields_of_newer_minor_versions_are_ignored(kind):
    document = json.loads(RECORDED[kind])
    plain = wire.read(kind, RECORDED[kind], said("1.7"))
    newer = json.dumps(document | {"of_1_7": {"x": [1]}}).encode()
    found = wire.read(kind, newer, said("1.7"))
    assert json.loads(msgspec.json.encode(found)) == json.loads(msgspec.json.encode(plain))
    reason, detail = refused(wire.read, kind, newer, said("1.0"))
    assert (reason, "of_1_7" in detail) == ("bad_message", True)


def test_messages_of_older_minor_versions_are_read(monkeypatch):
    """As nodes of the next version will read what those of this one have written."""
    monkeypatch.setattr(wire, "VERSION", (1, 3))
    for kind, body in RECORDED.items():
        assert json.loads(msgspec.json.encode(wire.read(kind, body, said("1.0"))))
    assert task(TASK, said("1.2"))[0].model == "FlightDelays"
    assert wire.letter(wire.GOODBYE, b"{}").properties.headers == {"fossa-version": "1.3"}


def test_no_kind_of_message_is_left_unrecorded():
    assert RECORDED.keys() == wire.BY_KIND.keys()


def test_fields_deep_inside_are_ignored_and_refused_likewise():
    newer = RECORDED[wire.OUTCOMES].replace(b'"status"', b'"of_1_7":1,"status"')
    assert len(wire.read(wire.OUTCOMES, newer, said("1.1")).outcomes) == 2
    assert refused(wire.read, wire.OUTCOMES, newer, said())[0] == "bad_message"


def test_a_task_of_a_newer_minor_version():
    newer = b'{"model": "M", "colour": "red", "reply": false}'
    request, reply = task(newer, said("1.99"))
    assert (request.model, request.method, reply) == ("M", "go", False)
    assert refused(task, newer) == (
        "bad_message",
        "the body is not what it should be: Object contains unknown field `colour`",
    )
    # What it knows has to be right in any version.
    assert refused(task, b'{"model": 5}', said("1.99"))[0] == "bad_message"


@pytest.mark.parametrize(
    "version", ["2.0", "0.9", "10.0", "1", "1.x", "", "1.0.0", "-1.0", "1.٣", 1.0, 1, None, b"1.0",
                ["1.0"], {}, "1." + "9" * 10_000],
)  # fmt: skip
def test_other_major_versions_are_refused_as_such(version):
    for kind, body in RECORDED.items():
        reason, detail = refused(wire.read, kind, body, said(version))
        assert reason == "version"
    reason, detail = refused(task, TASK, said(version))
    assert reason == "version"
    assert "1.0" in detail


def test_what_says_no_version_is_in_1_0():
    for headers in (None, {}, {"other": 1}):
        assert task(TASK, said(headers=headers))[0].model == "FlightDelays"


# what is wrong with them

DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (b"", "bad_json", "truncated"),
        (b"{", "bad_json", "truncated"),
        (b"\xff\xfe", "bad_json", "not JSON"),
        (b'{"model": "\xff"}', "bad_json", "utf-8"),
        (b'{"model": "\\ud800"}', "bad_json", "not JSON"),
        (b'{"model": NaN}', "bad_json", "not JSON"),
        (b"\xef\xbb\xbf{}", "bad_json", "not JSON"),
        (b'{"model": "M"} {}', "bad_json", "trailing"),
        (DEEP[:LIMIT], "bad_message", "array"),
        (b'{"model": "M", "method_kwargs": {"a": ' + DEEP[: LIMIT // 2], "bad_json", "recursion"),
        (b"null", "bad_message", "`object`, got `null`"),
        (b"[]", "bad_message", "array"),
        (b'"x"', "bad_message", "str"),
        (b"{}", "bad_message", "missing required field `model`"),
        (b'{"model": null}', "bad_message", "$.model"),
        (b'{"model": ["M"]}', "bad_message", "$.model"),
        (b'{"model": "M", "method": 1}', "bad_message", "$.method"),
        (b'{"model": "M", "method_kwargs": []}', "bad_message", "$.method_kwargs"),
        (b'{"model": "M", "model_construction_kwargs": "x"}', "bad_message", "construction"),
        (b'{"model": "M", "partition_initialise_kwargs": 0}', "bad_message", "partition"),
        (b'{"model": "M", "resolver_context": false}', "bad_message", "resolver_context"),
        (b'{"model": "M", "timeout": "1"}', "bad_message", "$.timeout"),
        (b'{"model": "M", "timeout": 1e999}', "bad_message", "out of range"),
        (b'{"model": "M", "retries": true}', "bad_message", "$.retries"),
        (b'{"model": "M", "retries": 1.5}', "bad_message", "$.retries"),
        (b'{"model": "M", "priority": "high"}', "bad_message", "$.priority"),
        (b'{"model": "M", "reply": "no"}', "bad_message", "$.reply"),
        (b'{"model": "M", "reply": null}', "bad_message", "$.reply"),
        (b'{"model": "M", "idempotency_key": "x"}', "bad_message", "idempotency_key"),
        (b'{"model": "M", "' + b"x" * 90_000 + b'": 1}', "bad_message", "xxx…"),
        (b'{"model": "M", "a\\nb\\u001b[31m\\u2028": 1}', "bad_message", "a\\nb\\x1b[31m\\u2028"),
        (b'{"model": "M"}' + b" " * LIMIT, "too_large", "100014 bytes and the limit is 100000"),
    ],
)
def test_what_is_no_task(body, reason, detail):
    found = refused(task, body)
    assert found[0] == reason
    assert detail in found[1]


def test_a_reply_needs_a_queue_to_go_to():
    for nothing in (None, ""):
        assert refused(task, TASK, said(reply_to=nothing))[0] == "no_reply_to"
    assert task(b'{"model": "M", "reply": false}', said(reply_to=None))[1] is False


@pytest.mark.parametrize("name", ["type", "message_id", "correlation_id", "reply_to"])
def test_a_property_that_is_no_text(name):
    """pika leaves as bytes what is not UTF-8."""
    properties = said(**{name: b"\xff\n"})
    for read in (lambda: task(TASK, properties),
                 lambda: wire.read(wire.CANCEL, RECORDED[wire.CANCEL], properties)):  # fmt: skip
        reason, detail = refused(read)
        assert (reason, name in detail) == ("bad_message", True)


def test_the_key_of_a_task():
    def key(body=TASK, **more):
        return task(body, said(**more))[0].idempotency_key

    assert key(message_id="m", correlation_id="c") == "m"
    assert key() is None
    assert key(correlation_id="c") == key(correlation_id="c") != key(correlation_id="d")
    assert key(correlation_id="c") != key(correlation_id="c", reply_to="elsewhere")
    assert key(correlation_id="c") != key(b'{"model": "M"}', correlation_id="c")


SUBTASK = json.loads(RECORDED[wire.SUBTASKS])["subtasks"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "x"}, {"id": 5}, {"id": "0" * 65}, {"parent": None}, {"root": "../../etc/passwd"},
        {"depth": 0}, {"depth": 2000}, {"depth": "1"}, {"key": "XYZ"}, {"key": ""}, {"model": 1},
        {"model": "M" * 201}, {"method": None}, {"attempt": -1}, {"retries": -1}, {"lane": -1},
        {"lanes": 1 << 70}, {"timeout": "x"}, {"priority": 1.5},
    ],
)  # fmt: skip
def test_what_is_no_subtask(wrong):
    document = json.loads(RECORDED[wire.SUBTASKS]) | {"subtasks": [SUBTASK | wrong]}
    body = json.dumps(document).encode()
    reason, detail = refused(wire.read, wire.SUBTASKS, body, said())
    assert (reason, "$.subtasks[0]" in detail) == ("bad_message", True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (b"[]", "bad_message"),
        (b"null", "bad_message"),
        (b'{"x": {}}', "bad_message"),
        (b'{"method_kwargs": []}', "bad_message"),
        (b'{"method_kwargs": {"a": "\xff"}}', "bad_json"),
        (b'{"method_kwargs": {"a": 1e999}}', "bad_message"),
    ],
)
def test_arguments_that_are_none(arguments, reason):
    """Nobody has looked into them before."""
    body = RECORDED[wire.SUBTASKS].replace(b'{"method_kwargs":{"month":1}}', arguments)
    first, second = wire.read(wire.SUBTASKS, body, said()).subtasks
    assert refused(wire.request_of, first)[0] == reason
    assert wire.request_of(second).model == "FlightDelays"


def test_lists_have_bounds():
    nothing = json.loads(RECORDED[wire.SUBTASKS]) | {"subtasks": []}
    assert refused(wire.read, wire.SUBTASKS, json.dumps(nothing).encode(), said())[0]
    many = json.dumps({"ids": ["0" * 8] * 100_001}).encode()
    assert refused(wire.read, wire.CANCEL, many, said())[0] == "bad_message"


def test_a_kind_that_nobody_reads():
    assert refused(wire.read, "fossa.nonsense", b"{}", said())[0] == "bad_message"
    assert refused(wire.read, wire.TASK, TASK, said())[0] == "bad_message"


# outcomes that cannot be read

ITEM = json.loads(RECORDED[wire.OUTCOMES])["outcomes"][0]
WAITED_FOR = ITEM["id"]


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"status":"running","reason":"returned"}', b'{"status":"queued","reason":"returned"}',
        b'{"status":"complete","reason":"of_another_planet"}', b'{"status":"complete"}', b"[]",
        b'{"status":"complete","reason":"returned","attempt":-1}',
        b'{"status":"complete","reason":"returned","started":"noon"}',
        b'{"status":"complete","reason":"returned","result":"\xff"}',
        b'{"status":"complete","reason":"returned","result":1e999}',
    ],
)  # fmt: skip
def test_an_outcome_that_cannot_be_read_is_a_failure_of_its_subtask_only(wrong):
    body = (
        b'{"node":{"id":"00000000","name":"n"},"outcomes":[{"id":"0000aaaa","attempt":1,"outcome":'
        b'{"status":"complete","reason":"returned","result":7}},{"id":"0000bbbb","attempt":2,'
        b'"outcome":' + wrong + b'},{"nobody":"knows whose"}]}'
    )
    error = BadMessage(*refused(wire.read, wire.OUTCOMES, body, said()))
    (first, fine), (second, failed) = wire.each_outcome(body, error)
    assert (first.id, fine.result) == ("0000aaaa", 7)
    assert (second.id, second.attempt) == ("0000bbbb", 2)
    assert (failed.status, failed.reason) == (Status.FAILED, Reason.PROTOCOL)
    assert failed.message


def test_outcomes_in_a_newer_version_are_failures():
    body = RECORDED[wire.OUTCOMES]
    error = BadMessage(*refused(wire.read, wire.OUTCOMES, body, said("2.0")))
    for _, outcome in wire.each_outcome(body, error):
        assert (outcome.reason, "version 2.0" in outcome.message) == (Reason.PROTOCOL, True)


def test_outcomes_of_nobody_knows_what():
    error = BadMessage("bad_json", "no")
    for body in (b"", b"[]", b'{"outcomes": 5}', b"\xff"):
        assert refused(lambda body=body: list(wire.each_outcome(body, error)))[0]


# headers that pika cannot decode


def header_frame(table, *, shorts=("application/json", "gzip")):
    """The frame of a message's properties: a table as bytes, and a message id after it."""
    flags = (1 << 13) | (1 << 7)
    said = b""
    for flag, text in zip((1 << 15, 1 << 14), shorts, strict=False):
        if text is not None:
            flags |= flag
            said += bytes([len(text)]) + text.encode()
    said += struct.pack(">I", len(table)) + table + b"\x03m-1"
    payload = struct.pack(">HHQH", 60, 0, 17, flags) + said
    return struct.pack(">BHL", 2, 5, len(payload)) + payload + b"\xce"


def entry(kind, value):
    return b"\x01x" + kind + value


NESTED = b"V"
for _ in range(5000):
    NESTED = b"A" + struct.pack(">I", len(NESTED)) + NESTED


@pytest.mark.parametrize(
    "table",
    [
        entry(b"T", struct.pack(">Q", 1 << 62)),
        entry(b"T", struct.pack(">Q", 253_402_300_800)),
        entry(b"d", struct.pack(">d", float("nan"))),
        entry(b"f", struct.pack(">f", float("inf"))),
        entry(b"?", b""),
        b"\x01x" + NESTED,
    ],
    ids=["moment", "year 10000", "nan", "infinity", "kind", "deep"],
)
@pytest.mark.parametrize("shorts", [("application/json", "gzip"), (None, "x"), (None, None)])
def test_headers_that_nobody_can_decode(table, shorts):
    frame = header_frame(table, shorts=shorts)
    taken, found = frame_of(frame + b"\x01the next frame")
    assert taken == len(frame)
    assert isinstance(found, Header)
    assert (found.channel_number, found.body_size) == (5, 17)
    assert found.properties.message_id == "m-1"
    assert (found.properties.content_type, found.properties.content_encoding) == shorts
    assert found.properties.headers.keys() == {UNREADABLE}
    reason, detail = refused(task, TASK, found.properties)
    assert (reason, "headers cannot be read" in detail) == ("bad_message", True)
    # It can be published again, to the dead letters.
    again = b"".join(carried(found.properties, {"fossa-reason": "x"}).encode())
    properties = pika.BasicProperties()
    properties.decode(again)
    assert properties.message_id == "m-1"
    assert properties.headers["fossa-reason"] == "x"


def test_a_frame_that_comes_in_pieces():
    frame = header_frame(entry(b"T", struct.pack(">Q", 1 << 62)))
    for end in range(len(frame)):
        assert frame_of(frame[:end]) == (0, None)


def test_what_is_wrong_with_other_frames_is_said():
    for payload in (b"\xff\xff\xff\xff", b""):
        frame = struct.pack(">BHL", 1, 5, len(payload)) + payload + b"\xce"
        with pytest.raises((KeyError, struct.error)):
            frame_of(frame)


def test_what_is_published_again_keeps_what_it_was():
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    before = pika.BasicProperties(
        content_type="text/plain", correlation_id="c", reply_to="r", message_id="m", type="t",
        timestamp=7, priority=3, app_id="a", user_id="guest", expiration="1000",
        headers={"CC": ["elsewhere"], "when": moment, "x": [1, {"y": None}], b"\xff": b"\xff"},
    )  # fmt: skip
    after = carried(before, {"more": "1"})
    assert after.headers == {
        "when": moment, "x": [1, {"y": None}], b"\xff": b"\xff", "more": "1",
    }  # fmt: skip
    for name in ("content_type", "correlation_id", "reply_to", "message_id", "type", "timestamp"):
        assert getattr(after, name) == getattr(before, name)
    assert (after.delivery_mode, after.user_id, after.expiration) == (2, None, None)
    assert b"".join(after.encode())
    odd = carried(pika.BasicProperties(headers={"x": 1.5}))
    assert odd.headers.keys() == {UNREADABLE}


# anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
headers = st.none() | st.dictionaries(
    st.sampled_from(["fossa-version", "fossa-again", UNREADABLE]) | st.text(max_size=5),
    st.sampled_from(["1.0", "1.1", "2.0"]) | json_values | st.binary(max_size=5),
    max_size=3,
)
shorts = st.none() | st.text(max_size=20) | st.binary(max_size=20)
any_properties = st.builds(
    pika.BasicProperties, headers=headers, message_id=shorts, correlation_id=shorts,
    reply_to=shorts, type=shorts,
)  # fmt: skip
BODIES = [TASK, *RECORDED.values()]


@st.composite
def damaged(draw):
    """A message that somebody has been at: a value of it is another, or bytes of it are."""
    body = draw(st.sampled_from(BODIES))
    if draw(st.booleans()):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 8)))
        return body[:start] + draw(st.binary(max_size=8)) + body[end:]
    document = json.loads(body)
    place = document
    while True:
        steps = list(place) if isinstance(place, dict) else list(range(len(place)))
        step = draw(st.sampled_from(steps)) if steps else None
        if step is None:
            break
        if not isinstance(place[step], dict | list) or draw(st.booleans()):
            place[step] = draw(json_values)
            break
        place = place[step]
    return json.dumps(document).encode()


bodies = st.binary(max_size=100) | damaged() | json_values.map(lambda v: json.dumps(v).encode())


def checked(read, *arguments):
    """What was read; None where it was refused as it should be."""
    try:
        return read(*arguments)
    except BadMessage as error:
        assert error.reason in {"bad_json", "bad_message", "version", "no_reply_to", "too_large"}
        assert str(error).isprintable()
        return None


@settings(max_examples=400, deadline=None)
@given(bodies, any_properties)
def test_nothing_but_bad_message_comes_of_a_task(body, properties):
    found = checked(task, body, properties)
    assert found is None or isinstance(found[0], Request)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(list(RECORDED)), bodies, any_properties)
def test_nothing_but_bad_message_comes_of_anything_else(kind, body, properties):
    found = checked(wire.read, kind, body, properties)
    for item in getattr(found, "subtasks", ()):
        request = checked(wire.request_of, item)
        assert request is None or isinstance(request, Request)
        assert wire.origin_of(item).task_id == item.id
    for item in getattr(found, "outcomes", ()):
        assert wire.outcome_of(item.outcome).status.final
        assert len(wire.lines_of(item)) == len(item.lines)
    error = BadMessage("bad_message", "x")
    for _, outcome in checked(lambda: list(wire.each_outcome(body, error))) or ():
        assert outcome.status.final


def packed(kind, form, numbers):
    return numbers.map(lambda number: kind + struct.pack(form, number))


#: What a broker lets pass: of the right form, whatever it says.
fields = (
    packed(b"T", ">Q", st.integers(0, (1 << 64) - 1))
    | packed(b"l", ">q", st.integers(-(1 << 63), (1 << 63) - 1))
    | packed(b"i", ">I", st.integers(0, (1 << 32) - 1))
    | packed(b"d", ">d", st.floats())
    | packed(b"f", ">f", st.floats(width=32))
    | st.tuples(st.integers(0, 255), st.integers(-(1 << 31), (1 << 31) - 1)).map(
        lambda decimal: b"D" + struct.pack(">Bi", *decimal)
    )
    | st.binary(max_size=9).map(lambda text: b"S" + struct.pack(">I", len(text)) + text)
    | st.binary(max_size=9).map(lambda text: b"x" + struct.pack(">I", len(text)) + text)
    | st.just(b"V")
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=5), fields), max_size=4))
def test_no_table_of_headers_ends_a_connection(entries):
    table = b"".join(bytes([len(name)]) + name + value for name, value in entries)
    frame = header_frame(table)
    taken, found = frame_of(frame)
    assert (taken, found.properties.message_id) == (len(frame), "m-1")
    assert b"".join(carried(found.properties).encode())
