"""What tests outside the plugin need of RabbitMQ."""

import os

import pytest


def demand_rabbitmq():
    """Skip where the plugin or a RabbitMQ is missing; where CI is set, fail."""
    try:
        from fossa_rabbitmq.testing import fixtures
    except ImportError:
        text = "fossa-rabbitmq is not installed: pip install -e plugins/rabbitmq"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    fixtures.demand_rabbitmq()
