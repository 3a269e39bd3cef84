"""What a request must be before it becomes a task. Everything in it is hostile until checked."""

import difflib
import hashlib
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from fossa.composition import Composition, Model
from fossa.errors import BadArguments, NotAccepted
from fossa.tasks import Delivery, Request, Task, new_id
from fossa.worker.messages import is_plain

#: The four JSON objects that a request may carry, in the order in which they are encoded.
ARGUMENTS = (
    "method_kwargs",
    "model_construction_kwargs",
    "partition_initialise_kwargs",
    "resolver_context",
)
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_encode = msgspec.json.Encoder().encode


class Admission:
    """Checks requests against one node's config."""

    def __init__(self, composition: Composition) -> None:
        self._models = composition.models
        self._composition = composition
        self._max_bytes: int = composition.MAX_ARGUMENTS_BYTES
        self._max_depth: int = composition.MAX_ARGUMENTS_DEPTH

    def task(self, delivery: Delivery) -> Task:
        """The task that a delivery asks for. Raises `TaskRefused` with all that is wrong."""
        request, origin = delivery.request, delivery.origin
        model = self.accepted(request.model, request.method)
        limits = model.limits
        family: dict[str, Any] = {"id": new_id()}
        if origin is not None:
            family = {
                "id": origin.task_id,
                "parent_id": origin.parent_id,
                "root_id": origin.root_id,
                "depth": origin.depth,
                "key": origin.key,
            }
        return Task(
            **family,
            model=model.name,
            method=request.method,
            arguments=self._arguments(request),
            idempotency_key=_checked_key(request.idempotency_key),
            retry_of=request.retry_of,
            priority=_number(request, "priority", limits.priority, -100, 100, whole=True),
            timeout=_number(request, "timeout", self._timeout(model), 0.001, 1e9),
            retries=_number(request, "retries", self._retries(model), 0, 1000, whole=True),
            source=delivery.source,
            redelivered=delivery.redelivers,
            accepted=time.time(),
        )

    def subtask(self, parent: Task, model_name: str, method: str, arguments: bytes) -> Task:
        """The subtask that a running model makes. Raises `TaskRefused`."""
        model = self.accepted(model_name, method)
        if len(arguments) > self._max_bytes:
            raise BadArguments(_too_large(len(arguments), self._max_bytes))
        return self.unchecked_subtask(
            parent,
            model_name,
            method,
            arguments,
            timeout=self._timeout(model),
            retries=self._retries(model),
        )

    @staticmethod
    def unchecked_subtask(
        parent: Task, model: str, method: str, arguments: bytes, **values: Any
    ) -> Task:
        """A subtask's values, for one that is admitted and for one that is refused alike."""
        return Task(
            id=new_id(),
            model=model,
            method=method,
            arguments=arguments,
            parent_id=parent.id,
            root_id=parent.root_id,
            depth=parent.depth + 1,
            key=content_key(model, method, arguments),
            priority=parent.priority,
            source=parent.source,
            accepted=time.time(),
            **values,
        )

    def accepted(self, model_name: Any, method: Any) -> Model:
        """The accepted model of that name, whose method of that name may be run."""
        model = self._models.get(model_name) if isinstance(model_name, str) else None
        if model is None:
            raise NotAccepted(
                f"Model class {_short(model_name)} is not in ACCEPTED_MODEL_CLASSES of this "
                f"node{_nearest(model_name, self._models)}"
            )
        if not isinstance(method, str) or method not in model.methods:
            raise NotAccepted(
                f"{_short(method)} is not a method of {model.name} that a task may run"
                f"{_nearest(method, dict.fromkeys(model.methods))}"
            )
        return model

    def _timeout(self, model: Model) -> float | None:
        own = model.limits.timeout
        default: float | None = self._composition.TIMEOUT
        return default if own is None else own

    def _retries(self, model: Model) -> int:
        own = model.limits.retries
        default: int = self._composition.RETRIES
        return default if own is None else own

    def _arguments(self, request: Request) -> bytes:
        given = {n: v for n in ARGUMENTS if (v := getattr(request, n)) is not None and v != {}}
        if not given:
            return b"{}"
        for name, value in given.items():
            if not isinstance(value, Mapping):
                raise BadArguments(
                    f"{name} is of type {type(value).__name__}: it should be a JSON object"
                )
            if not is_plain(value, self._max_depth):
                _check_json(value, name, self._max_depth)
        try:
            encoded = _encode(given)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadArguments(f"the arguments cannot be written as JSON: {error}") from None
        if len(encoded) > self._max_bytes:
            raise BadArguments(_too_large(len(encoded), self._max_bytes))
        return encoded


def content_key(model: str, method: str, arguments: bytes) -> str:
    """Identity of a subtask by content: the same for the same work, whoever encoded it when."""
    content = b"\0".join((model.encode(), method.encode(), arguments))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_json(value: Any, where: str, depth: int) -> None:
    """Refuse what is not made of JSON's types, or is nested too deeply. No recursion limit met."""
    if value is None or isinstance(value, str | int | float):
        return
    if depth == 0:
        raise BadArguments(f"{where:.100} is nested deeper than MAX_ARGUMENTS_DEPTH allows")
    if isinstance(value, Mapping):
        for key, member in value.items():
            if not isinstance(key, str):
                raise BadArguments(f"{where:.100} has the key {key!r:.50}, which is not text")
            _check_json(member, f"{where}.{key}", depth - 1)
    elif isinstance(value, list | tuple):
        for at, member in enumerate(value):
            _check_json(member, f"{where}[{at}]", depth - 1)
    else:
        raise BadArguments(f"{where:.100} is of type {type(value).__name__}, which is not JSON")


def _number(
    request: Request, name: str, default: Any, low: float, high: float, *, whole: bool = False
) -> Any:
    value = getattr(request, name)
    if value is None or (name == "priority" and value == 0):
        return default
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise BadArguments(f"{name} is {value!r:.50}: it should be {kind} from {low} to {high}")
    return value


def _checked_key(key: Any) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise BadArguments(
            f"idempotency_key is {key!r:.50}: it should be 1 to 200 visible ASCII characters"
        )
    return key


def _short(name: Any) -> str:
    return f"{name!r:.100}"


def _nearest(name: Any, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, 1) if isinstance(name, str) else []
    return f": did you mean {close[0]!r}?" if close else ""


def _too_large(size: int, limit: int) -> str:
    return (
        f"the arguments take {size} bytes of JSON and MAX_ARGUMENTS_BYTES is {limit}: write them "
        "to a dataset and pass where it is"
    )
