"""pytest fixtures for tests with RabbitMQ; a conftest imports those that it wants.

`broker` is shared by all tests of a run, and by all conftests that import it.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pika
import pytest
from attrs import frozen

from fossa.testing.leaks import outlives
from fossa_rabbitmq.testing.broker import PrivateBroker, installed
from fossa_rabbitmq.testing.proxy import Proxy

__all__ = ["broker", "fresh_prefix", "own_broker", "proxy", "tough_broker"]

_QUEUES = ("tasks.urgent", "tasks", "tasks.background", "subtasks", "nested", "dead")
_EXCHANGES = ("dead", "control")


@frozen
class GivenBroker:
    """The broker that RABBITMQ_URL names."""

    url: str

    @property
    def port(self) -> int:
        return int(pika.URLParameters(self.url).port)

    @property
    def host(self) -> str:
        return str(pika.URLParameters(self.url).host)


_SHARED: "pytest.StashKey[GivenBroker | PrivateBroker]" = pytest.StashKey()


@pytest.fixture(scope="session")
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> GivenBroker | PrivateBroker:
    """A broker to use and not to hurt: the one at RABBITMQ_URL, else a private one."""
    stash = request.config.stash
    if _SHARED not in stash:
        stash[_SHARED] = _found(request.config, tmp_path_factory)
    return stash[_SHARED]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[PrivateBroker]:
    """A running broker that only this test has, to kill and restart as it likes. Takes 5 s."""
    demand_rabbitmq()
    with PrivateBroker(tmp_path / "broker") as mine:
        yield mine


@pytest.fixture(scope="session")
def tough_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """A broker that tests hurt in turn: each leaves it running and well."""
    demand_rabbitmq()
    with _ToughBroker(tmp_path_factory.mktemp("tough")) as mine:
        yield mine


class _ToughBroker(PrivateBroker):
    """One that a test may restart, and leave to the next test."""

    def start(self) -> float:
        seconds = super().start()
        outlives(self.keeper_pid)
        return seconds


@pytest.fixture
def fresh_prefix(broker: GivenBroker | PrivateBroker) -> Iterator[str]:
    """A prefix for names that nobody else uses; the queues with it are deleted afterwards.

    Those of the replies are not, as only their nodes know their names: they expire.
    """
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    yield prefix
    _delete(broker.url, prefix)


@pytest.fixture
async def proxy(broker: GivenBroker | PrivateBroker) -> AsyncIterator[Proxy]:
    """A bad network between the test and `broker`."""
    host = "127.0.0.1" if isinstance(broker, PrivateBroker) else broker.host
    async with Proxy(broker.port, host, broker.url) as between:
        yield between


def _found(
    config: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> GivenBroker | PrivateBroker:
    url = os.environ.get("RABBITMQ_URL")
    if url:
        return GivenBroker(url)
    demand_rabbitmq()
    mine = PrivateBroker(tmp_path_factory.mktemp("broker"))
    mine.start()
    config.add_cleanup(mine.kill)
    return mine


def demand_rabbitmq() -> None:
    """Where it is missing: a skip on somebody's laptop, a failure where CI is set."""
    if installed():
        return
    text = "no RabbitMQ here: install rabbitmq-server (Debian), or set RABBITMQ_URL"
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def _delete(url: str, prefix: str) -> None:
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.blocked_connection_timeout = 10
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        for name in _QUEUES:
            channel.queue_delete(f"{prefix}.{name}")
        for name in _EXCHANGES:
            channel.exchange_delete(f"{prefix}.{name}")
    finally:
        connection.close()
