"""A node's schedules on a clock that the test moves."""

import pytest


@pytest.fixture(autouse=True)
def _guarded(no_leaks):
    """Every test leaves the process as it was."""


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory, monkeypatch):
    """Where nodes without a STATE_DIR keep their ledgers."""
    home = tmp_path_factory.mktemp("state_home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return home
