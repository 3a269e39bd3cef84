"""A node started as its users start one."""

import gc
import json
import re
import signal
import sys
import threading
from pathlib import Path

import ayeaye
import pytest

from fossa import BaseConfig, Client, Fossa, Status
from fossa.testing import free_port
from programs import FOSSA, UP, environment, node, program, run, stop
from support import TestConfig

SEED = """
import ayeaye

from fossa import run_fossa, BaseConfig

class NothingEtl(ayeaye.Model):
    def build(self):
        pass

class FossaConfig(BaseConfig):
    ACCEPTED_MODEL_CLASSES = [NothingEtl]

run_fossa(FossaConfig)
"""
GUARDED = SEED.replace("run_fossa(F", 'if __name__ == "__main__":\n    run_fossa(F')
#: Models that tell of the process that they run in, with a module of their own beside them.
TELLING = """
import gc, os, time
import ayeaye
import beside
from fossa import run_fossa, BaseConfig

class Tells(ayeaye.Model):
    def build(self):
        pass

    def tell(self):
        return [os.getpid(), beside.NAME, __name__]

    def collects(self):
        return gc.get_threshold()[0]

    def sleep(self, seconds):
        print("asleep", flush=True)
        time.sleep(seconds)

class Common(BaseConfig):
    TERMINATE_GRACE = INTERRUPT_GRACE = 0.2
    SLOTS = 1

class FossaConfig(Common):
    ACCEPTED_MODEL_CLASSES = [Tells]

"""
RUN = "run_fossa(FossaConfig)\n"


@pytest.fixture
def place(tmp_path):
    """A user's directory, away from the current one of the tests."""
    found = tmp_path / "place"
    found.mkdir()
    (found / "beside.py").write_text("NAME = 'beside'\n")
    (found / "telling.py").write_text(TELLING + RUN)
    (found / "unrun.py").write_text(TELLING)
    return found


@pytest.fixture
def env(tmp_path):
    return environment(tmp_path)


@pytest.mark.parametrize("script", [SEED, GUARDED], ids=["unguarded", "guarded"])
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "script.py"],
        [sys.executable, "-m", "script"],
        [*FOSSA, "run", "script:FossaConfig"],
        [*FOSSA, "run", "script.py"],
        [*FOSSA, "run", "script.py:FossaConfig"],
    ],
    ids=["script", "python-m", "module:Name", "file", "file:Name"],
)
def test_the_seeds_script_runs_a_model_however_it_is_started(script, command, place, env):
    (place / "script.py").write_text(script)
    with node(command, cwd=place, env=env) as (running, url):
        outcome = Client(url).submit("NothingEtl").outcome(timeout=30)
        assert outcome.status is Status.COMPLETE, outcome
        assert stop(running) == 0
    # A worker, or `fossa run`, that came to the script's own call has started no second node.
    assert len(UP.findall(running.text)) == 1
    assert "Traceback" not in running.text


@pytest.mark.parametrize("script", ["telling.py", "unrun.py"])
def test_fossa_run_takes_a_file_from_anywhere_with_what_lies_beside_it(
    script, place, env, tmp_path
):
    with node([*FOSSA, "run", place / script], cwd=tmp_path, env=env) as (running, url):
        pid, beside, _ = Client(url).submit("Tells", "tell").outcome(timeout=30).result
        assert beside == "beside"
        assert pid != running.process.pid


def test_fossa_run_takes_a_file_with_the_name_of_a_standard_module(place, env, tmp_path):
    script = place / "wave.py"
    script.write_text(TELLING + RUN)
    with node([*FOSSA, "run", script], cwd=tmp_path, env=env) as (_, url):
        result = Client(url).submit("Tells", "tell").outcome(timeout=30).result
        assert result[1:] == ["beside", "wave_script"]


@pytest.mark.parametrize(("options", "after"), [([], gc.get_threshold()[0]), (["--debug"], 50_000)])
def test_the_nodes_own_process_looks_for_garbage_less_often(place, env, options, after):
    with node([*FOSSA, "run", "telling.py", *options], cwd=place, env=env) as (_, url):
        found = Client(url).submit("Tells", "collects").outcome(timeout=30).result
    assert found == after


def test_debug_runs_models_in_the_nodes_own_process(place, env):
    with node([*FOSSA, "run", "telling.py", "--debug"], cwd=place, env=env) as (running, url):
        pid, *_ = Client(url).submit("Tells", "tell").outcome(timeout=30).result
        assert pid == running.process.pid


def test_options_win_over_the_config(place, env, tmp_path):
    options = ["--state-dir", tmp_path / "mine", "--name", "ada", "--slots", "3", "--port", "0"]
    env.pop("FOSSA_STATE_DIR")
    with node([*FOSSA, "run", "telling.py", *options], cwd=place, env=env) as (_, url):
        status = Client(url).node()
    assert (status["name"], status["slots"]) == ("ada", 3)
    assert status["state_dir"] == str(tmp_path / "mine")


def test_it_announces_where_it_answers_what_it_runs_and_where_it_keeps_it(place, env):
    with node([sys.executable, "telling.py"], cwd=place, env=env) as (running, _):
        running.line(r"INFO +models: Tells$")
        running.line(f"slots: 1; state: {re.escape(env['FOSSA_STATE_DIR'])}$")


