"""The webhook sink: each outcome as an HTTP POST, signed, and sent to public addresses only."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import random
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from fossa.contracts import Node, Sink
from fossa.documents import outcome_document
from fossa.errors import ConfigError, FossaError
from fossa.tasks import Outcome, Status, Task

#: The statuses of an outcome that may be asked for.
STATUSES = tuple(status.value for status in Status if status.final)
#: Answers that may be another one in a while; every other one from 300 to 499 is final.
PASSING = {408, 409, 425, 429}
#: Seconds before the second try; doubled each time, less up to half of it by chance.
FIRST_DELAY = 0.5
#: Seconds that an answer may have us wait before the next try (`Retry-After`), at the most.
MAX_DELAY = 5.0
#: Bytes of a document with its result; a longer one is sent without.
MAX_BYTES = 1 << 20
_SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
_LEAST_SECRET = 16


class Refused(FossaError):
    """The receiver, or this sink, will not have it: trying again would not help."""


class WebhookSink(Sink):
    """Posts each outcome: `use("webhook", url="https://…", secret=env("HOOK_SECRET"))`.

    The body is the document that the other sinks write. It is signed as
    https://www.standardwebhooks.com says: `webhook-id` is the task's id, the same however often the
    outcome is sent; `webhook-signature` is `v1,` and the base64 of the HMAC-SHA256 of
    `id.timestamp.body`.

    Args:
        url: where to. https, or http.
        secret: the key to sign with, as text or as `whsec_` and base64; None: nothing is signed.
        on: statuses of the outcomes to send, of complete, failed and cancelled.
        headers: more headers, such as an Authorization.
        timeout: seconds for each try.
        tries: how often one outcome is sent before the node is told that it was not taken.
        allow_private: whether it may go to addresses that are not public: this computer, this
            network. Redirects are never followed.
        required: whether a task is settled only once its outcome was taken.
    """

    _sleep = staticmethod(asyncio.sleep)

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        *,
        on: Sequence[str] = STATUSES,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        tries: int = 3,
        allow_private: bool = False,
        required: bool = False,
    ) -> None:
        checks = (
            _url(url, allow_private), _secret(secret), _on(on), _headers(headers),
            _number("timeout", timeout, 0.1, 300), _number("tries", tries, 1, 20),
        )  # fmt: skip
        if mistakes := [mistake for mistake in checks if mistake]:
            raise ConfigError('use("webhook")', mistakes)
        self._url = url
        #: The url without what may be secret in it.
        self._where = _safe(url)
        self._key = _key(secret) if secret is not None else None
        self._on = frozenset(on)
        self._headers = {"User-Agent": "fossa", **(headers or {})}
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._tries = tries
        self._allow_private = allow_private
        self.required = required
        self.deadline = tries * timeout + (tries - 1) * MAX_DELAY + 1
        self._session: aiohttp.ClientSession | None = None

    async def open(self, node: Node) -> None:
        self._logger = node.logger
        resolver = None if self._allow_private else PublicResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, limit=16),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def take(self, task: Task, outcome: Outcome) -> None:
        if outcome.status not in self._on:
            return
        body = _body(task, outcome)
        delay = FIRST_DELAY
        for left in reversed(range(self._tries)):
            try:
                await self._post(task.id, body)
                return
            except (TimeoutError, aiohttp.ClientError, _Passing) as error:
                if not left:
                    text = _words(error)
                    raise FossaError(f"{self._where} did not take it: {text}") from error
                wait = max(delay, getattr(error, "retry_after", 0.0))
                await self._sleep(min(MAX_DELAY, wait * random.uniform(0.5, 1.0)))
                delay *= 2

    async def _post(self, task_id: str, body: bytes) -> None:
        assert self._session is not None
        headers = {**self._headers, **self._signed(task_id, body, int(time.time()))}
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            status = answer.status
            if status in PASSING or status >= 500:
                raise _Passing(status, answer.headers.get("Retry-After", ""))
            if 300 <= status < 400:
                raise Refused(
                    f"{self._where} answered {status}, a redirect, and these are not followed: "
                    "give the address that it leads to"
                )
            if status >= 400:
                raise Refused(f"{self._where} answered {status}: it will not take this outcome")

    def _signed(self, task_id: str, body: bytes, now: int) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "webhook-id": task_id,
            "webhook-timestamp": str(now),
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, task_id, now, body)
        return headers


class _Passing(Exception):
    """An answer that may be another one in a while."""

    def __init__(self, status: int, retry_after: str) -> None:
        #: Seconds that the receiver asks for; 0.0 where it does not, or names a date.
        self.retry_after = float(retry_after) if retry_after.isdecimal() else 0.0
        super().__init__(f"it answered {status}")


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _body(task: Task, outcome: Outcome) -> bytes:
    document = outcome_document(task, outcome)
    body = msgspec.json.encode(document)
    if len(body) > MAX_BYTES:
        document |= {"result": None, "result_left_out": True}
        body = msgspec.json.encode(document)
    return body


# where it may go


class PublicResolver(AbstractResolver):
    """Resolves names to addresses that anybody may reach, and to no others.

    It is asked for each connection, so a name that leads elsewhere after a check gains nothing.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise Refused(
                f"{host} is at {', '.join(r['host'] for r in found)}, which is no public address: "
                "set allow_private=True if outcomes should go there"
            )
        return public

    async def close(self) -> None:
        await self._resolver.close()


