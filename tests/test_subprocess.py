"""The subprocess executor: where attempts run, what binds them, what may stand before them."""

import asyncio
import grp
import logging
import os
import pwd
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
import venv
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

import subprocess_models
from fossa import Limits, Reason, Status, hookimpl, use
from fossa.builtin.subprocesses import SubprocessExecutor
from fossa.composition import compose
from fossa.errors import ConfigError
from support import TestConfig, lives, outcome, running, texts, until

ROOT = Path(__file__).parent.parent


class Config(TestConfig):
    ACCEPTED_MODEL_CLASSES = subprocess_models.ALL
    CRASH_ATTEMPTS = 1


@asynccontextmanager
async def fresh(*, settings=None, **options):
    """A node whose attempts all run in fresh processes."""
    executors = [use("subprocess", **options)]
    async with running(Config, EXECUTORS=executors, **(settings or {})) as node:
        yield node


async def about(node):
    """What a model says of its process."""
    ended = await outcome(node, "Where", "about")
    assert ended.complete, ended
    return ended.result


async def refusal(**options):
    """Why a node with such an executor does not start."""
    with pytest.raises(ConfigError) as raised:
        async with fresh(**options):
            pass
    return str(raised.value)


def script(path, text):
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def wrapper(tmp_path):
    """A prefix that stays, chats on standard output, and passes its command's status on."""
    return script(tmp_path / "wrapper", 'echo "you have mail"\n"$@"\nexit $?\n')


# fresh


async def test_each_attempt_has_an_interpreter_of_its_own():
    async with fresh() as node:
        first, second = await asyncio.gather(about(node), about(node))
        assert first["pid"] != second["pid"]
        assert first["uses"] == second["uses"] == 1
        handle = await node.submit("Parts")
        assert (await handle.outcome(30)).complete
        assert "processes: 4" in texts(await handle.logs())
        await until(lambda: not lives(first["pid"]) and not lives(second["pid"]))


