"""The command `fossa`: run a node, and talk to one."""

# ruff: noqa: D301 - click wants the character \b itself: it keeps a paragraph's lines as they are.

from typing import Any

import click

from fossa.commands import MainCommands
from fossa.commands_dlq import dlq
from fossa.commands_node import cancel, logs, nodes, retry, status
from fossa.commands_plugins import plugin, plugins
from fossa.commands_submit import submit
from fossa.finding import find_config


@click.group(cls=MainCommands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run Aye-Aye ETL models on a node, and talk to one.

    \b
    Begin with a script that has a config in it:
      fossa run etl.py                     start a node
      fossa submit NothingEtl --wait       run a model on it
      fossa status                         see what it does

    FOSSA_URL and FOSSA_TOKEN in the environment say where the node is, FOSSA_VIA where a broker.
    """


for _command in (submit, status, nodes, logs, cancel, retry, dlq, plugins, plugin):
    main.add_command(_command)


@main.command()
def version() -> None:
    """Print the versions of Fossa, Aye-Aye and Python."""
    from importlib.metadata import version as version_of
    from platform import python_version

    click.echo(
        f"fossa {version_of('ayeaye-fossa')}, ayeaye {version_of('ayeaye')}, "
        f"Python {python_version()}"
    )


# run


@main.command()
@click.argument("target")
@click.option("--debug", is_flag=True, help="Run models in this process: breakpoints work.")
@click.option("--host", "HTTP_HOST", metavar="ADDRESS", help="The address to listen on.")
@click.option("--port", "HTTP_PORT", type=int, metavar="N", help="The port; 0: any that is free.")
@click.option("--state-dir", "STATE_DIR", metavar="DIRECTORY", help="The node's own directory.")
@click.option("--name", "NODE_NAME", metavar="TEXT", help="The node's name.")
@click.option("--slots", "SLOTS", type=int, metavar="N", help="Attempts that run at once.")
def run(target: str, debug: bool, **given: Any) -> None:
    """Start a node and run it until Ctrl-C or SIGTERM.

    TARGET says where the config is: in a script or in a module. The name may be left out where
    only one config is defined there. The script's own run_fossa(…) is ignored.

    \b
    Examples:
      fossa run etl.py
      fossa run etl.py:FossaConfig --port 2346
      fossa run mycompany.etl:Nightly --state-dir /var/lib/fossa
      fossa run etl.py --debug             pdb and an IDE's breakpoints work

    The options win over the config; so does the environment, such as FOSSA_HTTP_PORT.
    """
    from fossa.standalone import run_fossa

    settings = {key: value for key, value in given.items() if value is not None}
    run_fossa(find_config(target), debug=debug, **settings)
