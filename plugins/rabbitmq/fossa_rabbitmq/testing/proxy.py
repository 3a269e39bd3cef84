"""A bad network: a TCP proxy that cuts, mutes, refuses and delays when a test says so."""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

#: Bytes that one direction of a connection holds at the most, twice.
_BUFFER = 1 << 16
#: Seconds for reaching what it stands in front of.
_DEADLINE = 5.0


class Proxy:
    """Stands in front of a port of this computer: `async with Proxy(broker.port) as proxy`.

    Args:
        port: where connections go.
        host: the address of it.
        url: of what listens there; `proxy.url` is the same through the proxy.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", url: str | None = None) -> None:
        self.target = (host, port)
        #: Where it listens; 0 before it does.
        self.port = 0
        self._url = url or f"amqp://guest:guest@{host}:{port}/%2F"
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._deaf = False
        self._refusing = False
        self._delay = 0.0

    @property
    def url(self) -> str:
        parts = urlsplit(self._url)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self.port}"))

    @property
    def connections(self) -> int:
        """How many there are now, mute ones with them."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=_BUFFER
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._refusing = True
        self.cut()
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    def cut(self) -> int:
        """Reset every connection, both ends; returns how many there were."""
        for link in self._links:
            link.cut()
        return len(self._links)

    def blackhole(self, on: bool = True) -> None:
        """Drop what either side sends, ends of connections too, and keep all sockets open.

        A connection that lost something stays mute when this is switched off: what would come
        after the gap is no stream any more. New ones are accepted, and are as mute meanwhile.
        """
        self._deaf = on

    def hold(self, on: bool = True) -> None:
        """As a cable pulled out: nothing goes through, and nothing is lost when it is put back."""
        if on:
            self._open.clear()
        else:
            self._open.set()

    def refuse(self, on: bool = True) -> None:
        """Reset new connections at once; those that there are go on."""
        self._refusing = on

    def delay(self, seconds: float) -> None:
        """Bytes wait so long, in each direction."""
        self._delay = seconds

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(self, reader, writer, task)
        self._links.add(link)
        try:
            await self._link(link)
        except asyncio.CancelledError:
            # It was cut. asyncio's streams would report the cancellation as an error.
            return
        finally:
            self._links.discard(link)
            link.reset()

    async def _link(self, link: "_Link") -> None:
        if self._refusing:
            return
        try:
            async with asyncio.timeout(_DEADLINE):
                await link.reach(self.target)
        except (OSError, TimeoutError):
            return
        await link.carry()

    async def passes(self) -> bool:
        """Returns once bytes may go on; whether they go anywhere."""
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._open.wait()
        return not self._deaf


class _Link:
    """One connection through the proxy: two sockets."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        task: "asyncio.Task[None]",
    ) -> None:
        self.task = task
        self._proxy = proxy
        self._near = (reader, writer)
        self._far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._mute = False

    async def reach(self, target: tuple[str, int]) -> None:
        self._far = await asyncio.open_connection(*target, limit=_BUFFER)

    async def carry(self) -> None:
        """Returns once both directions have ended."""
        assert self._far is not None
        (near_in, near_out), (far_in, far_out) = self._near, self._far
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pump(near_in, far_out))
            both.create_task(self._pump(far_in, near_out))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_BUFFER):
                if await self._passes():
                    writer.write(data)
                    await writer.drain()
            if await self._passes():
                writer.write_eof()
        except OSError:
            await self._ended()

    async def _passes(self) -> bool:
        self._mute = not await self._proxy.passes() or self._mute
        return not self._mute

    async def _ended(self) -> None:
        """One side was reset: so is the other, unless it may not hear of that."""
        if await self._passes():
            self.cut()

    def cut(self) -> None:
        self.task.cancel()

    def reset(self) -> None:
        for _, writer in filter(None, (self._near, self._far)):
            end: socket.socket | None = writer.get_extra_info("socket")
            if end is not None and end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
