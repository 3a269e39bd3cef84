"""What our channel writes by itself is what pika would have written."""

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.callback import CallbackManager
from pika.channel import Channel as PikaChannel
from pika.connection import Connection
from pika.exceptions import ChannelWrongStateError

from fossa_rabbitmq.stream import _ADDRESSES, WireChannel

NAMES = st.text(max_size=60)


class Recorder:
    """A connection that keeps what it should send."""

    _send_method = Connection._send_method
    _send_message = Connection._send_message
    _send_frame = Connection._send_frame
    _body_max_length = 100
    bytes_sent = frames_sent = 0
    is_closed = False
    params = pika.ConnectionParameters()

    def __init__(self):
        self.callbacks = CallbackManager()
        self.written = b""

    def _output_marshaled_frames(self, frames):
        self.written += b"".join(frames)

    _adapter_emit_data = _output_marshaled_frames


def written(act, number=3):
    recorder = Recorder()
    channel = WireChannel(recorder, number, print)
    channel._state = channel.OPEN
    act(channel)
    return recorder.written


@given(
    NAMES,
    NAMES,
    st.binary(max_size=250) | st.text(max_size=60) | st.just("\u2026" * 50),
    st.none() | st.builds(pika.BasicProperties, message_id=NAMES, headers=st.none() | st.just({})),
    st.booleans(),
)
def test_published(exchange, routing_key, body, properties, mandatory):
    what = (exchange, routing_key, body, properties, mandatory)

    def twice(channel):
        channel.basic_publish(*what)
        channel.basic_publish(*what)

    theirs = written(lambda channel: PikaChannel.basic_publish(channel, *what))
    assert written(twice) == 2 * theirs


@given(st.integers(0, 2**63 - 1), st.booleans(), st.integers(1, 65535))
def test_acknowledged(tag, multiple, number):
    theirs = written(lambda channel: PikaChannel.basic_ack(channel, tag, multiple), number)
    assert written(lambda channel: channel.basic_ack(tag, multiple), number) == theirs


def test_addresses_are_not_kept_for_ever():
    def publish(channel):
        for number in range(3 * _ADDRESSES):
            channel.basic_publish("", f"replies {number}", b"x", pika.BasicProperties())
        assert len(channel._publishing) == _ADDRESSES

    assert written(publish)


@pytest.mark.parametrize("act", ["basic_publish", "basic_ack"])
def test_a_closed_channel_takes_nothing(act):
    channel = WireChannel(Recorder(), 3, print)
    arguments = ("", "queue", b"x", pika.BasicProperties()) if act == "basic_publish" else (1,)
    with pytest.raises(ChannelWrongStateError):
        getattr(channel, act)(*arguments)
