"""The pytest plugin. pytest imports it in every project where Fossa is installed: keep it light."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from fossa.config import BaseConfig
    from fossa.embed import ThreadedFossa

#: The modules with asserts that should say what they compared.
_SUITES = ("components", "sources", "executors", "sinks", "ledgers", "model_contract")
pytest.register_assert_rewrite(*(f"fossa.testing.{name}" for name in _SUITES))


class NodeFactory(Protocol):
    """What `fossa_node` gives: call it with a config, and with settings that win over it.

    Without a config the node accepts the models of the contract suites, such as `Answers`.
    """

    def __call__(
        self, config: "type[BaseConfig] | None" = None, **settings: Any
    ) -> "ThreadedFossa": ...


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "may_leak(reason): the fixture no_leaks lets this test leave things behind"
    )


@pytest.fixture
def fossa_node(no_leaks: None) -> Iterator[NodeFactory]:
    """Nodes in threads, stopped after the test: call it with a config.

    LEDGER is None and SOURCES is empty where neither the config nor the call says otherwise.
    """
    from fossa.embed import Fossa, ThreadedFossa
    from fossa.errors import NodeStopped

    nodes: list[ThreadedFossa] = []

    def start(config: "type[BaseConfig] | None" = None, **settings: Any) -> ThreadedFossa:
        chosen = config or _suite_config()
        node = ThreadedFossa(Fossa(chosen, **{**_defaults(chosen), **settings}))
        node.start()
        nodes.append(node)
        return node

    yield start
    for node in reversed(nodes):
        try:
            node.stop(timeout=0)
        except NodeStopped:
            continue


def _suite_config() -> "type[BaseConfig]":
    from fossa.testing.components import SuiteConfig

    return SuiteConfig


def _defaults(config: "type[BaseConfig]") -> dict[str, Any]:
    """What a test's node has where its config leaves the setting as it is in `BaseConfig`."""
    from fossa.config import BaseConfig

    said = {name for c in config.__mro__ if c is not BaseConfig for name in vars(c)}
    return {k: v for k, v in {"LEDGER": None, "SOURCES": ()}.items() if k not in said}


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves asyncio tasks, threads, file descriptors or child processes.

    Ask for it first, or from an autouse fixture, so that it looks last.
    """
    marker = request.node.get_closest_marker("may_leak")
    if marker is not None:
        if not (marker.args or marker.kwargs):
            pytest.fail("the marker may_leak needs a reason")
        yield
        return
    from fossa.testing.leaks import LeakGuard

    with LeakGuard() as guard:
        yield
    if guard.left:
        pytest.fail("it left behind:\n" + "\n".join(guard.left), pytrace=False)
