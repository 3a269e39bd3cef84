"""Who may ask for what.

**Host.** A page on the web can have its own name resolve to this computer and then talk to this
node as if it were its own server (DNS rebinding). The browser sends the page's name as Host, so a
name must be one that this node is known by: `localhost`, HTTP_HOST, or one of HTTP_ALLOWED_HOSTS.
Addresses are not names and cannot be rebound: those of loopback, and `0.0.0.0`, are always fine;
others where HTTP_TOKEN is set (a stranger's page does not have it) or where the node listens on
more than loopback. No Host at all is fine: every browser sends one. That holds too where the
application is mounted in a host's: list the host's names in HTTP_ALLOWED_HOSTS.

**Origin.** A page on the web can have a browser send a POST to this node. The browser says so in
Origin and Sec-Fetch-Site: what changes anything must come from a page of this node, or not from a
page.

**Token.** Where HTTP_TOKEN is set, everything but health and the sign-in form asks for it: as a
bearer token, or as the cookie that the form sets. The cookie is an HMAC of the token: it does not
give the token away and ends with it.
"""

import hashlib
import hmac
import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from fossa.admin.answers import Problem
from fossa.admin.bodies import read_body
from fossa.settings import is_loopback

if TYPE_CHECKING:
    from fossa.admin.pages import Pages
    from fossa.composition import Composition

_SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
#: Resources that are open without the token. What is static is the same for everybody.
_OPEN = {"live", "ready", "sign_in", "static"}
_PAGES = {"home", "task"}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", re.IGNORECASE)
#: Bytes of the sign-in form.
_MAX_FORM = 4096


class Guard:
    """Checks every request before anything is done for it."""

    def __init__(self, composition: "Composition", pages: "Pages") -> None:
        self._pages = pages
        self._names = {"localhost", _name(composition.HTTP_HOST)}
        self._names.update(_name(host) for host in composition.HTTP_ALLOWED_HOSTS)
        token = composition.http_token
        self._any_address = bool(token) or not is_loopback(composition.HTTP_HOST)
        self._token = token.encode() if token else None
        self._cookie = self._cookie_name = ""
        if self._token:
            self._cookie = hmac.digest(self._token, b"fossa pages", hashlib.sha256).hex()
            # Cookies do not know ports: two nodes on one computer must not share a name.
            self._cookie_name = f"fossa_{hashlib.sha256(self._cookie.encode()).hexdigest()[:8]}"
        self._known_host = lru_cache(256)(self._check_host)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        if self._token:
            router.add_post("/sign-in", self.sign_in, name="sign_in")

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1 or not (hosts == [] or self._known_host(hosts[0])):
            raise Problem(
                421,
                "unknown_host",
                f"this node is not known as {', '.join(hosts)!r:.100}: use its address, or add the "
                "name to HTTP_ALLOWED_HOSTS",
            )
        if request.method not in _SAFE:
            _check_origin(request, hosts)
        if self._token and not self._open(request) and not self._has_token(request):
            if self._wanted_page(request):
                return await self._pages.sign_in(request.path)
            raise Problem(
                401,
                "unauthorized",
                "this node asks for its token: send the header Authorization: Bearer <HTTP_TOKEN>",
                {"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    def _check_host(self, header: str) -> bool:
        found = _HOST.fullmatch(header)
        if not found:
            return False
        name = _name(found[1])
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        fine = address.is_loopback or address.is_unspecified or name in self._names
        return fine or self._any_address

    @staticmethod
    def _open(request: web.Request) -> bool:
        return _resource(request) in _OPEN

    @staticmethod
    def _wanted_page(request: web.Request) -> bool:
        return _resource(request) in _PAGES and "Authorization" not in request.headers

    def _has_token(self, request: web.Request) -> bool:
        assert self._token is not None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            encoded = given.strip().encode(errors="surrogateescape")
            return scheme.lower() == "bearer" and hmac.compare_digest(encoded, self._token)
        cookie = request.cookies.get(self._cookie_name, "")
        return hmac.compare_digest(cookie.encode(errors="replace"), self._cookie.encode())

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Takes the token from the form and gives the cookie."""
        assert self._token is not None
        form = parse_qs((await read_body(request, _MAX_FORM)).decode(errors="replace"))
        given = form.get("token", [""])[0].strip()
        wanted = form.get("next", [""])[0]
        if not hmac.compare_digest(given.encode(), self._token):
            return await self._pages.sign_in(wanted, "That is not this node's token.")
        response = web.Response(status=303, headers={"Location": self._pages.known_path(wanted)})
        response.set_cookie(
            self._cookie_name,
            self._cookie,
            path=self._pages.links.home(),
            httponly=True,
            samesite="Strict",
            secure=request.secure or self._pages.scheme == "https",
        )
        return response


def _check_origin(request: web.Request, hosts: list[str]) -> None:
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    foreign = origin is not None and _netloc(origin) not in [h.lower() for h in hosts]
    if foreign or site not in ("same-origin", "none"):
        raise Problem(403, "foreign_page", "a page of another site asked for this: refused")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _resource(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    return resource.name if resource is not None else None
