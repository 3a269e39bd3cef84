"""Configs: what composes, what is a mistake, what stays secret."""

import logging
import os
import string
from pathlib import Path

import ayeaye
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from fossa import BaseConfig, Fossa, Limits, Sink, env, secret_file, use
from fossa.builtin.sinks import JsonLinesSink, LogSink
from fossa.composition import compose
from fossa.config import Secret
from fossa.errors import ConfigError
from fossa.settings import HINTS, is_loopback
from fossa.testing import MemoryExecutor, MemorySink, MemorySource

SECRET = "s3cr3t-S3CR3T-s3cr3t-S3CR3T"


class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = (models.Nothing, models.Echo)
    LEDGER = None
    SINKS = ()
    PLUGINS = ()


def mistakes(config=Config, /, **overrides):
    """Every mistake of a config."""
    with pytest.raises(ConfigError) as raised:
        compose(config, **overrides)
    return raised.value.mistakes


def mistake(config=Config, /, **overrides):
    """The one mistake of a config."""
    found = mistakes(config, **overrides)
    assert len(found) == 1, found
    return found[0]


def config(**settings):
    return type("Written", (Config,), settings)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("FOSSA_"):
            monkeypatch.delenv(name)


# what is there by default


def test_the_least_config():
    class Least(BaseConfig):
        ACCEPTED_MODEL_CLASSES = [models.Nothing]

    composition = compose(Least)
    assert list(composition.models) == ["Nothing"]
    assert composition.sources == ()
    assert [e.name for e in composition.executors] == ["local"]
    assert [s.name for s in composition.sinks] == ["log"]
    assert composition.place.endswith("test_the_least_config.<locals>.Least")


def test_a_stand_alone_node_serves_http():
    assert [s.name for s in compose(Config, stand_alone=True).sources] == ["http"]
    assert compose(config(SOURCES=()), stand_alone=True).sources == ()


def test_every_setting_is_documented_and_its_default_is_fine():
    lines = Path(BaseConfig.__module__.replace(".", "/") + ".py")
    source = (Path(__file__).parent.parent / lines).read_text().splitlines()
    for name in HINTS:
        (at,) = [n for n, line in enumerate(source) if line.startswith(f"    {name}: ")]
        assert source[at - 1].strip().startswith("#: "), name
    assert compose(BaseConfig).models == {}


def test_settings_are_attributes():
    composition = compose(config(HTTP_PORT=1234))
    assert composition.HTTP_PORT == 1234
    assert composition.TIMEOUT is None
    with pytest.raises(AttributeError, match="NO_SUCH"):
        composition.NO_SUCH  # noqa: B018


def test_debug_runs_one_model_at_a_time_in_the_nodes_own_process():
    composition = compose(config(DEBUG=True, SLOTS=8))
    assert [e.name for e in composition.executors] == ["inline"]
    assert composition.slots == 1


# inheritance


def test_configs_compose_by_inheritance_and_mixins():
    class Base(Config):
        HTTP_PORT = 1000
        APP_TITLE = "base"

    class Mixin:
        APP_TITLE = "mixin"
        RETRIES = 3

    class Final(Mixin, Base):
        SLOTS = 7

    composition = compose(Final)
    found = [composition.HTTP_PORT, composition.APP_TITLE, composition.RETRIES, composition.slots]
    assert found == [1000, "mixin", 3, 7]


def test_mistakes_of_a_base_and_a_mixin_are_found_too():
    class Base(Config):
        SLOT = 3

    class Mixin:
        RETIRES = 3

    class Final(Mixin, Base):
        """Inherits both."""

    assert set(mistakes(Final)) == {
        "SLOT is no setting: did you mean SLOTS?",
        "RETIRES is no setting: did you mean RETRIES?",
    }


def test_what_is_given_wins_over_the_environment_and_that_over_the_class(monkeypatch):
    written = config(HTTP_PORT=1)
    assert compose(written).HTTP_PORT == 1
    monkeypatch.setenv("FOSSA_HTTP_PORT", "2")
    assert compose(written).HTTP_PORT == 2
    assert compose(written, HTTP_PORT=3).HTTP_PORT == 3


