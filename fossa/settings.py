"""One config's settings as values: as given, from the environment or the class; each checked."""

import difflib
import inspect
import ipaddress
import os
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from fossa.config import BaseConfig, Secret
from fossa.worker.redaction import Redaction

HINTS = typing.get_type_hints(BaseConfig)
_SCALARS = (str, int, float, bool, Path)
#: Settings that may be secrets even where they are plain text.
_SECRET = ("HTTP_TOKEN", "SECRET_KEY")
#: Settings of `ayeaye-fossa` 0.0.37 that are gone, with what to use.
_GONE = {
    "MESSAGE_BROKER_MANAGERS": 'use SOURCES, e.g. ["http", use("rabbitmq", url=…)]',
    "ISOLATED_PROCESSOR": 'use EXECUTORS, e.g. ["local", use("rabbitmq", url=…)]',
}
#: In the environment, but not settings: the client's and the worker's own.
_OTHER_VARIABLES = {"FOSSA_URL", "FOSSA_WORKER_OF", "FOSSA_TEST_SERVICES", "FOSSA_TRACE_HOOKS"}
#: What Kubernetes puts into FOSSA_HTTP_PORT where it has a service named `fossa-http`.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+")

_BIG = 2**63
_RANGES = (
    ("SLOTS", 1, 10_000), ("MAX_QUEUED_TASKS", 0, 10_000_000), ("DRAIN_TIMEOUT", 0, 86_400),
    ("TIMEOUT", 0.001, 10**9), ("RETRIES", 0, 1000), ("RETRY_DELAY", 0, 86_400),
    ("RETRY_MAX_DELAY", 0, 7 * 86_400), ("CRASH_ATTEMPTS", 1, 1000),
    ("INTERRUPT_GRACE", 0, 86_400), ("TERMINATE_GRACE", 0, 86_400),
    ("WORKER_MAX_TASKS", 1, _BIG), ("MAX_ARGUMENTS_BYTES", 2, 1 << 29),
    ("MAX_ARGUMENTS_DEPTH", 2, 200), ("MAX_RESULT_BYTES", 4, 1 << 29),
    ("MAX_LOG_LINES", 0, 10_000_000), ("MAX_LOG_BYTES", 0, 1 << 40), ("RETAIN_TASKS", 0, _BIG),
    ("RETAIN_DAYS", 0, 1_000_000), ("HTTP_PORT", 0, 65_535), ("HTTP_MAX_BODY_BYTES", 2, 1 << 30),
)  # fmt: skip

_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*(?:([KMGT])i?)?B?", re.IGNORECASE)
_PREFIXES = {None: 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    Path: "a path",
    Secret: "env(…) or secret_file(…)",
    type(None): "None",
}