async def test_its_surroundings_are_clean_and_as_the_config_says(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for models")
    monkeypatch.setenv("GDAL_DATA", "/usr/share/gdal")
    monkeypatch.setenv("LC_NUMERIC", "C")
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    async with fresh(
        cwd=tmp_path, env={"COLOUR": "blue"}, keep_env=["GDAL_*"], nice=2, open_files=64
    ) as node:
        said = await about(node)
    assert "AWS_SECRET_ACCESS_KEY" not in said["environ"]
    kept = {"COLOUR": "blue", "GDAL_DATA": "/usr/share/gdal", "LC_NUMERIC": "C"}
    assert kept.items() <= said["environ"].items()
    assert {"PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV"}.isdisjoint(said["environ"])
    assert said["environ"]["FOSSA_WORKER_OF"]
    assert said["cwd"] == str(tmp_path)
    assert said["nice"] == nice + 2
    assert said["files"] == 64


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start processes as somebody else")
async def test_it_runs_as_another_user():
    # The tests' own interpreter may be where nobody else can read it.
    who = "echo I am $(id -un), in $(id -gn), at $HOME; exit 1"
    entry = pwd.getpwnam("nobody")
    group = grp.getgrgid(entry.pw_gid).gr_name
    said = await refusal(user="nobody", prefix=["sh", "-c", who])
    assert f"I am nobody, in {group}, at {entry.pw_dir}" in said
    async with fresh(user=0, group=group) as node:
        said = await about(node)
        assert (said["gid"], said["groups"]) == (entry.pw_gid, [entry.pw_gid])
        assert said["environ"]["USER"] == "root"
    assert "user is 'no such user'" in await refusal(user="no such user")


# what binds it


async def test_limits_bite():
    settings = {"LIMITS": {"Greedy": Limits(memory="256MiB")}}
    async with fresh(settings=settings, cpu_seconds=1, open_files=40) as node:
        files, processor, memory, _ = await asyncio.gather(
            *(outcome(node, "Greedy", m) for m in ("files", "processor", "memory")), about(node)
        )
        assert files.result[0] < 40
        assert files.result[1] == "Too many open files"
        assert processor.reason is Reason.SOFT_TIMEOUT
        assert "processor time" in processor.message
        assert memory.reason is Reason.OUT_OF_MEMORY


async def test_a_limit_that_cannot_be_set_is_named():
    text = await refusal(open_files=1 << 30)
    assert "open_files=1073741824 cannot be set" in text


@pytest.fixture
def cgroup(tmp_path):
    """A cgroup of version 2 that is the test's own."""
    mounted = tmp_path / "cgroups"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "cgroup2", "none", mounted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no cgroup of version 2 can be had: {done.stderr.strip()}")
    own = mounted / f"fossa-test-{os.getpid()}"
    own.mkdir()
    yield own
    own.rmdir()
    subprocess.run(["umount", mounted], check=True)


async def test_a_cgroup_holds_all_of_an_attempt(cgroup, tmp_path):
    journal = tmp_path / "pids"
    async with fresh(cgroup=cgroup) as node:
        assert f"/{cgroup.name}/attempt-" in (await about(node))["cgroup"]
        handle = await node.submit("Ends", "family", method_kwargs={"journal": str(journal)})
        await until(journal.exists)
        await handle.cancel()
        assert (await handle.outcome(30)).status is Status.CANCELLED
        for pid in journal.read_text().split():
            await until(lambda pid=pid: not lives(pid))
        await until(lambda: not list(cgroup.glob("attempt-*")))


async def test_a_cgroup_that_is_none_is_named(tmp_path):
    text = await refusal(cgroup=tmp_path)
    assert f"cgroup is {str(tmp_path)!r}: it is no cgroup of version 2" in text


# what stands before it


@pytest.mark.parametrize(
    "prefix", [["env", "COLOUR=blue"], ["setsid"], ["wrapper"]], ids=lambda prefix: prefix[0]
)
async def test_a_prefix_hides_nothing(prefix, wrapper, tmp_path):
    """Whether it replaces itself, ends before its command, or stays."""
    prefix = [wrapper if word == "wrapper" else word for word in prefix]
    journal = tmp_path / "journal"
    async with fresh(prefix=prefix) as node:
        said, exits, killed = await asyncio.gather(
            about(node), outcome(node, "Ends", "exits"), outcome(node, "Ends", "killed")
        )
        assert said["environ"].get("COLOUR") == ("blue" if prefix[0] == "env" else None)
        assert not exits.complete
        if prefix[0] != "setsid":
            assert (exits.reason, killed.reason) == (Reason.EXIT, Reason.SIGNAL)
            assert "status 3" in exits.message
        assert killed.reason is Reason.SIGNAL
        arguments = {"journal": str(journal)}
        handle = await node.submit("Ends", "cleans_up", method_kwargs=arguments, timeout=0.3)
        soft = await handle.outcome(30)
        assert soft.reason is Reason.SOFT_TIMEOUT
        assert journal.read_text() == "cleaned up"
        journal.unlink()
        handle = await node.submit("Ends", "family", method_kwargs=arguments, timeout=0.5)
        hard = await handle.outcome(30)
        assert hard.reason is Reason.HARD_TIMEOUT
        for pid in journal.read_text().split():
            await until(lambda pid=pid: not lives(pid))
        await until(lambda: not lives(said["pid"]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces")
async def test_a_model_is_stopped_where_no_signal_reaches_it(tmp_path):
    """As in a container: another process namespace and another session."""

    def inside():
        return [p for p in psutil.process_iter() if psutil_says(p, "cwd") == str(tmp_path)]

    journal = tmp_path / "journal"
    prefix = ["unshare", "--pid", "--fork", "setsid"]
    async with fresh(prefix=prefix, cwd=tmp_path) as node:
        assert (await about(node))["pid"] == 1
        handle = await node.submit("Ends", "cleans_up", method_kwargs={"journal": str(journal)})
        await until(journal.exists)
        await handle.cancel()
        assert (await handle.outcome(30)).status is Status.CANCELLED
        assert journal.read_text() == "cleaned up"
        journal.unlink()
        handle = await node.submit("Ends", "family", method_kwargs={"journal": str(journal)})
        await until(journal.exists)
        assert len(inside()) >= 4
        await handle.cancel()
        assert (await handle.outcome(30)).status is Status.CANCELLED
        await until(lambda: not inside())


def psutil_says(process, what):
    try:
        return getattr(process, what)()
    except psutil.Error:
        return None


async def test_what_a_model_leaves_behind_is_ended(tmp_path):
    journal = tmp_path / "pids"
    async with fresh() as node:
        arguments = {"journal": str(journal), "stay": False}
        assert (await outcome(node, "Ends", "family", method_kwargs=arguments)).complete
        for pid in journal.read_text().split():
            await until(lambda pid=pid: not lives(pid))


@pytest.mark.parametrize("prefix", [[], ["setsid"]], ids=["alone", "setsid"])
async def test_it_ends_with_a_node_that_is_killed(prefix, tmp_path):
    journal = tmp_path / "pids"
    (tmp_path / "node.py").write_text(f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import subprocess_models
from fossa import BaseConfig, Fossa, use

class Config(BaseConfig):
    ACCEPTED_MODEL_CLASSES = subprocess_models.ALL
    EXECUTORS = [use("subprocess", prefix={prefix!r})]
    LEDGER = None

async def main():
    async with Fossa(Config) as node:
        arguments = {{"journal": {str(journal)!r}}}
        await (await node.submit("Ends", "family", method_kwargs=arguments)).outcome()

asyncio.run(main())
""")
    with subprocess.Popen([sys.executable, tmp_path / "node.py"]) as node:
        await until(journal.exists, timeout=30)
        node.kill()
    worker, child, *others = journal.read_text().split()
    try:
        await until(lambda: not lives(worker))
        if prefix:
            await until(lambda: not lives(child))
    finally:
        for pid in filter(lives, (child, *others)):
            os.kill(int(pid), signal.SIGKILL)


# another interpreter


@pytest.fixture
def other(tmp_path):
    """Another virtual environment: it has what this one has, and whatever a test adds."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    return python, packages


def share(packages):
    """Have the environment find what is installed here, after what is its own."""
    (packages / "here.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")


@pytest.fixture
def geo(tmp_path, monkeypatch):
    """A model whose library is here in one version; where it is imported from."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "geolib.py").write_text("VERSION = 1\n")
    (here / "geo_models.py").write_text(
        textwrap.dedent("""
        import ayeaye

        class Geo(ayeaye.Model):
            def build(self):
                pass

            def about(self):
                import sys, geolib
                return [geolib.VERSION, sys.prefix, type(self).__module__]
        """)
    )
    monkeypatch.syspath_prepend(here)
    yield __import__("geo_models").Geo
    del sys.modules["geo_models"]


async def test_a_model_runs_in_an_environment_of_its_own(geo, other, caplog):
    python, packages = other
    share(packages)
    (packages / "geolib.py").write_text("VERSION = 2\n")
    (packages / "ayeaye-9.9.dist-info").mkdir()
    (packages / "ayeaye-9.9.dist-info" / "METADATA").write_text("Name: ayeaye\nVersion: 9.9\n")
    executors = ["local", use("subprocess", name="geo", python=python, models=[geo])]
    accepted = [geo, subprocess_models.Where]
    with caplog.at_level(logging.WARNING, "fossa"):
        async with running(Config, ACCEPTED_MODEL_CLASSES=accepted, EXECUTORS=executors) as node:
            ended = await outcome(node, "Geo", "about")
            assert ended.result == [2, str(python.parent.parent), "geo_models"]
            first, second = await about(node), await about(node)
            assert "FOSSA_WORKER_OF" in first["environ"]
            assert {first["uses"], second["uses"]} != {1} or first["pid"] != second["pid"]
            assert "PYTEST_CURRENT_TEST" in first["environ"], "it should be the local executor's"
    assert "executor geo:" in caplog.text
    assert "ayeaye 9.9 where the node has" in caplog.text


async def test_a_model_is_imported_there_by_another_path(geo, other):
    python, packages = other
    share(packages)
    (packages / "real.py").write_text(
        "import geo_models\n\nclass Geo(geo_models.Geo):\n    pass\n\n"
        "class Broken(geo_models.Geo):\n    def build(self):\n        raise ImportError\n"
    )
    executors = [use("subprocess", python=python, models={"Geo": "real:Geo"})]
    async with running(Config, ACCEPTED_MODEL_CLASSES=[geo], EXECUTORS=executors) as node:
        assert (await outcome(node, "Geo", "about")).result[2] == "real"


async def test_a_model_that_cannot_be_imported_there_is_named(geo, other):
    python, packages = other
    share(packages)
    executors = [use("subprocess", python=python, models={"Geo": "nowhere:Geo"})]
    async with running(Config, ACCEPTED_MODEL_CLASSES=[geo], EXECUTORS=executors) as node:
        (why,) = node.governor.not_ready()
        ended = await outcome(node, "Geo", "about")
    assert ended.reason is Reason.EXECUTOR
    for text in (why, ended.message):
        assert "Geo: cannot be had from nowhere:Geo" in text
        assert "no module named 'nowhere'" in text


async def test_an_environment_without_fossa_is_named_with_what_to_install(other):
    python, packages = other
    text = await refusal(python=python)
    assert f"{python} cannot run attempts: the worker process exited with status 1" in text
    assert "It lacks fossa: install this node's version there" in text
    assert "-m pip install ayeaye-fossa==" in text
    (packages / "here.pth").write_text(f"{ROOT}\n")
    assert "It lacks msgspec" in await refusal(python=python)


async def test_an_interpreter_that_cannot_be_used_is_named_when_the_node_starts(tmp_path):
    text = await refusal(name="geo", python="/no/such/python", cwd="/no/such/directory")
    assert 'use("subprocess", name="geo") has 2 mistakes' in text
    assert "python is '/no/such/python': there is no such program" in text
    assert "cwd is '/no/such/directory'" in text
    assert "prefix is 'no-such-prefix'" in await refusal(prefix=["no-such-prefix"])
    assert "no python at all" in await refusal(
        python=script(tmp_path / "none", "echo no python at all; exit 4\n")
    )
    newer = script(
        tmp_path / "newer", r"""printf '\000fossa-worker {"protocol": 99}\n'; sleep 60"""
    )
    assert "its fossa speaks protocol 99 to its node and this node's speaks" in await refusal(
        python=newer
    )
    began = time.monotonic()
    silent = script(tmp_path / "silent", "exec sleep 60")
    assert "not ready after start_timeout=0.2 s" in await refusal(python=silent, start_timeout=0.2)
    assert time.monotonic() - began < 5


# who gets what


def mistakes(*executors, **settings):
    with pytest.raises(ConfigError) as raised:
        compose(Config, EXECUTORS=executors, **settings)
    return raised.value.mistakes


def test_wrong_options_are_all_named_and_no_secret_is():
    with pytest.raises(ConfigError) as raised:
        SubprocessExecutor(
            pyton="3", prefix="nice", env={"KEY": b"hush"}, nice=40, cwd=3, user="",
            models={"Geo": "not a path"}, cpus=2.0, keep_env=[1],
        )  # fmt: skip
    text = str(raised.value)
    for part in ("pyton is no option: did you mean python?", 'prefix=["nice"]', "env has a bytes",
                 "nice is 40", "cwd is of type int", "user is empty",
                 "models['Geo'] is 'not a path'",
                 "cpus needs a cgroup", "keep_env has a int"):  # fmt: skip
        assert part in text
    assert len(raised.value.mistakes) == 9
    assert "hush" not in text


def test_models_without_an_executor_or_with_two_are_mistakes():
    (unknown,) = mistakes("local", use("subprocess", models=["Were"]))
    assert "subprocess is for the model 'Were'" in unknown
    assert "did you mean Where?" in unknown
    named = mistakes(use("subprocess", models=["Where"]))
    assert len(named) == 3
    assert any("none is for the model Greedy" in mistake for mistake in named)
    (twice,) = mistakes(
        "local",
        use("subprocess", name="one", models=["Where"]),
        use("subprocess", name="two", models=["Where"]),
    )
    assert "one and two are both for the model Where" in twice
    (same_name,) = mistakes("local", use("subprocess"), use("subprocess"))
    assert "two named 'subprocess'" in same_name


async def test_a_plugin_may_choose_otherwise():
    class Choice:
        @hookimpl
        def fossa_choose_executor(self, task):
            return "local" if task.priority > 0 else None

    executors = ["local", use("subprocess", models=["Where"])]
    async with running(Config, EXECUTORS=executors, PLUGINS=[Choice()]) as node:
        chosen = (await outcome(node, "Where", "about", priority=1)).result
        usual = await about(node)
        assert "PYTEST_CURRENT_TEST" in chosen["environ"]
        assert "PYTEST_CURRENT_TEST" not in usual["environ"]