# names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("HTTP_PROT", "HTTP_PROT is no setting: did you mean HTTP_PORT?"),
        ("ACCEPTED_MODELS", "ACCEPTED_MODELS is no setting: did you mean ACCEPTED_MODEL_CLASSES?"),
        ("ZZZ", "ZZZ is no setting"),
        ("http_port", "http_port is no setting: did you mean HTTP_PORT?"),
        ("MESSAGE_BROKER_MANAGERS", "MESSAGE_BROKER_MANAGERS is a setting that is gone: use SOURC"),
        ("ISOLATED_PROCESSOR", "ISOLATED_PROCESSOR is a setting that is gone: use EXECUTORS"),
    ],
)
def test_unknown_names_are_mistakes(name, told):
    assert mistake(config(**{name: 1})).startswith(told)
    assert mistake(Config, **{name: 1}).startswith(told)


def test_names_of_the_users_own_are_none():
    own = config(_PRIVATE=1, helper=lambda self: 1, path="x")
    assert compose(own).HTTP_PORT == 2345


@pytest.mark.parametrize("what", [Config(), "Config", None, int, object()])
def test_only_a_subclass_is_a_config(what):
    with pytest.raises(ConfigError, match=r"is not a subclass of fossa\.BaseConfig"):
        compose(what)


# types

WRONG = [
    ("HTTP_PORT", "2345", "a value of type str: it should be a whole number"),
    ("HTTP_PORT", True, "a value of type bool: it should be a whole number"),
    ("HTTP_PORT", 1.5, "a value of type float: it should be a whole number"),
    ("HTTP_PORT", None, "a value of type NoneType: it should be a whole number"),
    ("SLOTS", "two", "a value of type str: it should be a whole number or None"),
    ("DEBUG", 1, "a value of type int: it should be True or False"),
    ("TIMEOUT", "1m", "a value of type str: it should be a number or None"),
    ("DRAIN_TIMEOUT", False, "a value of type bool: it should be a number"),
    ("ISOLATION", "thread", "a value of type str: it should be 'worker' or 'task'"),
    ("LEDGER", "postgres", "a value of type str: it should be 'sqlite' or None"),
    ("STATE_DIR", 5, "a value of type int: it should be text or a path or None"),
    ("ACCEPTED_MODEL_CLASSES", "Nothing", "a value of type str: it should be a list"),
    ("ACCEPTED_MODEL_CLASSES", models.Nothing, "a value of type type: it should be a list"),
    ("SOURCES", "http", "a value of type str: it should be a list or None"),
    ("SINKS", {"log"}, "a value of type set: it should be a list"),
    ("LIMITS", [], "a value of type list: it should be a mapping"),
    ("SECRETS", "x", "a value of type str: it should be a mapping"),
    ("HTTP_TOKEN", 5, "a value of type int: it should be text or env(…) or secret_file(…) or None"),
    ("MEMORY_LIMIT", 1.5, "a value of type float: it should be text or a whole number or None"),
    ("PREFERRED_URL_SCHEME", "ftp", "a value of type str: it should be 'http' or 'https'"),
]


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_wrong_types_are_mistakes(name, value, told):
    assert mistake(config(**{name: value})) == f"{name} is set to {told}"
    assert mistake(Config, **{name: value}) == f"{name} is given as {told}"


def test_a_whole_number_is_a_number():
    assert compose(config(TIMEOUT=5)).TIMEOUT == 5


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HTTP_PORT", 65_536, "it should be from 0 to 65535"),
        ("HTTP_PORT", -1, "it should be from 0 to 65535"),
        ("SLOTS", 0, "it should be from 1 to 10000"),
        ("TIMEOUT", 0, "it should be from 0.001 to 1000000000"),
        ("TIMEOUT", float("nan"), "it should be from 0.001 to 1000000000"),
        ("RETRIES", -1, "it should be from 0 to 1000"),
        ("CRASH_ATTEMPTS", 0, "it should be from 1 to 1000"),
        ("DRAIN_TIMEOUT", float("inf"), "it should be from 0 to 86400"),
        ("MAX_QUEUED_TASKS", -1, "it should be from 0 to 10000000"),
        ("RETAIN_DAYS", -0.5, "it should be from 0 to 1000000"),
    ],
)
def test_what_is_out_of_range_is_a_mistake(name, value, told):
    assert mistake(config(**{name: value})) == f"{name} is {value}: {told}"