class Settings:
    """Every setting's value. Collects mistakes instead of stopping at the first."""

    def __init__(self, config: type[BaseConfig], overrides: Mapping[str, Any]) -> None:
        self._config = config
        self._overrides = overrides
        self._mistakes: list[str] = []
        self._secrets: list[str] = []
        self._check_names()
        self._check_variables()
        self._values = {name: self._value(name, hint) for name, hint in HINTS.items()}
        self._check_ranges()

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def hidden(self) -> dict[str, Any]:
        """Every setting, with what may be a secret hidden."""
        values = dict(self._values)
        for name in _SECRET:
            values[name] = _hide(name, values[name])
        values["SECRETS"] = {k: _hide(f"SECRETS[{k!r}]", v) for k, v in values["SECRETS"].items()}
        return values

    # mistakes

    def wrong(self, mistake: str) -> None:
        self._mistakes.append(mistake)

    def mistakes(self) -> list[str]:
        """What is wrong so far, each once."""
        return list(dict.fromkeys(self._mistakes))

    def redacted(self, text: str) -> str:
        """What others have written, without a secret that was revealed to them."""
        return Redaction([*self._secrets, *(repr(s)[1:-1] for s in self._secrets)])(text)

    def _check_names(self) -> None:
        for klass in self._config.__mro__:
            if klass not in (BaseConfig, object):
                for name in vars(klass):
                    self._check_name(name)
        for name in self._overrides:
            if name not in HINTS:
                self.wrong(_no_setting(name))

    def _check_name(self, name: str) -> None:
        """Lower-case names are the class's own, but not where they differ by case alone."""
        meant = name.isupper() or name.upper() in HINTS
        if meant and not name.startswith("_") and name not in HINTS:
            self.wrong(_no_setting(name))

    def _check_variables(self) -> None:
        scalars = {f"FOSSA_{name}": _is_scalar(hint) for name, hint in HINTS.items()}
        known = scalars.keys() | _OTHER_VARIABLES
        for name in os.environ:
            if not name.startswith("FOSSA_") or name in _OTHER_VARIABLES:
                continue
            if name in scalars:
                if not scalars[name]:
                    self.wrong(f"the environment variable {name}: set this one in the config class")
            # Not an error unless it is nearly right: schedulers put variables of their own there.
            elif difflib.get_close_matches(name, known, 1, cutoff=0.85):
                self.wrong(
                    f"the environment variable {name} is no setting{did_you_mean(name, known)}"
                )

    # values

    def _value(self, name: str, hint: Any) -> Any:
        if name in self._overrides:
            value = self._checked(name, self._overrides[name], hint, "given as")
        elif (text := os.environ.get(f"FOSSA_{name}")) is not None and _is_scalar(hint):
            value = self._from_environment(name, hint, text)
        else:
            value = self._of_class(name, hint)
        if name in _SECRET and isinstance(value, str):
            self._secrets.append(value)
        return value

    def _of_class(self, name: str, hint: Any) -> Any:
        return self._checked(name, inspect.getattr_static(self._config, name), hint, "set to")

    def _from_environment(self, name: str, hint: Any, text: str) -> Any:
        if type(None) in typing.get_args(hint) and text == "":
            return None
        if str in (hint, *typing.get_args(hint)):
            return text
        if hint is int and _SERVICE_LINK.fullmatch(text):
            return self._of_class(name, hint)
        try:
            return msgspec.convert(text, hint, strict=False)
        except msgspec.ValidationError:
            self.wrong(
                f"FOSSA_{name} in the environment is {text!r:.100}: it should be {hint_name(hint)}"
            )
            return getattr(BaseConfig, name)

    def _checked(self, name: str, value: Any, hint: Any, how: str) -> Any:
        if fits(value, hint):
            return value
        self.wrong(
            f"{name} is {how} a value of type {type(value).__name__}: it should be "
            f"{hint_name(hint)}"
        )
        return getattr(BaseConfig, name)

    def _check_ranges(self) -> None:
        for name, low, high in _RANGES:
            self.check_range(name, self[name], low, high)

    def check_range(self, name: str, value: Any, low: float, high: float) -> None:
        if value is not None and not low <= value <= high:
            self.wrong(f"{name} is {value}: it should be from {low} to {high}")

    # secrets and sizes

    def revealed(self, name: str, value: Any) -> str | None:
        """The text of a secret; None, and a mistake, where there is none."""
        try:
            text = value.reveal() if isinstance(value, Secret) else value
        except LookupError as error:
            self.wrong(f"{name}: {error.args[0]}")
            return None
        if not isinstance(text, str):
            self.wrong(
                f"{name} is of type {type(text).__name__}: it should be text, env(…) or "
                "secret_file(…)"
            )
            return None
        self._secrets.append(text)
        return text

    def all_revealed(self, name: str, value: Any) -> Any:
        """An option with every secret in it revealed, however deep in lists and mappings."""
        if isinstance(value, Secret):
            return self.revealed(name, value)
        if isinstance(value, dict):
            return {k: self.all_revealed(f"{name}[{k!r}]", v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.all_revealed(f"{name}[{i}]", v) for i, v in enumerate(value)]
        return value

    def size(self, name: str, value: Any, least: int) -> int | None:
        """Bytes, from a number or from text such as "2GiB"."""
        size = value
        if isinstance(value, str):
            found = _SIZE.fullmatch(value.strip())
            if not found:
                self.wrong(f'{name} is {value!r:.100}: it should be like 1073741824 or "1GiB"')
                return None
            size = int(float(found[1]) * _PREFIXES[found[2].upper() if found[2] else None])
        if size is not None and not least <= size < _BIG:
            self.wrong(f"{name} is {value}: it should be at least {least} bytes")
        return typing.cast("int | None", size)


# names


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _no_setting(name: str) -> str:
    if name in _GONE:
        return f"{name} is a setting that is gone: {_GONE[name]}"
    return f"{name} is no setting{did_you_mean(name.upper(), HINTS)}"


def _hide(name: str, value: Any) -> Any:
    return Secret(lambda: value, name) if isinstance(value, str) else value


# types


def _members(hint: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(hint)
    if origin is typing.Union or str(origin) == "<class 'types.UnionType'>":
        return typing.get_args(hint)
    return (hint,)


def _is_scalar(hint: Any) -> bool:
    return any(m in _SCALARS or typing.get_origin(m) is Literal for m in _members(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a setting's type. Members of collections are checked elsewhere."""
    return any(_fits_one(value, member) for member in _members(hint))


def _fits_one(value: Any, member: Any) -> bool:
    origin = typing.get_origin(member)
    if origin is Literal:
        return value in typing.get_args(member)
    if isinstance(value, bool):
        return member is bool
    if member is float:
        return isinstance(value, int | float)
    if isinstance(value, str) and origin is not None:
        return False
    return isinstance(value, origin or member)


def hint_name(hint: Any) -> str:
    """A type in words for people."""
    words: list[str] = []
    for member in _members(hint):
        origin = typing.get_origin(member)
        if origin is Literal:
            words += [repr(v) for v in typing.get_args(member)]
        elif origin is not None:
            words.append("a mapping" if issubclass(origin, Mapping) else "a list")
        else:
            words.append(_WORDS[member])
    return " or ".join(words)
