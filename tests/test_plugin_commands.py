"""Commands that plugins add to `fossa`."""

import pytest
from click.testing import CliRunner

from fossa.cli import main

GROUP = "fossa.commands"
GREETS = """
    import click
    from fossa.commands import Commands, Refused, composition_of

    @click.group(cls=Commands)
    def greet():
        "Greet somebody."

    @greet.command()
    @click.argument("name")
    def now(name):
        "Greet them now."
        if name == "nobody":
            raise Refused("there is nobody")
        click.echo(f"hello {name}")

    @greet.command()
    @click.argument("target")
    def models(target):
        click.echo(" ".join(composition_of(target).models))
"""


def ran(*arguments, status=0):
    result = CliRunner().invoke(main, arguments, terminal_width=200)
    assert result.exit_code == status, result.output
    return result.output


def test_a_plugins_command_is_there_with_its_help(install):
    install("greets", GREETS, {GROUP: "greet = greets:greet"})
    assert ran("greet", "now", "you") == "hello you\n"
    assert "Greet somebody." in ran("--help")
    assert "Greet them now." in ran("greet", "--help")
    assert ran("greet", "now", "nobody", status=2) == "fossa: there is nobody\n"


def test_a_plugins_command_reads_a_config(install, tmp_path):
    install("greets", GREETS, {GROUP: "greet = greets:greet"})
    script = tmp_path / "etl_for_commands.py"
    script.write_text(
        "import ayeaye\nfrom fossa import BaseConfig\n"
        "class One(ayeaye.Model):\n    def build(self): ...\n"
        "class Config(BaseConfig):\n    ACCEPTED_MODEL_CLASSES = [One]\n"
    )
    assert ran("greet", "models", str(script)) == "One\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("command = print", "leads to a builtin_function_or_method, which is no click command"),
    ],
)
def test_a_broken_command_says_so_and_hurts_no_other(install, code, told):
    install("cracked", code, {GROUP: "cracked = cracked:command"})
    assert ran("version").startswith("fossa ")
    shown = ran("--help")
    assert "cracked" in shown
    assert "submit" in shown
    for arguments in ((), ("--help",), ("any", "--thing", "at", "-a", "ll")):
        said = ran("cracked", *arguments, status=2)
        assert said.startswith("fossa: 'cracked' of fossa.commands")
        assert told in said


def test_nothing_of_a_plugin_is_imported_until_its_command_is_asked_for(install, tmp_path):
    marker = tmp_path / "imported"
    install("late", f"open({str(marker)!r}, 'w')\nimport click\ncommand = click.Command('late')",
            {GROUP: "late = late:command"})  # fmt: skip
    ran("version")
    assert not marker.exists()


def test_two_of_one_name_are_told(install):
    for name in ("ours", "theirs"):
        install(name, "import click\ncommand = click.Command('same')",
                {GROUP: f"same = {name}:command"})  # fmt: skip
    said = ran("same", status=2)
    assert "ours 1.0 and theirs 1.0: uninstall all but one" in said


def test_a_plugin_cannot_take_the_name_of_one_of_fossas_own(install):
    install("taker", "raise ImportError('never')", {GROUP: "version = taker:command"})
    assert ran("version").startswith("fossa ")


def test_an_unknown_command_is_refused():
    assert "No such command 'sbumit'" in ran("sbumit", status=2)