# sizes


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("2GiB", 2 << 30),
        ("2G", 2 << 30),
        ("2 gb", 2 << 30),
        ("1.5MiB", 3 << 19),
        ("2097152", 2 << 20),
        ("4096 KiB", 4 << 20),
        ("1TiB", 1 << 40),
        (2 << 20, 2 << 20),
        (None, None),
    ],
)
def test_sizes(written, size):
    assert compose(config(MEMORY_LIMIT=written)).memory == size
    limits = {models.Echo: Limits(memory=written)}
    assert compose(config(LIMITS=limits)).models["Echo"].memory == size


@pytest.mark.parametrize(
    "written", ["", "big", "2 XiB", "-1GiB", "1e9", "GiB", "iB", "2i", "9" * 50]
)
def test_what_is_no_size_is_a_mistake(written):
    told = f'MEMORY_LIMIT is {written!r}: it should be like 1073741824 or "1GiB"'
    assert mistake(config(MEMORY_LIMIT=written)) == told


@pytest.mark.parametrize("written", [0, -5, 2, "1KiB", 2**70, "999999999999999TiB"])
def test_a_size_that_cannot_be_meant_is_a_mistake(written):
    told = f"MEMORY_LIMIT is {written}: it should be at least 1048576 bytes"
    assert mistake(config(MEMORY_LIMIT=written)) == told


# the environment


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HTTP_PORT", "1234", 1234),
        ("HTTP_HOST", "::1", "::1"),
        ("NODE_NAME", "5", "5"),
        ("DEBUG", "true", True),
        ("DEBUG", "0", False),
        ("TIMEOUT", "1.5", 1.5),
        ("TIMEOUT", "", None),
        ("SLOTS", "", None),
        ("ISOLATION", "task", "task"),
        ("LEDGER", "", None),
        ("STATE_DIR", "/somewhere", "/somewhere"),
        ("MEMORY_LIMIT", "2GiB", "2GiB"),
    ],
)
def test_the_environment_overrides_scalars(monkeypatch, name, text, value):
    monkeypatch.setenv(f"FOSSA_{name}", text)
    assert compose(config()).settings[name] == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("HTTP_PORT", "high", "it should be a whole number"),
        ("HTTP_PORT", "", "it should be a whole number"),
        ("HTTP_PORT", "1.5", "it should be a whole number"),
        ("DEBUG", "perhaps", "it should be True or False"),
        ("ISOLATION", "thread", "it should be 'worker' or 'task'"),
        ("LEDGER", "postgres", "it should be 'sqlite' or None"),
        ("TIMEOUT", "soon", "it should be a number or None"),
    ],
)
def test_mistakes_in_the_environment(monkeypatch, name, text, told):
    monkeypatch.setenv(f"FOSSA_{name}", text)
    assert mistake() == f"FOSSA_{name} in the environment is {text!r}: {told}"


def test_values_from_the_environment_are_checked_like_others(monkeypatch):
    monkeypatch.setenv("FOSSA_HTTP_PORT", "70000")
    assert mistake() == "HTTP_PORT is 70000: it should be from 0 to 65535"


def test_what_is_no_scalar_cannot_be_set_there(monkeypatch):
    monkeypatch.setenv("FOSSA_SINKS", "log")
    assert mistake() == "the environment variable FOSSA_SINKS: set this one in the config class"


def test_a_variable_that_is_nearly_right_is_a_mistake(monkeypatch):
    monkeypatch.setenv("FOSSA_HTTP_PROT", "1")
    told = "the environment variable FOSSA_HTTP_PROT is no setting: did you mean FOSSA_HTTP_PORT?"
    assert mistake() == told


