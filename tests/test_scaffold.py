"""The packages that `fossa plugin new` writes: they install, and their own tests pass."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from fossa.cli import main
from fossa.scaffold import KINDS, write_plugin

ROOT = Path(__file__).parents[1]


def fossa(*arguments, **given):
    return CliRunner().invoke(main, list(map(str, arguments)), **given)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment that sees this one's packages, into which packages may be installed."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (site / "outer.pth").write_text("\n".join(lines) + "\n")
    return home / "bin" / "python"


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=110, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_installs_and_its_tests_pass(kind, python, tmp_path):
    directory = tmp_path / "package"
    result = fossa("plugin", "new", kind, "acme-one", "--into", directory)
    assert result.exit_code == 0, result.output
    installed = run(
        python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ".",
        cwd=directory,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    tested = run(python, "-m", "pytest", "-q", "-p", "no:randomly", cwd=directory)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    listed = run(python, "-m", "fossa", "plugins", "--json", cwd=directory)
    [row] = [row for row in json.loads(listed.stdout) if row["name"] == "acme-one"]
    assert row["kind"] == ("plugin" if kind == "observer" else kind)
    assert row["distribution"] == "fossa-acme-one 0.1.0"
    assert row["trouble"] == ""
    assert row["hooks"] == (
        ["fossa_node_stopped", "fossa_task_ended"] if kind == "observer" else []
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_well_written(kind, tmp_path):
    write_plugin(kind, "acme", tmp_path / "package")
    ruff = Path(sys.executable).with_name("ruff")
    for arguments in (["check", "--select", "E,F,I,UP,B"], ["format", "--check"]):
        chosen = [*arguments, "--isolated", "--line-length", "100"]
        said = run(ruff, *chosen, cwd=tmp_path / "package")
        assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("name", ["Acme", "1st", "a_b", "-a", "a--b", "../x", "", "a b"])
def test_a_name_that_is_none_is_refused(name, tmp_path):
    result = fossa("plugin", "new", "sink", "--into", tmp_path / "x", "--", name)
    assert result.exit_code == 2
    assert "is no name for a plugin" in result.output
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = fossa("plugin", "new", "sink", "acme", "--into", tmp_path)
    assert result.exit_code == 2
    assert "is not empty: name another with --into" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
