"""Break a fleet for a while, then see whether anything was lost.

    python tests/chaos/run.py                          three nodes over RabbitMQ, 30 s
    python tests/chaos/run.py --seed 7 --seconds 120   the same again, and longer
    python tests/chaos/run.py --over http              nodes by themselves, without a broker
    python tests/chaos/run.py --only kill_node,cut     some kinds of actions

It exits with 1 where something was lost, done twice without a reason, or answered in two ways. The
directory with logs, ledgers and the journal is then left for a look at it.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.plan import NETWORK, NODES
from chaos.report import show
from chaos.trial import Trial


def parsed(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--seconds", type=float, default=30.0, help="for which it is broken")
    parser.add_argument("--tasks", type=int, default=500, help="whole tasks")
    parser.add_argument("--subtasks", type=int, default=500, help="in all, of all parents")
    parser.add_argument("--parents", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2, help="of each node")
    parser.add_argument("--pace", type=float, default=1.2, help="seconds between two actions")
    parser.add_argument("--over", choices=("rabbitmq", "http"), default="rabbitmq")
    parser.add_argument("--queue-type", choices=("quorum", "classic"), default="quorum")
    parser.add_argument("--only", metavar="KINDS", help=f"of {', '.join({**NODES, **NETWORK})}")
    parser.add_argument("--drain", type=float, default=90.0, help="seconds that the rest may take")
    parser.add_argument("--resend", type=float, help="seconds after which a message is sent again")
    parser.add_argument("--keep", action="store_true", help="leave the directory in any case")
    found = parser.parse_args(arguments)
    found.kinds = NODES if found.over == "http" else {**NODES, **NETWORK}
    if found.only is not None:
        only = [kind for kind in found.only.split(",") if kind]
        if unknown := set(only) - set(found.kinds):
            parser.error(f"there is no {', '.join(unknown)}: there are {', '.join(found.kinds)}")
        found.kinds = {kind: found.kinds[kind] for kind in only}
    return found


def main():
    arguments = parsed()
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{arguments.seed}-"))
    print(f"seed {arguments.seed}, in {directory}", flush=True)
    trial = Trial(arguments, directory)
    books = asyncio.run(trial.run(progress=sys.stderr))
    show(trial, books)
    if not (books.violations or arguments.keep):
        shutil.rmtree(directory)
    return 1 if books.violations else 0


if __name__ == "__main__":
    sys.exit(main())