def test_variables_of_schedulers_and_of_fossas_own_are_none(monkeypatch):
    for name, value in {
        # What Kubernetes sets in every pod beside services named `fossa` and `fossa-http`.
        "FOSSA_SERVICE_HOST": "10.0.0.1",
        "FOSSA_SERVICE_PORT": "2345",
        "FOSSA_SERVICE_PORT_HTTP": "2345",
        "FOSSA_PORT": "tcp://10.0.0.1:2345",
        "FOSSA_PORT_2345_TCP": "tcp://10.0.0.1:2345",
        "FOSSA_PORT_2345_TCP_PROTO": "tcp",
        "FOSSA_PORT_2345_TCP_PORT": "2345",
        "FOSSA_PORT_2345_TCP_ADDR": "10.0.0.1",
        "FOSSA_HTTP_SERVICE_HOST": "10.0.0.1",
        "FOSSA_HTTP_SERVICE_PORT": "2345",
        "FOSSA_HTTP_PORT": "tcp://10.0.0.1:2345",
        "FOSSA_HTTP_PORT_2345_TCP": "tcp://10.0.0.1:2345",
        "FOSSA_URL": "http://localhost:2345",
        "FOSSA_WORKER_OF": "x",
    }.items():
        monkeypatch.setenv(name, value)
    assert compose(config(HTTP_PORT=99)).HTTP_PORT == 99


# models


def test_models_know_what_they_may_run_and_take():
    limits = {models.Squares: Limits(timeout=5, retries=2), "Echo": Limits(isolation="task")}
    found = compose(config(ACCEPTED_MODEL_CLASSES=[models.Squares, models.Echo], LIMITS=limits))
    squares, echo = found.models["Squares"], found.models["Echo"]
    assert (squares.partitioned, echo.partitioned) == (True, False)
    assert (squares.limits.timeout, squares.limits.retries) == (5, 2)
    assert (echo.limits.isolation, echo.limits.timeout) == ("task", None)
    assert {"go", "say", "pid"} <= echo.methods
    assert not echo.methods & {"_secret", "__init__", "log"}


@pytest.mark.parametrize("thing", ["Nothing", models.Nothing(), int, None, 5])
def test_what_is_no_model_class_is_a_mistake(thing):
    told = mistake(config(ACCEPTED_MODEL_CLASSES=[thing]))
    assert told.startswith("ACCEPTED_MODEL_CLASSES has ")
    assert "it should be a subclass of ayeaye.Model (the class, not an instance" in told


def test_two_models_of_one_name_are_a_mistake():
    other = type("Nothing", (ayeaye.Model,), {"build": lambda self: None})
    told = mistake(config(ACCEPTED_MODEL_CLASSES=[models.Nothing, other]))
    assert told.startswith("ACCEPTED_MODEL_CLASSES has two classes named Nothing: a request names")
    twice = compose(config(ACCEPTED_MODEL_CLASSES=[models.Nothing, models.Nothing]))
    assert list(twice.models) == ["Nothing"]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (
            {"Ecko": Limits()},
            "LIMITS has 'Ecko', which is not in ACCEPTED_MODEL_CLASSES: did you me",
        ),
        ({models.Fails: Limits()}, "LIMITS has 'Fails', which is not in ACCEPTED_MODEL_CLASSES"),
        ({5: Limits()}, "LIMITS has '5', which is not in ACCEPTED_MODEL_CLASSES"),
        ({"Echo": 5}, "LIMITS[Echo] is of type int: it should be a fossa.Limits"),
        ({"Echo": Limits(), models.Echo: Limits()}, "LIMITS has Echo twice, as a class and by its"),
        ({"Echo": Limits(timeout=-1)}, "LIMITS[Echo].timeout is -1: it should be from 0.001"),
        ({"Echo": Limits(retries=-1)}, "LIMITS[Echo].retries is -1: it should be from 0 to 1000"),
        ({"Echo": Limits(priority=101)}, "LIMITS[Echo].priority is 101: it should be from -100"),
        ({"Echo": Limits(timeout="1s")}, "LIMITS[Echo].timeout should be a number or None"),
        ({"Echo": Limits(isolation="x")}, "LIMITS[Echo].isolation should be 'worker' or 'task' or"),
        ({"Echo": Limits(memory="big")}, "LIMITS[Echo].memory is 'big': it should be like"),
        ({"Echo": Limits(memory=5)}, "LIMITS[Echo].memory is 5: it should be at least 1048576"),
        (
            {"Echo": Limits(memory=[])},
            "LIMITS[Echo].memory should be text or a whole number or None",
        ),
    ],
)
def test_mistakes_in_limits(limits, told):
    assert mistake(config(LIMITS=limits)).startswith(told)


