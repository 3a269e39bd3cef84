"""What a governor and its worker processes say to each other, over one socket pair or two pipes.

A frame is its length (four bytes, big-endian) and that many bytes of JSON: an array with the
message's name first. Both ends check every message against the types below.
"""

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

_HEADER = struct.Struct(">I")
#: Raised with every change of the messages: a fresh worker may be another installation's.
PROTOCOL = 1
#: What a fresh worker writes before its greeting, which is a line of JSON; frames follow.
GREETING = b"\x00fossa-worker "
#: A frame larger than this is taken for garbage.
MAX_FRAME = 1 << 30


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all messages."""


class Reference(msgspec.Struct, frozen=True):
    """Where a worker finds a class or function of the config."""

    name: str
    module: str
    qualname: str
    #: The module's file, for a module that no import finds (a script, a notebook's helper).
    file: str | None = None
    #: Base64 of cloudpickle, for what was defined in a REPL or inside a function.
    value: str | None = None


class Boot(Message, frozen=True):
    """To the worker, first: what it will need."""

    path: list[str]
    models: list[Reference]
    resolvers: list[Reference]
    secrets: dict[str, str]
    main_file: str | None
    main_module: str | None
    max_result_bytes: int
    max_log_lines: int
    max_log_bytes: int


class Bounds(Message, frozen=True):
    """To a fresh worker, before its boot: what binds the process."""

    #: In the environment of every process that the model starts.
    mark: str
    #: Directories that come after the interpreter's own.
    more_path: list[str]
    #: Seconds of processor time after which the model is asked to stop, and is made to.
    cpu: tuple[int, int] | None
    #: File descriptors that may be open at once.
    open_files: int | None
    #: Added to the process's niceness.
    nice: int
    #: Whether the node itself is the process's parent.
    direct: bool


class Signal(Message, frozen=True):
    """To a fresh worker: send yourself this signal. It reaches what no process here can."""

    number: int


class Greeting(msgspec.Struct, frozen=True):
    """From a fresh worker, first: who speaks. Any version's has a protocol."""

    protocol: int
    pid: int = 0
    #: Names the computer and the process namespace that the pid belongs to; empty: not asked for.
    place: str = ""
    #: Names what is installed there to its version; empty: not asked for.
    versions: dict[str, str | None] = {}


class Run(msgspec.Struct, frozen=True, array_like=True):
    """One attempt to run. `number` is what every message about it names it by."""

    number: int
    task_id: str
    model: str
    method: str
    arguments: msgspec.Raw
    attempt: int
    parallelism: int
    lane: int | None = None
    total_lanes: int | None = None
    memory: int | None = None


class Runs(Message, frozen=True):
    """To the worker: run these, one after another."""

    runs: list[Run]


class SubtaskOutcome(msgspec.Struct, frozen=True, array_like=True):
    """How one subtask ended."""

    number: int
    task_id: str
    complete: bool
    error: str | None
    message: str
    traceback: tuple[str, ...]
    result: msgspec.Raw


class SubtaskOutcomes(Message, frozen=True):
    """To the worker: outcomes of subtasks that its model made."""

    outcomes: list[SubtaskOutcome]


class Awake(Message, frozen=True):
    """To the worker: you have a slot again."""


class Ready(Message, frozen=True):
    """From the worker, once: models are imported. `problems` says what was not."""

    pid: int
    problems: list[str]


class Log(Message, frozen=True):
    """From the worker: a line that the model wrote."""

    number: int
    time: float
    level: str
    stream: str
    text: str


class Progressed(Message, frozen=True):
    """From the worker: `log_progress` was called."""

    number: int
    fraction: float
    message: str


class Planned(Message, frozen=True):
    """From the worker: the model begins to make subtasks."""

    run: int
    total: int | None
    #: Subtasks at once: as many as there are slots now, and as there may ever be.
    limit: int
    most: int


class Subtask(msgspec.Struct, frozen=True, array_like=True):
    """One subtask that the model made."""

    number: int
    model: str
    method: str
    arguments: msgspec.Raw


class Subtasks(Message, frozen=True):
    """From the worker: the next subtasks."""

    run: int
    subtasks: list[Subtask]


class Rest(Message, frozen=True):
    """From the worker: the model waits for subtasks now; its slot is free."""

    run: int


class Wake(Message, frozen=True):
    """From the worker: the model has all its outcomes and wants a slot to go on."""

    run: int


class Done(msgspec.Struct, frozen=True, array_like=True):
    """How one attempt ended. Times are in seconds since the epoch."""

    number: int
    started: float
    finished: float
    complete: bool
    reason: str
    message: str = ""
    error: str | None = None
    traceback: tuple[str, ...] = ()
    result: msgspec.Raw = msgspec.Raw(b"null")
    result_is_json: bool = True
    failed_subtask: str | None = None
    #: Why this process should not be used again; empty where it may.
    retire: str = ""
    #: Bytes of resident memory now.
    rss: int = 0


class Dones(Message, frozen=True):
    """From the worker: these attempts are over, in this order."""

    dones: list[Done]


class GivenBack(Message, frozen=True):
    """From the worker: these have not begun, and would wait for one that takes its time."""

    numbers: list[int]


ToWorker = Boot | Bounds | Runs | SubtaskOutcomes | Awake | Signal
FromWorker = Ready | Log | Progressed | Planned | Subtasks | Rest | Wake | Dones | GivenBack

_encoder = msgspec.json.Encoder()
to_worker: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
from_worker: msgspec.json.Decoder[FromWorker] = msgspec.json.Decoder(FromWorker)
greeting: msgspec.json.Decoder[Greeting] = msgspec.json.Decoder(Greeting)


def frame(message: Message) -> bytes:
    """A message as bytes that are ready to send."""
    body = _encoder.encode(message)
    return _HEADER.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into the frames' bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each body that is whole now. Raises ValueError on a length that cannot be."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            (length,) = _HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes was announced")
            if len(buffer) - at - 4 < length:
                break
            yield bytes(buffer[at + 4 : at + 4 + length])
            at += 4 + length
        if at:
            del buffer[:at]


def encode_json(value: Any) -> bytes:
    """JSON of a value; NaN and infinities become null. Raises TypeError, ValueError."""
    return _encoder.encode(value)


#: Types with nothing in them that would have to be looked at.
_LEAVES = frozenset({bool, float, int, str, type(None)})


def is_plain(value: Any, depth: int = 101) -> bool:
    """Whether a value is made of JSON's own types only, so many deep (tuples count as arrays)."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if depth <= 0 or kind not in (dict, list, tuple):
        return False
    members = value
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        members = value.values()
    # Loops: they run once for each value, and a generator takes twice as long.
    for member in members:
        if type(member) not in _LEAVES and not is_plain(member, depth - 1):
            return False
    return True
