"""The source that takes tasks over HTTP, and shows the node's pages and API."""

import asyncio
import socket
from typing import TYPE_CHECKING

from fossa.contracts import Source
from fossa.errors import FossaError

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

    from fossa.contracts import Node

#: Seconds that a client may take to send a request's head, and may stay between two requests.
HEAD_DEADLINE = 20.0
#: Seconds that a client may take no byte of an answer that waits for it.
READ_DEADLINE = 20.0
#: Seconds in which what is left of a refused body is read, so that the client sees the answer.
LINGER = 2.0
#: Seconds that answers under way have when the node stops.
SHUTDOWN_DEADLINE = 2.0


class HttpSource(Source):
    """Serves the node's admin application on HTTP_HOST and HTTP_PORT.

    Clients that are slow on purpose are cut off at every step: sending the head
    (`HEAD_DEADLINE`), sending the body (408), taking the answer (`READ_DEADLINE`, where the
    operating system offers it).

    Attributes:
        port: the port that it listens on, once open: of interest where HTTP_PORT is 0.
        url: where the node can be reached from this computer, once open.
    """

    def __init__(self) -> None:
        self.port: int | None = None
        self.url: str | None = None
        self._runner: AppRunner | None = None

    async def open(self, node: "Node") -> None:
        from aiohttp.web import AppRunner, TCPSite

        from fossa.admin.app import admin_app

        config = node.composition
        self._runner = AppRunner(
            admin_app(node),
            handle_signals=False,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=HEAD_DEADLINE,
            lingering_time=LINGER,
            shutdown_timeout=SHUTDOWN_DEADLINE,
        )
        await self._runner.setup()
        site = TCPSite(self._runner, config.HTTP_HOST, config.HTTP_PORT)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            raise _cannot_listen(config.HTTP_HOST, config.HTTP_PORT, error) from error
        self.port = self._runner.addresses[0][1]
        self.url = f"http://{_reachable(config.HTTP_HOST)}:{self.port}"
        _cut_off_slow_readers(site)
        node.logger.info("listening on %s", self.url)

    async def run(self, node: "Node") -> None:
        """Requests are served by the event loop, from `open` on."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def ready(self) -> str | None:
        listens = self._runner is not None and self._runner.addresses
        return None if listens else "it does not listen"


def _cut_off_slow_readers(site: "object") -> None:
    """Have the kernel end connections whose client takes nothing. Accepted sockets inherit it."""
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    for listening in site._server.sockets:  # type: ignore[attr-defined]
        milliseconds = int(READ_DEADLINE * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _reachable(host: str) -> str:
    """The host as a client on this computer can name it."""
    if host in ("", "::", "0.0.0.0"):  # noqa: S104 - compared, not listened on
        host = "::1" if host == "::" else "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _cannot_listen(host: str, port: int, error: Exception) -> FossaError:
    what = getattr(error, "strerror", None) or str(error)
    return FossaError(
        f"the node cannot listen on {host}, port {port}: {what}. Choose another port (HTTP_PORT, "
        "or FOSSA_HTTP_PORT in the environment; 0: any that is free) or address (HTTP_HOST)"
    )