# slots


def test_slots_follow_the_cpus(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2})
    assert compose(config()).slots == 6
    assert compose(config(RUNTIME={"CPU_TASK_RATIO": 0.5})).slots == 2
    assert compose(config(RUNTIME={"CPU_TASK_RATIO": 0.1})).slots == 1
    assert compose(config(RUNTIME={"CPU_TASK_RATIO": 4}, SLOTS=5)).slots == 5


@pytest.mark.parametrize("ratio", [0, -1, "2", None, True, float("nan"), float("inf"), 10**6])
def test_a_ratio_that_cannot_be_is_a_mistake(ratio):
    told = 'RUNTIME["CPU_TASK_RATIO"] should be a number above 0, up to 1000'
    assert mistake(config(RUNTIME={"CPU_TASK_RATIO": ratio})) == told


def test_an_unknown_key_of_runtime_is_a_mistake():
    told = "RUNTIME has 'CPU_RATIO': the only key it may have is CPU_TASK_RATIO"
    assert mistake(config(RUNTIME={"CPU_RATIO": 2})) == told


# the state directory


def test_the_state_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    home = compose(config(LEDGER="sqlite")).state_dir
    assert home == tmp_path / "fossa" / "test_config-Written-2345"
    assert compose(config(LEDGER="sqlite", HTTP_PORT=1)).state_dir != home
    assert compose(config(LEDGER="sqlite", STATE_DIR="x")).state_dir == Path.cwd() / "x"
    assert compose(config(LEDGER="sqlite", STATE_DIR=tmp_path)).state_dir == tmp_path
    assert compose(config(LEDGER=None, STATE_DIR=tmp_path)).state_dir is None
    assert list(tmp_path.iterdir()) == [], "composing writes nothing"


def test_somebody_without_a_home_needs_a_state_directory(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    told = "STATE_DIR is needed: Could not determine home directory."
    assert mistake(config(LEDGER="sqlite")) == told


# components


class Parrot(Sink):
    def __init__(self, phrase="hello", url=""):
        self.phrase = phrase
        self.url = url

    async def take(self, task, outcome):
        """Nothing."""


class Grumpy(Sink):
    def __init__(self, url="x"):
        raise ValueError(f"I do not like {url!r}")

    async def take(self, task, outcome):
        """Nothing."""


def test_components_by_name_use_class_and_instance(tmp_path):
    mine = Parrot("hi")
    sinks = ["log", use("jsonl", path=str(tmp_path / "x")), MemorySink, mine]
    found = compose(config(SINKS=sinks)).sinks
    assert [type(s) for s in found] == [LogSink, JsonLinesSink, MemorySink, Parrot]
    assert [s.name for s in found] == ["log", "jsonl", "MemorySink", "Parrot"]
    assert found[-1] is mine


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SINKS": ["lgo"]}, "SINKS: 'lgo' is not installed in fossa.sinks: did you mean 'log'?"),
        ({"SOURCES": ["zz"]}, "SOURCES: 'zz' is not installed in fossa.sources: there is 'http'"),
        ({"EXECUTORS": []}, "EXECUTORS is empty: nothing could run; the default is"),
        (
            {"SINKS": [5]},
            "SINKS has a int: it should be an entry-point name, use(…), or a subclass",
        ),
        ({"SINKS": [dict]}, "SINKS: dict is no subclass of fossa.Sink"),
        ({"SINKS": [MemorySource]}, "SINKS: MemorySource is no subclass of fossa.Sink"),
        ({"SINKS": [MemorySource()]}, "SINKS has a MemorySource: it should be an entry-point name"),
        ({"SINKS": [Sink]}, "SINKS: Sink: TypeError: Can't instantiate abstract class Sink"),
        ({"SINKS": [use("jsonl")]}, "SINKS: jsonl: missing a required argument: 'path'; it takes"),
        (
            {"SINKS": [use("jsonl", pth="x")]},
            "SINKS: jsonl: missing a required argument: 'path'; it takes (path: str, required",
        ),
        (
            {"SINKS": [use("jsonl", path="x", mode="w")]},
            "SINKS: jsonl: got an unexpected keyword argument 'mode'; it takes (path: str, req",
        ),
        ({"SINKS": [Grumpy]}, "SINKS: Grumpy: ValueError: I do not like 'x'"),
        ({"SINKS": [MemorySink(), MemorySink]}, "SINKS has two named 'MemorySink': set `name` of"),
        (
            {"EXECUTORS": [MemoryExecutor(), MemoryExecutor()]},
            "EXECUTORS has two named 'MemoryExecutor': set `name` of one of them to another",
        ),
        ({"RESOLVERS": ["x"]}, "RESOLVERS has a str: it should be a function of the text to"),
        ({"HTTP_ALLOWED_HOSTS": [5]}, "HTTP_ALLOWED_HOSTS has a int: it should be text"),
        (
            {"EXTERNAL_LOGGERS": [5]},
            "EXTERNAL_LOGGERS has a int: it should be an object with write",
        ),
    ],
)
def test_mistakes_in_components(settings, told):
    assert mistake(config(**settings)).startswith(told)


