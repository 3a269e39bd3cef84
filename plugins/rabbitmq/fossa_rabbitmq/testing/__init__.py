"""For tests: a RabbitMQ server of one's own, and a bad network in front of it.

The fixtures are in `fossa_rabbitmq.testing.fixtures`: import them in a conftest.
"""

from fossa_rabbitmq.testing.broker import BrokerNotInstalled, BrokerNotUp, PrivateBroker, Tls
from fossa_rabbitmq.testing.proxy import Proxy

__all__ = ["BrokerNotInstalled", "BrokerNotUp", "PrivateBroker", "Proxy", "Tls"]
