"""What README.md and docs/ say is so: their snippets run, their lists are complete.

A page is a session in a directory of its own, and its blocks are what a reader would do with them:

- `python` is run; where its first line is a comment with a file's name, it is saved instead.
- `shell` is run. A command that serves on the node's port and does not end is left running until
  the page says Ctrl-C, or ends.
- `text` is what the block before it wrote, `json` the document that it wrote; "…" is anything.
- `ini` is a systemd unit whose command line must be one that `fossa` understands.
- `none` is a drawing.

A page that speaks of `RABBITMQ_URL` has a broker of its own there, and in `FOSSA_VIA` if it speaks
of that; one that speaks of `AWS_ENDPOINT_URL` has a server there that speaks SQS.

`<!-- not run: why -->` above a block leaves it out. There are few of these, and a test counts them.
"""

import configparser
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from attrs import define, field, frozen
from sqs_support import Server

import fossa
from fossa import BaseConfig, new_id
from fossa.cli import main
from fossa.hookspecs import hookspec
from fossa.testing import free_port
from fossa_rabbitmq.testing import PrivateBroker
from fossa_rabbitmq.testing.fixtures import broker, own_broker  # noqa: F401 - found by their names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "plugins").glob("*/README.md")),
    *(p for p in sorted(DOCS.rglob("*.md")) if not {"_build", "generated"} & set(p.parts)),
]
#: Blocks that may be left out, in all pages together.
MAX_NOT_RUN = 2
#: Seconds that a block may take to end, or to serve.
DEADLINE = 60.0

_FENCE = re.compile(
    r"^(?P<ticks>```+|:::+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=ticks)\s*$", re.MULTILINE | re.DOTALL
)
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^>]+) -->\s*$")
_FILE = re.compile(r"# (?P<name>[\w/]+\.py)\n")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
#: Each config that a snippet defines is composed, unless the snippet was meant to be run by hand.
_COMPOSE = """
from fossa import BaseConfig as _Base
from fossa.composition import compose as _compose
for _thing in list(vars().values()):
    if isinstance(_thing, type) and issubclass(_thing, _Base) and "Wrong" not in _thing.__name__:
        _compose(_thing)
"""
_KEEP_VARIABLES = """
if [ -f .variables ]; then . ./.variables; fi
trap 'declare -p task > .variables' EXIT
"""


@frozen
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    #: What stands between it and the block before.
    prose: str
    #: Why it is not run; empty where it is.
    not_run: str


def blocks(page):
    """The fenced blocks of a page, but for directives (which are checked by Sphinx)."""
    source, before = page.read_text(), 0
    for found in _FENCE.finditer(source):
        prose, before = source[before : found.start()], found.end()
        if not found["info"].startswith("{"):
            marker = _NOT_RUN.search(prose)
            line = source.count("\n", 0, found.start()) + 1
            why = marker["why"] if marker else ""
            yield Block(found["info"].strip(), found["text"], line, prose, why)