class Wants(MemorySource):
    """A source that is for one model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def check(self, models):
        if self.model == "Raises":
            raise ValueError(f"no luck with {SECRET}")
        return [] if self.model in models else [f"{self.model} is unknown ({SECRET})", "and odd"]


def test_what_a_component_finds_wrong_is_told_with_the_rest(monkeypatch):
    monkeypatch.setenv("TOKEN", SECRET)
    found = mistakes(SOURCES=[Wants("Nohting")], SINKS=[use("jsonl", path=env("TOKEN")), "lgo"])
    assert len(found) == 3
    assert "'lgo' is not installed" in found[0]
    assert found[1].startswith("SOURCES: Wants: Nohting is unknown (")
    assert found[2] == "SOURCES: Wants: and odd"
    assert SECRET not in str(found)
    found = mistake(SOURCES=[Wants("Raises")], SINKS=[use("jsonl", path=env("TOKEN"))])
    assert "SOURCES: Wants: its check() failed: ValueError: no luck with" in found
    assert SECRET not in found
    compose(config(SOURCES=[Wants("Echo")]))


def test_two_components_of_one_class_need_two_names():
    one, other = MemorySink(), MemorySink()
    other.name = "another"
    assert [s.name for s in compose(config(SINKS=[one, other])).sinks] == ["MemorySink", "another"]


def test_external_loggers_and_resolvers(caplog):
    class Log:
        def write(self, msg, level):
            """Takes it."""

    composed = compose(config(EXTERNAL_LOGGERS=[Log()], RESOLVERS=[str.upper, lambda text: text]))
    assert len(composed.RESOLVERS) == 2


# HTTP


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.168.1.5", "example.org", "::", "", "127.evil.com"]
)
def test_an_open_address_needs_a_token(host):
    told = mistake(config(HTTP_HOST=host))
    assert told.startswith(
        f"HTTP_HOST is {host!r}, which other computers can reach: set HTTP_TOKEN"
    )
    assert compose(config(HTTP_HOST=host, HTTP_TOKEN=SECRET)).http_token == SECRET
    assert compose(config(HTTP_HOST=host, HTTP_WITHOUT_TOKEN=True)).http_token is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.6.7"])
def test_loopback_needs_none(host):
    assert is_loopback(host)
    assert compose(config(HTTP_HOST=host)).http_token is None


@pytest.mark.parametrize("token", ["", "short", "x" * 15])
def test_a_short_token_is_a_mistake(token):
    assert mistake(config(HTTP_TOKEN=token)).startswith("HTTP_TOKEN is shorter than 16")


@pytest.mark.parametrize(
    "token", ["with a space in it", "with\na line end in it", "with ünïcødé text"]
)
def test_a_token_that_no_header_can_carry_is_a_mistake(token):
    told = mistake(config(HTTP_TOKEN=token))
    assert told.startswith("HTTP_TOKEN has characters that no header can carry")
    assert token not in told


# secrets


def test_secrets_from_the_environment_and_from_files(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_SECRET", SECRET)
    (tmp_path / "secret").write_text(SECRET + "\n")
    written = config(
        HTTP_TOKEN=env("MY_SECRET"),
        SECRETS={
            "file": secret_file(tmp_path / "secret"),
            "default": env("NOT_THERE", "by default"),
            "plain": "as text",
        },
        SINKS=[Parrot, use("jsonl", path=env("MY_SECRET"))],
    )
    composition = compose(written)
    assert composition.http_token == SECRET
    assert composition.secrets == {"file": SECRET, "default": "by default", "plain": "as text"}
    assert str(composition.sinks[1]._path) == SECRET


def test_secrets_deep_in_options_are_revealed(monkeypatch):
    seen = {}

    class Hook(Sink):
        def __init__(self, headers, urls):
            seen.update(headers=headers, urls=urls)

        async def take(self, task, outcome):
            """Nothing."""

    monkeypatch.setenv("MY_SECRET", SECRET)
    monkeypatch.setattr("fossa.composition.look_up", lambda _group, _name: Hook)
    headers = {"Authorization": env("MY_SECRET"), "Accept": "text/plain"}
    sinks = [use("hook", headers=headers, urls=["x", env("MY_SECRET")])]
    compose(config(SINKS=sinks, EXECUTORS=[MemoryExecutor]))
    assert seen == {
        "headers": {"Authorization": SECRET, "Accept": "text/plain"},
        "urls": ["x", SECRET],
    }


def test_secrets_that_are_not_there_are_mistakes(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    written = config(
        HTTP_TOKEN=env("NOT_THERE"),
        SECRETS={
            "file": secret_file(tmp_path / "x"),
            "binary": secret_file(tmp_path / "binary"),
            "number": 5,
            7: "x",
        },
        SINKS=[use("jsonl", path=env("NOT_THERE_EITHER"))],
    )
    assert set(mistakes(written)) == {
        "HTTP_TOKEN: the environment variable NOT_THERE is not set",
        f"SECRETS['file']: the file {tmp_path}/x cannot be read: No such file or directory",
        f"SECRETS['binary']: the file {tmp_path}/binary is not UTF-8 text",
        "SECRETS['number'] is of type int: it should be text, env(…) or secret_file(…)",
        "SECRETS has the name 7: it should be text",
        "SINKS: jsonl(path=…): the environment variable NOT_THERE_EITHER is not set",
    }


def test_a_secret_has_no_repr():
    secret = Secret(lambda: SECRET, "$MY_SECRET")
    assert repr(secret) == str(secret) == f"{secret}" == "<secret from $MY_SECRET>"
    assert secret.reveal() == SECRET
    assert SECRET not in repr(use("x", token=SECRET))


def shown(value):
    """What a curious reader of a value, and of what it holds, gets to see."""
    found = repr(value)
    for name in ("settings", "sources", "executors", "sinks", "plugins", "models"):
        found += repr(getattr(value, name))
    return found


class Open:
    """A careless component's repr shows what it was given."""

    def __repr__(self):
        return repr(vars(self))


