"""Guards and fixtures for every test.

Worth knowing: `no_leaks` looks at every test (`@pytest.mark.may_leak("why")` lets one off), and
`state_home` keeps nodes without a STATE_DIR out of the home directory.
"""

import signal
import sys
import textwrap
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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution of one module, with entry points, for the time of a test."""

    def installed(name, code, entry_points):
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(textwrap.dedent(code))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{group}]\n{entry}\n" for group, entry in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(site)
        names.append(name)

    names = []
    yield installed
    for name in names:
        sys.modules.pop(name, None)