@define
class Session:
    """A reader with a directory and a terminal or two."""

    directory: Path
    port: int
    #: Variables with the URL of a broker; empty where the page needs none.
    brokers: dict = field(factory=dict)
    #: What the last block that ran wrote.
    output: Path | None = None
    server: subprocess.Popen | None = None
    _number: int = field(default=0, init=False)

    def follow(self, block):
        if "Ctrl-C" in block.prose:
            self.stop(signal.SIGINT)
        if not block.not_run:
            getattr(self, f"_{block.language}")(re.sub(r"\b2345\b", str(self.port), block.text))

    def _python(self, text):
        if named := _FILE.match(text):
            (self.directory / named["name"]).write_text(text)
            return
        self._number += 1
        file = self.directory / f"snippet_{self._number}.py"
        file.write_text(text + _COMPOSE)
        self._run([sys.executable, file.name])

    def _shell(self, text):
        lines = text.strip().splitlines()
        if all(line.startswith("make ") for line in lines):
            for line in lines:
                make("--dry-run", *shlex.split(line)[1:])
            return
        # As in a terminal, variables are there for the next command.
        if re.search(r"\btask=|\$task\b", text):
            text = f"{_KEEP_VARIABLES}{text}"
        self._run(["bash", "-euo", "pipefail", "-c", text])

    def _text(self, expected):
        pattern = ".*?".join(map(re.escape, expected.strip().split("…")))
        deadline = time.monotonic() + 5 if self.server else 0.0
        while not (found := re.search(pattern, self._written(), re.DOTALL)):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        assert found, f"expected\n{expected}\nit wrote\n{self._written()}"

    def _json(self, expected):
        agrees(json.loads(expected), json.loads(self._written()))

    def _ini(self, text):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str
        unit.read_string(text)
        command = shlex.split(unit["Service"]["ExecStart"])
        assert Path(command[0]).name == "fossa"
        name, *arguments = command[1:]
        main.commands[name].make_context(name, arguments)

    def _none(self, text):
        assert text.strip()

    def _written(self):
        assert self.output is not None, "nothing has run before"
        return self.output.read_text()

    def _run(self, command):
        """Run a command until it ends, or serves."""
        self._number += 1
        self.output = self.directory / f".stdout-{self._number}"
        errors = self.directory / f".stderr-{self._number}"
        with self.output.open("w") as out, errors.open("w") as err:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        if not self._ended(process):
            self.server = process
            return
        said = f"{self.output.read_text()}\n{errors.read_text()}"
        assert process.returncode == 0, f"{command}\nended with {process.returncode}:\n{said}"

    def _ended(self, process):
        """Wait; whether the process ended rather than began to serve."""
        deadline = time.monotonic() + DEADLINE
        while process.poll() is None:
            if self.server is None and answers(self.port):
                return False
            if time.monotonic() > deadline:
                end(process, signal.SIGKILL)
                raise AssertionError(f"{process.args} neither ended nor served in {DEADLINE:g} s")
            time.sleep(0.02)
        return True

    def _environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FOSSA_", "PYTEST_"))}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "XDG_STATE_HOME": str(self.directory / ".state"),
            "FOSSA_HTTP_PORT": str(self.port),
            "FOSSA_URL": f"http://127.0.0.1:{self.port}",
            "FOSSA_TOKEN": self._token(),
            **self.brokers,
            "COLUMNS": "200",
        }

    def _token(self):
        """What a page has exported in an earlier block."""
        file = self.directory / "token"
        return file.read_text().strip() if file.exists() else ""

    def stop(self, signal_number):
        if self.server is not None:
            server, self.server = self.server, None
            end(server, signal_number)
            assert not answers(self.port)


def answers(port):
    """Whether something serves there; where that is a node, whether it has opened everything."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/1/health/ready", timeout=5):
            return True
    except HTTPError as error:
        return b"the node is new" not in error.read()
    except OSError:
        return False


def end(process, signal_number):
    os.killpg(process.pid, signal_number)
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
        raise AssertionError(f"{process.args} did not stop") from None


def agrees(expected, found, at="$"):
    """Whether a document has what is expected of it; "…" in a text stands for anything."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), at
        for key, value in expected.items():
            assert key in found, f"{at} has no {key}"
            agrees(value, found[key], f"{at}.{key}")
    elif isinstance(expected, str) and "…" in expected:
        pattern = ".*".join(map(re.escape, expected.split("…")))
        assert re.fullmatch(pattern, str(found)), f"{at} is {found!r}"
    else:
        assert expected == found, at


def make(*arguments):
    return output_of(["make", *arguments])


def output_of(command):
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def name_of(page):
    return str(page.relative_to(ROOT))


# snippets


@pytest.fixture
def sqs():
    """The variables by which the AWS SDK finds a server of our own."""
    with Server() as server:
        yield {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
        }


#: The variables by which a page's snippets find a broker.
BROKER = ("RABBITMQ_URL", "FOSSA_VIA")
WITH_SNIPPETS = [page for page in PAGES if any(blocks(page))]
WITH_BROKER = [p for p in WITH_SNIPPETS if any(name in p.read_text() for name in BROKER)]