class CarelessSink(Open, Parrot):
    pass


class CarelessPlugin(Open):
    def __init__(self):
        self.token = SECRET

    from fossa import hookimpl

    @hookimpl
    def fossa_task_ended(self, task):
        """Nothing."""


#: No text of ours has anything like these in it.
TOKENS = st.text(string.ascii_letters + string.digits + "-_!'\"\\", min_size=8, max_size=40).map(
    lambda text: f"T0K3N-{text}-T0K3N"
)


@settings(max_examples=60, deadline=None)
@given(token=TOKENS, plain=st.booleans(), where=st.sampled_from(["class", "given"]))
def test_no_secret_is_shown(token, plain, where):
    hidden = token if plain else Secret(lambda: token, "a test")
    secrets = {
        "HTTP_TOKEN": hidden,
        "SECRET_KEY": hidden,
        "SECRETS": {"database": hidden},
        "SINKS": [CarelessSink(url=token), use("jsonl", path=hidden)],
        "PLUGINS": [CarelessPlugin],
    }
    good = compose(config(**secrets)) if where == "class" else compose(Config, **secrets)
    assert good.http_token == good.secrets["database"] == token
    assert token not in repr(good) + str(good)
    assert token not in repr(good.settings["HTTP_TOKEN"]) + repr(good.settings["SECRET_KEY"])
    assert token not in repr(good.settings["SECRETS"])


