"""For plugins that add commands to `fossa`: an entry point of the group `fossa.commands`.

It leads to a click command or group, and its name is the command's. It is loaded when somebody
asks for it; one that cannot be says so then, and hurts no other command.
"""

from typing import TYPE_CHECKING, Any

import click

from fossa.command_line import Commands, Refused, print_json
from fossa.errors import PluginError
from fossa.finding import find_config

if TYPE_CHECKING:
    from fossa.composition import Composition

__all__ = ["GROUP", "Commands", "MainCommands", "Refused", "composition_of", "print_json"]

GROUP = "fossa.commands"


def composition_of(target: str) -> "Composition":
    """The checked config that `etl.py`, `etl.py:Name`, `module` or `module:Name` means.

    Raises:
        Refused: there is no such config.
        ConfigError: it has mistakes.
    """
    from fossa.composition import compose

    return compose(find_config(target), stand_alone=True)


class MainCommands(Commands):
    """Fossa's own commands, and those of plugins. Its own win over a plugin's of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from fossa.plugins import installed

        return sorted({*super().list_commands(ctx), *installed(GROUP)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        return own or _from_plugin(cmd_name)


def _from_plugin(name: str) -> click.Command | None:
    """The command of that name; None where none is installed."""
    from fossa.plugins import installed, look_up

    if name not in installed(GROUP):
        return None
    try:
        command = look_up(GROUP, name)
    except PluginError as error:
        return _broken(name, str(error))
    if not isinstance(command, click.Command):
        what = type(command).__name__
        return _broken(name, f"{name!r} of {GROUP} leads to a {what}, which is no click command")
    return command


def _broken(name: str, why: str) -> click.Command:
    """Says why there is no such command, whatever it is asked."""

    def refuse(arguments: Any) -> None:
        raise Refused(why)

    return click.Command(
        name,
        callback=refuse,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        short_help=f"(broken: {why})",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
