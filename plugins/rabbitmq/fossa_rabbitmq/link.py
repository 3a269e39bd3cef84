"""Keeps one connection to the broker up: connects, sets up, and does both again when it is lost."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from fossa.errors import FossaError
from fossa_rabbitmq.connection import BrokerGone, Connection
from fossa_rabbitmq.options import Options

Setup = Callable[[Connection], Awaitable[None]]

#: Seconds before the first try to connect again; each next one waits twice as long.
_FIRST_PAUSE = 0.1
#: Seconds between tries where the broker refuses us: somebody has to change something.
_REFUSED_PAUSE = 60.0


class Link:
    """One connection after the other, each set up anew.

    Args:
        options: where the broker is.
        purpose: what the broker's management page shows, such as "node-1: publish".
        logger: told once that the connection is lost, and once that it is back.
        setup: awaited with each new connection: opens channels, declares, consumes. Nobody else
            sees the connection before that is done.
        on_lost: called with why, each time that a connection which had been set up is lost.
        on_up: called each time that there is a connection which is set up.
    """

    def __init__(
        self,
        options: Options,
        purpose: str,
        logger: logging.Logger,
        setup: Setup,
        on_lost: Callable[[str], None] = lambda why: None,
        on_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._purpose = purpose
        self._logger = logger
        self._setup = setup
        self._on_lost, self._on_up = on_lost, on_up
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self._why: str | None = "not tried yet"
        self._next_try: float | None = None
        self._begun: Connection | None = None
        #: The connection, once it is set up; None while there is none.
        self.connection: Connection | None = None

    async def open(self) -> None:
        """Connect and set up. Where the broker is away, go on trying and return.

        Raises:
            FossaError: what will not pass by itself: BrokerRefused, or what `setup` raised.
        """
        try:
            self._up(await self._connect())
        except BrokerGone as error:
            self._down(self._words(error))
        self._task = asyncio.create_task(self._keep_up(), name=f"link {self._purpose}")

    async def close(self) -> None:
        """Stop trying, and close the connection. Harmless where `open` raised."""
        self._closed = True
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()

    async def up(self) -> Connection:
        """The connection, as soon as there is one that is set up.

        Raises:
            BrokerGone: the link was closed.
        """
        while not self._closed:
            if self.connection is not None and not self.connection.closed.done():
                return self.connection
            self._changed.clear()
            await self._changed.wait()
        raise BrokerGone("this node closed the connection")

    def restart(self, why: str) -> None:
        """Drop the connection and make a new one: something on it no longer works."""
        for connection in (self.connection, self._begun):
            if connection is not None:
                connection.drop(why)

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, and when the next try is; None if there is one."""
        if self.connection is not None and not self.connection.closed.done():
            return None
        then = "trying again now"
        if self._next_try is not None:
            left = max(0.0, self._next_try - asyncio.get_running_loop().time())
            then = f"trying again in {left:.0f} s" if left >= 1 else then
        return f"not connected to {self._options.safe_url}: {self._why}; {then}"

    # one connection

    async def _connect(self) -> Connection:
        """A connection that is set up. Raises what `dial` and `setup` do."""
        connection = await Connection.dial(self._options, self._purpose, self._logger)
        self._begun = connection
        try:
            await self._setup(connection)
        except BaseException:
            await connection.close()
            raise
        finally:
            self._begun = None
        if connection.closed.done():
            raise BrokerGone(connection.closed.result())
        return connection

    def _up(self, connection: Connection) -> None:
        self.connection = connection
        self._why = None
        self._changed.set()
        try:
            self._on_up()
        except Exception:
            self._logger.exception("that there is a connection could not be passed on")

    def _down(self, why: str) -> None:
        self.connection = None
        self._why = why
        self._logger.warning("not connected to %s: %s", self._options.safe_url, why)

    # one after the other

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            if self.connection is not None:
                since = loop.time()
                self._lost(await asyncio.shield(self.connection.closed))
                if loop.time() - since > self._options.max_backoff:
                    pause = _FIRST_PAUSE
            lost = loop.time()
            pause = await self._reconnect(pause)
            self._logger.info(
                "connected to %s again after %.1f s", self._options.safe_url, loop.time() - lost
            )

    def _lost(self, why: str) -> None:
        self._down(why)
        try:
            self._on_lost(why)
        except Exception:
            self._logger.exception("the loss of the connection could not be passed on")

    async def _reconnect(self, pause: float) -> float:
        """Try until it works; returns the pause before the next try, should it not last."""
        refusal: str | None = None
        slow = False
        while True:
            await self._wait(_REFUSED_PAUSE if slow else pause)
            pause = min(2 * pause, self._options.max_backoff)
            try:
                self._up(await self._connect())
                return pause
            except BrokerGone as error:
                slow, self._why = False, self._words(error)
            except Exception as error:
                slow, self._why = True, self._words(error)
                if refusal != self._why:
                    self._tell(error)
                refusal = self._why

    async def _wait(self, pause: float) -> None:
        """With jitter: a fleet whose broker came back must not arrive as one."""
        pause *= random.uniform(0.5, 1.0)
        self._next_try = asyncio.get_running_loop().time() + pause
        await asyncio.sleep(pause)
        self._next_try = None

    def _tell(self, error: Exception) -> None:
        trace = None if isinstance(error, FossaError) else error
        self._logger.error(
            "not connected to %s: %s. Trying again once a minute",
            self._options.safe_url, self._why, exc_info=trace,
        )  # fmt: skip

    def _words(self, error: Exception) -> str:
        """Without the broker's address, which is said beside it."""
        return str(error).removeprefix(f"{self._options.safe_url}: ")
