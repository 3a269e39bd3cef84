"""Guards and fixtures for every test of the plugin."""

import pytest
from node_support import client, start_node  # noqa: F401 - likewise

from fossa_rabbitmq.testing.fixtures import (  # noqa: F401 - fixtures are found by their names
    broker,
    fresh_prefix,
    own_broker,
    proxy,
    tough_broker,
)


@pytest.fixture(autouse=True)
def _guarded(no_leaks):
    """Every test leaves the process as it was."""


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory, monkeypatch):
    """Where nodes without a STATE_DIR keep their ledgers."""
    home = tmp_path_factory.mktemp("state_home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return home
