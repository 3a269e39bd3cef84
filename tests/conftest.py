"""Guards and fixtures for every test.

Worth knowing: `no_leaks` looks at every test (`@pytest.mark.may_leak("why")` lets one off), and
`state_home` keeps nodes without a STATE_DIR out of the home directory.
"""

import signal
from contextlib import AsyncExitStack

import pytest

from fossa import Fossa
from support import TestConfig

# A shell that runs this in the background has it ignore SIGINT, and every process that the tests
# start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _guarded(no_leaks):
    """Every test leaves the process as it was."""


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory, monkeypatch):
    """Where nodes without a STATE_DIR keep their ledgers."""
    home = tmp_path_factory.mktemp("state_home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return home


@pytest.fixture
def state_dir(tmp_path):
    """A directory for one node's STATE_DIR."""
    return tmp_path / "state"


@pytest.fixture
async def start_node():
    """Starts nodes: `node = await start_node(SLOTS=1)`; they are stopped after the test.

    Settings win over `support.TestConfig`, or over another config given first.
    """
    async with AsyncExitStack() as stack:

        async def start(config=TestConfig, **settings):
            return await stack.enter_async_context(Fossa(config, **settings))

        yield start


@pytest.fixture
async def node(request, start_node):
    """A running node. `@pytest.mark.settings(SLOTS=1)` makes it another than `TestConfig` says."""
    marker = request.node.get_closest_marker("settings")
    return await start_node(**(marker.kwargs if marker else {}))


def pytest_configure(config):
    config.addinivalue_line("markers", "settings(**settings): settings of the fixture `node`")