@pytest.fixture
def empty_broker(request, broker):  # noqa: F811 - a fixture
    """Where a broker has no queues yet: a virtual host is made sooner than a broker is started."""
    if not isinstance(broker, PrivateBroker):
        return request.getfixturevalue("own_broker").url
    name = new_id()
    broker.ctl("add_vhost", name)
    broker.ctl("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
    return broker.url.removesuffix("%2F") + name


@pytest.mark.parametrize("page", WITH_BROKER, ids=name_of)
def test_every_snippet_with_a_broker_does_what_the_page_says(page, tmp_path, empty_broker):
    follow(page, tmp_path, {name: empty_broker for name in BROKER if name in page.read_text()})


@pytest.mark.parametrize("page", [p for p in WITH_SNIPPETS if p not in WITH_BROKER], ids=name_of)
def test_every_snippet_does_what_the_page_says(page, tmp_path, request):
    aws = "AWS_ENDPOINT_URL" in page.read_text()
    follow(page, tmp_path, request.getfixturevalue("sqs") if aws else {})


def follow(page, tmp_path, brokers):
    session = Session(tmp_path, free_port(), brokers)
    try:
        for block in blocks(page):
            try:
                session.follow(block)
            except Exception as error:
                raise AssertionError(f"{name_of(page)}, line {block.line}: {error}") from error
        last = page.read_text().rpartition("```")[2]
        session.stop(signal.SIGINT if "Ctrl-C" in last else signal.SIGTERM)
    finally:
        if session.server is not None:
            end(session.server, signal.SIGKILL)


def test_few_snippets_are_not_run_and_each_for_a_reason():
    reasons = [block.not_run for page in PAGES for block in blocks(page) if block.not_run]
    assert len(reasons) <= MAX_NOT_RUN, reasons
    assert all(len(reason) > 20 for reason in reasons)


def test_every_file_that_a_page_saves_is_used_by_it():
    for page in PAGES:
        found = list(blocks(page))
        for at, block in enumerate(found):
            if block.language == "python" and (named := _FILE.match(block.text)):
                stem = Path(named["name"]).stem
                assert any(re.search(rf"\b{stem}\b", b.text) for b in found[at + 1 :]), stem


# README.md


def test_the_readme_links_to_files_that_are_there():
    targets = [found["target"] for found in _LINK.finditer((ROOT / "README.md").read_text())]
    local = [t for t in targets if "://" not in t]
    assert local
    assert [t for t in local if not (ROOT / t).exists()] == []


def test_each_guarantee_names_tests_that_exist():
    rows = re.findall(r"^\| .* \[(tests/test_\w+\.py)\]", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) > 5
    for name in rows:
        assert "def test_" in (ROOT / name).read_text(), name


def test_the_readme_tells_the_default_port():
    assert f":{BaseConfig.HTTP_PORT}/" in (ROOT / "README.md").read_text()


def test_every_verb_of_the_makefile_is_told_by_make_help():
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"^\.PHONY: (\w+)$", makefile, re.M))
    assert set(re.findall(r"^  make (\w+) +\S", make(), re.M)) == verbs
    assert {"setup", "demo", "test", "lint", "docs", "bench", "clean"} <= verbs


# the reference


@pytest.fixture(scope="session")
def built(tmp_path_factory, testrun_uid):
    """The documentation, built with warnings as errors, once for all processes of a test run."""
    out = tmp_path_factory.getbasetemp().parent / f"docs-{testrun_uid}"
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "is-built").exists():
            output_of([*command, "-d", str(out / "doctrees"), str(DOCS), str(out / "html")])
            (out / "is-built").touch()
    return out / "html"


@pytest.fixture
def generate(monkeypatch):
    """The module that writes the generated pages."""
    monkeypatch.syspath_prepend(str(DOCS))
    import generate

    return generate


def test_every_setting_is_in_the_reference(built):
    page = (built / "reference/settings.html").read_text()
    for name in BaseConfig.__annotations__:
        assert f'id="setting-{name.lower().replace("_", "-")}"' in page, name
    assert "FOSSA_HTTP_PORT" in page
    assert "FOSSA_LIMITS" not in page