# signals


def asleep(url, seconds):
    """A task that has begun to sleep in its model."""
    task = Client(url).submit("Tells", "sleep", method_kwargs={"seconds": seconds})
    assert next(task.lines(follow=True))[1].text == "asleep"
    return task


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_running_tasks_finish(number, place, env):
    with node([sys.executable, "telling.py"], cwd=place, env=env) as (running, url):
        task = asleep(url, 1.5)
        running.signal(number)
        assert running.end() == 0
    assert f"{task.id}: complete" in running.text


def test_the_second_signal_stops_now_and_the_next_boot_takes_the_task_up(place, env):
    with node([sys.executable, "telling.py"], cwd=place, env=env) as (running, url):
        task = asleep(url, 2.5)
        running.signal(signal.SIGTERM)
        running.line("stopping: waiting up to 30 s for 1 running")
        running.signal(signal.SIGTERM)
        assert running.end() == 0
    assert "stopping now" in running.text
    assert f"{task.id}: complete" not in running.text
    with node([sys.executable, "telling.py"], cwd=place, env=env) as (_, url):
        assert Client(url).task(task.id).outcome(timeout=30).complete


def test_the_handlers_of_before_come_back_and_the_script_goes_on(place, env):
    script = place / "handlers.py"
    script.write_text(
        f"{TELLING}import signal\n"
        "def mine(*_): print('mine', flush=True)\n"
        f"signal.signal(signal.SIGTERM, mine)\n{RUN}"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    with node([sys.executable, script], cwd=place, env=env) as (running, _):
        assert stop(running) == 0
    assert running.text.splitlines()[-2:] == ["mine", "True"]


def test_in_a_thread_it_leaves_signals_alone(place, env):
    script = place / "threaded.py"
    script.write_text(
        f"{TELLING}import signal, threading\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=run_fossa, args=(FossaConfig,), daemon=True).start()\n"
        "    input()\n"
        "    print(f'{signal.getsignal(signal.SIGTERM) is signal.SIG_DFL}\\n', end='')\n"
    )
    with node([sys.executable, script], cwd=place, env=env) as (running, url):
        assert Client(url).submit("Tells", "tell").outcome(timeout=30).complete
        running.process.stdin.write("\n")
        running.process.stdin.flush()
        running.line("^True$")


# what keeps it from starting


def refused(command, **options):
    """What a node that cannot start says on standard error."""
    ended = run(command, **options)
    assert ended.returncode == 2, ended
    assert ended.stderr.startswith("fossa: ")
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_mistake_in_the_config_is_told_without_a_traceback(place, env):
    wrong = SEED.replace("    ACCEPTED", "    HTTP_PROT = 1\n    ACCEPTED")
    (place / "wrong.py").write_text(wrong)
    said = refused([sys.executable, "wrong.py"], cwd=place, env=env)
    assert "HTTP_PROT is no setting: did you mean HTTP_PORT?" in said


def test_a_second_node_on_a_state_directory_is_told_of_the_first(place, env):
    command = [sys.executable, "telling.py"]
    with node(command, cwd=place, env=env) as (running, _):
        said = refused(command, cwd=place, env=env)
    assert env["FOSSA_STATE_DIR"] in said
    assert f"process {running.process.pid}" in said


def test_a_port_in_use_is_told_with_the_setting(place, env, tmp_path):
    command = [sys.executable, "telling.py"]
    port = str(free_port())
    with node(command, cwd=place, env={**env, "FOSSA_HTTP_PORT": port}):
        other = environment(tmp_path / "other", FOSSA_HTTP_PORT=port)
        said = refused(command, cwd=place, env=other)
    assert port in said
    assert "FOSSA_HTTP_PORT" in said


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("nowhere", "there is no module 'nowhere'"),
        ("telling", None),
        ("beside.py", "defines no subclass of fossa.BaseConfig"),
        ("unrun.py:Config", "configs in it: Common, FossaConfig"),
        ("two.py", "name one of two.py:One, two.py:Two"),
        ("unrun.py:Tells", "is not a subclass of fossa.BaseConfig"),
    ],
)
def test_fossa_run_says_what_is_wrong_with_its_target(target, said, place, env):
    (place / "two.py").write_text(
        "from fossa import BaseConfig\nclass One(BaseConfig): pass\nclass Two(BaseConfig): pass\n"
    )
    if said is None:
        with node([*FOSSA, "run", target], cwd=place, env=env) as (running, _):
            assert stop(running) == 0
    else:
        assert said in refused([*FOSSA, "run", target], cwd=place, env=env)


def test_without_log_to_stdout_it_writes_nothing(place, env):
    port = free_port()
    quiet = {**env, "FOSSA_LOG_TO_STDOUT": "false", "FOSSA_HTTP_PORT": str(port)}
    with program([sys.executable, "telling.py"], cwd=place, env=quiet) as running:
        client = Client(f"http://127.0.0.1:{port}")
        wait_for_node(client)
        assert client.submit("Tells", "tell").outcome(timeout=30).complete
        assert stop(running) == 0
    assert running.text == ""


