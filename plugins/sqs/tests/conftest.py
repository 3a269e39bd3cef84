"""A server that speaks SQS, and queues of one's own on it."""

import os

import pytest
from sqs_support import Queues, Server


@pytest.fixture(autouse=True)
def _guarded(no_leaks):
    """Every test leaves the process as it was."""


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory, monkeypatch):
    """Where nodes without a STATE_DIR keep their ledgers."""
    home = tmp_path_factory.mktemp("state_home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def login(monkeypatch, tmp_path):
    """Credentials that the server takes, and nothing of the user's."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def queues(server):
    """Makes queues, and looks into them."""
    return Queues(server.url)