def test_every_setting_has_a_meaning_and_every_number_a_unit(generate):
    settings = {s.name: s for s in generate.settings()}
    assert set(settings) == set(BaseConfig.__annotations__)
    assert [s.name for s in settings.values() if not s.meaning or not s.group] == []
    numbers = [s for s in settings.values() if re.search(r"\b(int|float)\b", s.type)]
    no_unit = {"SLOTS", "RUNTIME", "HTTP_PORT"}
    assert {s.name for s in numbers if not s.unit} - no_unit == set()
    assert settings["TIMEOUT"].unit == "seconds"
    assert settings["TIMEOUT"].variable == "FOSSA_TIMEOUT"


def test_every_hook_is_in_the_reference(built):
    page = (built / "reference/hooks.html").read_text()
    from fossa import hookspecs

    mark = f"{hookspec.project_name}_spec"
    hooks = [name for name, thing in vars(hookspecs).items() if hasattr(thing, mark)]
    assert len(hooks) > 5
    for name in hooks:
        assert f'id="fossa.hookspecs.{name}"' in page, name


def test_every_hook_has_its_docs_its_test_and_somebody_who_uses_it(generate):
    from fossa import hookspecs
    from fossa.plugins import HOOKS

    for name in HOOKS:
        assert generate.lacking_of(getattr(hookspecs, name)) == [], name
    page = generate.hooks_page()
    assert [name for name in HOOKS if f"autofunction:: fossa.hookspecs.{name}" not in page] == []
    assert page.count("Used by `") == len(HOOKS)


def test_the_documentation_cannot_be_built_where_a_hook_lacks_its_docs_or_its_test(
    generate, monkeypatch
):
    from fossa import hookspecs

    def fossa_task_ended(task, outcome):
        """Called once.

        Args:
            task: what has ended.

        Returns:
            Nothing.
        """

    def brand_new(task):
        """A task has something."""

    brand_new.__name__ = "fossa_" + "brand_new"
    assert generate.lacking_of(fossa_task_ended) == [
        "a sentence about Raising", "the argument outcome",
    ]  # fmt: skip
    assert generate.lacking_of(brand_new) == [
        "a first sentence that says when it is called", "Returns:", "a sentence about Raising",
        "a test that names it", "a plugin or an example that uses it", "the argument task",
    ]  # fmt: skip
    monkeypatch.setattr(hookspecs.fossa_task_ended, "__doc__", fossa_task_ended.__doc__)
    with pytest.raises(generate.Undocumented, match="the hook fossa_task_ended lacks a sentence"):
        generate.hooks_page()


def test_every_command_is_in_the_reference(built):
    page = (built / "reference/cli.html").read_text()
    for name, command in main.commands.items():
        assert f">fossa {name}<" in page, name
        for option in command.params:
            assert max(option.opts, key=len).upper() in page.upper(), (name, option.opts)


def test_every_public_name_is_in_the_reference(built):
    page = (built / "reference/api.html").read_text()
    for name in fossa.__all__:
        assert f"fossa.{name}" in page or f'id="fossa.{name}"' in page, name


def test_every_name_of_the_test_kit_is_in_the_reference(built):
    from fossa import testing

    page = (built / "reference/testing.html").read_text()
    for name in testing.__all__:
        assert f'id="fossa.testing.{name}"' in page, name
    for fixture in ("fossa_node", "no_leaks"):
        assert fixture in page


def test_every_http_operation_is_in_the_reference(built):
    from fossa.admin.openapi import openapi_document

    page = (built / "reference/http.html").read_text()
    for path, operations in openapi_document("/api/1")["paths"].items():
        for verb in {"get", "post", "put", "patch", "delete"} & set(operations):
            assert f"{verb.upper()} /api/1{path}" in page, (verb, path)


def test_every_page_of_the_reference_is_reached_from_the_index(built):
    menu = (built / "index.html").read_text()
    for page in [page for page in PAGES if page.is_relative_to(DOCS)]:
        relative = page.relative_to(DOCS).with_suffix(".html")
        assert relative.name == "index.html" or f'href="{relative}"' in menu, relative


# decisions


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    told = (DOCS / "decisions/0003-dependencies.md").read_text()
    names = {re.match(r"[\w-]+", one)[0] for one in wanted}
    missing = {n for n in names if not re.search(rf"\b{n}\b", told) and not n.startswith("types-")}
    assert missing == set()


def test_the_changelog_has_the_version_that_is_being_made():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = project["project"]["version"].partition(".dev")[0]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