@settings(max_examples=60, deadline=None)
@given(token=TOKENS)
def test_no_secret_is_told_with_a_mistake(token):
    hidden = Secret(lambda: token, "a test")
    secrets = {
        "HTTP_TOKEN": hidden,
        "SECRETS": {"database": hidden, 5: hidden},
        "SINKS": [use("grumpy", url=hidden), use("grumpy", url=hidden, mood=hidden)],
        "EXECUTORS": [MemoryExecutor],
        "HTTP_PORT": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fossa.composition.look_up", lambda _group, _name: Grumpy)
        with pytest.raises(ConfigError) as raised:
            compose(Config, **secrets)
    told = str(raised.value) + repr(raised.value) + repr(raised.value.mistakes)
    assert token not in told
    assert repr(token)[1:-1] not in told
    assert "I do not like" in told
    assert "HTTP_PORT is -1" in told


async def test_no_secret_is_in_a_nodes_status_or_log(monkeypatch, caplog):
    monkeypatch.setenv("FOSSA_HTTP_TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    secrets = {"SECRET_KEY": SECRET, "SECRETS": {"database": SECRET}}
    written = config(SINKS=[CarelessSink(url=SECRET)], PLUGINS=[CarelessPlugin], **secrets)
    async with Fossa(written, EXECUTORS=[MemoryExecutor()]) as node:
        assert node.composition.http_token == SECRET
        handle = await node.submit("Nothing")
        await handle.outcome(10)
        assert SECRET not in repr(node.governor.status()) + repr(node.composition) + repr(node)
    assert SECRET not in caplog.text


# everything at once


def test_all_mistakes_are_told_at_once(monkeypatch):
    monkeypatch.setenv("FOSSA_SLOTS", "many")
    monkeypatch.setenv("FOSSA_HTTP_PROT", "1")

    class Wrong(BaseConfig):
        ACCEPTED_MODEL_CLASSES = ["Nothing", models.Echo]
        LIMITS = {"Ecko": Limits(), "Echo": Limits(retries=-1)}
        HTTP_PROT = 2345
        ISOLATED_PROCESSOR = None
        HTTP_HOST = "0.0.0.0"
        HTTP_PORT = "2345"
        TIMEOUT = -1
        MEMORY_LIMIT = "big"
        SINKS = ["lgo", use("jsonl")]
        EXECUTORS = ()
        RUNTIME = {"CPU_TASK_RATIO": 0}
        SECRETS = {"x": env("NOT_THERE")}

    with pytest.raises(ConfigError) as raised:
        compose(Wrong, RETIRES=1)
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("test_all_mistakes_are_told_at_once.<locals>.Wrong has 17 mistakes:")
    assert lines[1:] == [f"  - {m}" for m in raised.value.mistakes]
    assert len(raised.value.mistakes) == 17


def test_a_mistake_is_told_once():
    class Base(Config):
        HTTP_PROT = 1

    class Again(Base):
        HTTP_PROT = 2

    assert mistake(Again).startswith("HTTP_PROT is no setting")


def test_composing_starts_nothing():
    """Even with every kind of component; the guard sees that nothing is left."""
    compose(config(SINKS=["log", use("jsonl", path="/no/such/place/x")]), stand_alone=True)