def wait_for_node(client):
    """Until a node answers: one that writes nothing has no other way to say that it is up."""
    from fossa.errors import NodeUnreachable

    pause = threading.Event()
    for _ in range(600):
        try:
            return client.node()
        except NodeUnreachable:
            pause.wait(0.05)
    pytest.fail("no node came up")


# what a start costs


def loaded_by(code):
    """Names of the modules that some code loads."""
    ended = run(
        [sys.executable, "-c", f"{code}\nimport sys, json\nprint(json.dumps(list(sys.modules)))"]
    )
    return set(json.loads(ended.stdout))


def test_what_a_worker_imports_with_a_script_is_light():
    heavy = {"aiohttp", "rich", "click", "jinja2", "stevedore", "sqlite3"}
    assert not heavy & loaded_by("from fossa import run_fossa, BaseConfig, Fossa")
    assert not {"asyncio", "attrs", "msgspec"} & loaded_by("import fossa")


# inside other programs


class InThisModule(ayeaye.Model):
    def build(self):
        pass

    def tell(self):
        return "from a pytest module"


def test_inside_a_pytest_test():
    class Config(TestConfig):
        ACCEPTED_MODEL_CLASSES = (InThisModule,)

    with Fossa(Config).in_thread() as threaded:
        assert threaded.submit(InThisModule, "tell").outcome(30).result == "from a pytest module"


def test_inside_a_pytest_test_with_a_model_defined_in_it():
    secret = "closed over"

    class Local(ayeaye.Model):
        def build(self):
            pass

        def tell(self):
            return secret

    class Config(TestConfig):
        ACCEPTED_MODEL_CLASSES = (Local,)

    with Fossa(Config).in_thread() as threaded:
        assert threaded.submit(Local, "tell").outcome(30).result == "closed over"


async def test_two_nodes_in_one_process():
    class Config(TestConfig):
        ACCEPTED_MODEL_CLASSES = (InThisModule,)

    async with Fossa(Config, NODE_NAME="one") as one, Fossa(Config, NODE_NAME="two") as two:
        first, second = await one.submit(InThisModule, "tell"), await two.submit(InThisModule)
        assert (await first.outcome(30)).complete
        assert (await second.outcome(30)).complete
        assert one.governor.id != two.governor.id
        assert [r.task.id for r in await one.governor.page()] == [first.id]


CONSOLE = [
    "import ayeaye, os",
    "from fossa import BaseConfig, Fossa",
    "class Typed(ayeaye.Model):",
    "    def build(self): pass",
    "    def twice(self, number): return [HELPED(number), os.getpid()]",
    "",
    "HELPED = lambda number: 2 * number",
    "class Config(BaseConfig):",
    "    ACCEPTED_MODEL_CLASSES = [Typed]",
    "    LEDGER = None",
    "",
    "node = Fossa(Config).in_thread()",
    "running = node.__enter__()",
    "task = running.submit(Typed, 'twice', method_kwargs={'number': 21})",
    "outcome = task.outcome(timeout=30)",
    "print('answer', outcome.result[0], outcome.result[1] != os.getpid())",
    "node.__exit__(None, None, None)",
    "exit()",
]


@pytest.mark.parametrize(
    "command",
    [["-i"], ["-c", "import code; code.InteractiveConsole().interact()"]],
    ids=["python-i", "InteractiveConsole"],
)
def test_models_typed_at_a_prompt(command, env, tmp_path):
    ended = run([sys.executable, *command], input="\n".join(CONSOLE) + "\n", env=env, cwd=tmp_path)
    assert "answer 42 True" in ended.stdout, ended


def test_in_a_thread_of_an_unguarded_script_a_worker_starts_no_node(place, env):
    (place / "script.py").write_text(
        TELLING + "with Fossa(FossaConfig, LEDGER=None).in_thread() as node:\n"
        "    print('started')\n"
        "    pid = node.submit(Tells, 'tell').outcome(timeout=30).result[0]\n"
        "    print('answer', pid != os.getpid())\n"
    )
    text = (place / "script.py").read_text().replace("run_fossa, B", "Fossa, B")
    (place / "script.py").write_text(text)
    ended = run([sys.executable, "script.py"], cwd=place, env=env)
    assert ended.stdout.splitlines() == ["started", "answer True"], ended
    assert ended.returncode == 0


def test_config_and_models_may_live_in_modules_beside_the_script(place, env):
    (place / "settings.py").write_text(TELLING)
    (place / "main.py").write_text("import settings\nfrom fossa import run_fossa\n")
    script = Path(place / "main.py")
    script.write_text(script.read_text() + "run_fossa(settings.FossaConfig)\n")
    with node([sys.executable, script], cwd="/", env=env) as (_, url):
        assert Client(url).submit("Tells", "tell").outcome(timeout=30).result[2] == "settings"


def test_a_config_of_the_module_only_counts_where_it_is_defined_there():
    from fossa.finding import _configs

    module = type(sys)("somewhere")
    module.BaseConfig = BaseConfig
    module.Imported = TestConfig
    assert _configs(module) == []
