import pytest

from fossa.errors import ConfigError, FossaError
from fossa_rabbitmq.options import Options, options

URL = "amqp://me:s3cret@broker.example:5673/my%2Fhost"


def test_the_url_gives_its_parts():
    given = options(url="amqp://a%40b:p%2Fw@broker.example:5673/my%2Fhost")
    assert (given.host, given.port, given.vhost) == ("broker.example", 5673, "my/host")
    assert (given.user, given.password, given.tls) == ("a@b", "p/w", False)


@pytest.mark.parametrize(
    ("url", "port", "user", "vhost"),
    [
        ("amqp://broker", 5672, "guest", "/"),
        ("amqp://broker/", 5672, "guest", "/"),
        ("amqps://me:x@broker/%2F", 5671, "me", "/"),
        ("amqp://me@[::1]:1234/v", 1234, "me", "v"),
    ],
)
def test_what_the_url_leaves_out(url, port, user, vhost):
    given = options(url=url)
    assert (given.port, given.user, given.vhost) == (port, user, vhost)


def test_the_password_shows_nowhere():
    given = options(url=URL)
    assert given.safe_url == "amqp://me@broker.example:5673/my%2Fhost"
    assert "s3cret" not in repr(given)
    assert options(url="amqp://me:x@[::1]/").safe_url == "amqp://me@[::1]:5672/"


def test_values_and_defaults():
    given = options(url=URL, prefix="other", queue_type="classic", heartbeat=10)
    assert given == Options(url=URL, prefix="other", queue_type="classic", heartbeat=10)
    assert (given.delivery_limit, given.max_message_bytes) == (20, 16 * 1024 * 1024)


def test_every_mistake_at_once():
    with pytest.raises(ConfigError) as caught:
        options(url=URL, perfix="x", queue_type="quorom", heartbeat="30", ca="/ca.pem", key="k")
    text = str(caught.value)
    assert "perfix is no option: did you mean prefix?" in text
    assert "queue_type is 'quorom': it should be 'quorum' or 'classic': did you mean 'quo" in text
    assert "heartbeat is '30': it should be a whole number from 1 to 3600" in text
    assert "ca is for amqps:// and the url is amqp://" in text
    assert "key is given without certificate" in text
    assert isinstance(caught.value, FossaError)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "url is missing"),
        ({"url": None}, "url is of type NoneType"),
        ({"url": "http://me:s3cret@h/"}, "should begin with amqp:// or amqps://"),
        ({"url": "amqp://me:s3cret@h:port/"}, "has a port or an address that is none"),
        ({"url": "amqp://me:s3cret@h/a/b"}, "a / in the vhost as %2F"),
        ({"url": "amqp://"}, "should be like amqp://"),
        ({"url": "amqp://me:s3cret@h/?heartbeat=5"}, "given as options of their own"),
        ({"url": URL, "prefix": "amq.x"}, "prefix is 'amq.x'"),
        ({"url": URL, "prefix": ""}, "prefix is ''"),
        ({"url": URL, "delivery_limit": 0}, "delivery_limit is 0"),
        ({"url": URL, "delivery_limit": True}, "delivery_limit is True"),
        ({"url": URL, "max_message_bytes": "16MiB"}, "max_message_bytes is '16MiB'"),
        ({"url": URL, "connect_timeout": 0}, "connect_timeout is 0: it should be seconds"),
        ({"url": URL, "publish_timeout": None}, "publish_timeout is None"),
        ({"url": URL, "consumer_timeout": "1h"}, "consumer_timeout is '1h'"),
        ({"url": URL, "max_backoff": float("nan")}, "max_backoff is nan"),
        ({"url": "amqps://h", "ca": 5}, "ca is of type int"),
        ({"url": "amqps://h", "server_name": ""}, "server_name is ''"),
        ({"url": URL, "colour": 1}, "colour is no option: there are url, prefix"),
    ],
)
def test_one_mistake(given, said):
    with pytest.raises(ConfigError) as caught:
        options(**given)
    assert said in str(caught.value)
    assert "has 1 mistake:" in str(caught.value)
    assert "s3cret" not in str(caught.value)