#: IPv4 addresses as IPv6 has them, beside those that `ipv4_mapped` knows.
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, and no single host's or network's own."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


# options


def _url(url: Any, allow_private: bool) -> str | None:
    wanted = "it should be like https://example.com/hook"
    if not isinstance(url, str):
        return f"url is of type {type(url).__name__}: {wanted}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"url has a mistake ({error}): {wanted}"
    if parts.scheme not in ("http", "https") or not host:
        return f"url has no http:// or https:// with a host: {wanted}"
    if parts.username is not None:
        return "url has a user or a password in it: give them as headers={'Authorization': env(…)}"
    if not allow_private and _is_literal(host) and not is_public(host):
        return (
            f"url leads to {host}, which is no public address: set allow_private=True if outcomes "
            "should go there"
        )
    return None


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _secret(secret: Any) -> str | None:
    if secret is None:
        return None
    if not isinstance(secret, str):
        return f"secret is of type {type(secret).__name__}: it should be text"
    try:
        short = len(_key(secret)) < _LEAST_SECRET
    except binascii.Error:
        return "secret begins with whsec_ and is not base64 after that"
    return f"secret is shorter than {_LEAST_SECRET} bytes: make a longer one" if short else None


def _key(secret: str) -> bytes:
    if secret.startswith(_SECRET_PREFIX):
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    return secret.encode()


def _on(on: Any) -> str | None:
    listed = isinstance(on, list | tuple | set | frozenset)
    if listed and on and all(isinstance(name, str) and name in STATUSES for name in on):
        return None
    return f"on is {on!r:.100}: it should be a list of {', '.join(STATUSES)}"


def _headers(headers: Any) -> str | None:
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        return f"headers is of type {type(headers).__name__}: it should be a dict of text"
    for name, value in headers.items():
        if not (_is_header(name) and _is_header(value)):
            return f"headers has {name!r:.60}, of which name or value is no text of one line"
    return None


def _is_header(text: Any) -> bool:
    return isinstance(text, str) and bool(text) and not set(text) & {"\r", "\n", "\0"}


def _number(name: str, value: Any, low: float, high: float) -> str | None:
    kind = int if name == "tries" else int | float
    if isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high:
        return None
    whole = "a whole number" if kind is int else "a number"
    return f"{name} is {value!r:.60}: it should be {whole} from {low:g} to {high:g}"


def _safe(url: str) -> str:
    """A url for people: many have their secret in the path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _words(error: Exception) -> str:
    return str(error) or "it took too long"
