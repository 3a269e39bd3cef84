"""Speed as ratios: Fossa and what it is held to, interleaved, in one run on one machine.

    python tests/benchmarks/run.py                 every workload, 5 rounds
    python tests/benchmarks/run.py --short W1 R1   the named ones, 1 small round
    python tests/benchmarks/run.py --check         exit with 1 where a promise is missed

W1 to W6, P1 and H1 are on one node; R1 to R8 over RabbitMQ, on a broker that is started for them;
S1 is over SQS, on moto's server.
A row is a median of rounds with its range. Only the ratio column means anything: machines differ,
and drift. Run it on an otherwise idle machine.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))

from figures import show
from local import Local

LOCAL = ("W1", "W2", "W3", "W5", "W6", "P1", "S1", "H1")
OVER_RABBITMQ = ("R1", "R2", "R3", "R4", "R7", "R8")


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*LOCAL, *OVER_RABBITMQ)
    parser.add_argument(
        "workloads", nargs="*", metavar="W", help=f"{' '.join(names)}; default: all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one round of a twentieth of the work")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where a promise is missed"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--clean-python",
        default=sys.executable,
        help="an interpreter with Fossa and nothing else installed, to weigh a node with",
    )
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        help="an interpreter with Celery and Dramatiq, to stand beside",
    )
    parser.add_argument("--broker", metavar="URL", help="a RabbitMQ to use, not a private one")
    arguments = parser.parse_args()
    arguments.workloads = arguments.workloads or names
    if unknown := set(arguments.workloads) - set(names):
        parser.error(f"no workload {', '.join(unknown)}: there are {', '.join(names)}")
    if arguments.short and arguments.check:
        parser.error("--short is too short to judge by: --check goes without it")
    return arguments


def benches(arguments, rounds, scale):
    """Run what was asked for; returns what was measured, on one node and over RabbitMQ."""
    local = Local(rounds, scale, arguments.clean_python)
    for name in LOCAL:
        if name in arguments.workloads:
            asyncio.run(getattr(local, name.lower())())
    yield local
    chosen = [name for name in OVER_RABBITMQ if name in arguments.workloads]
    if chosen and rabbitmq_is_there(arguments):
        yield over_rabbitmq(arguments, chosen, rounds, scale)


def rabbitmq_is_there(arguments):
    """Whether there is a plugin and a broker to measure; where CI is set, there has to be."""
    if find_spec("fossa_rabbitmq") is None:
        missing = "fossa-rabbitmq is not installed: pip install -e plugins/rabbitmq"
    elif not arguments.broker and not broker_can_be_had():
        missing = "RabbitMQ is not installed (on Debian: apt-get install rabbitmq-server)"
    else:
        return True
    if os.environ.get("CI"):
        sys.exit(missing)
    print(f"{' '.join(OVER_RABBITMQ)} are left out: {missing}", file=sys.stderr)
    return False


def broker_can_be_had():
    from fossa_rabbitmq.testing.broker import installed

    return installed()


def over_rabbitmq(arguments, chosen, rounds, scale):
    from contenders import Field

    from rabbit import Rabbit, broker

    with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        directory = Path(name)
        url, pid = stack.enter_context(broker(arguments.broker, directory))
        bench = Rabbit(
            rounds, scale, Field(url, directory, os.path.abspath(arguments.peers_python)), pid
        )
        for workload in chosen:
            asyncio.run(getattr(bench, workload.lower())())
    return bench


def main():
    arguments = parsed()
    # As by Ctrl-C: what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rounds, scale = (1, 0.05) if arguments.short else (arguments.rounds, 1.0)
    found = list(benches(arguments, rounds, scale))
    rows = [row for bench in found for row in bench.rows]
    if arguments.json:
        print(json.dumps([{"name": r.name, "ours": r.ours, "theirs": r.theirs} for r in rows]))
    else:
        costs = [cost for bench in found for cost in bench.costs.values()]
        show(rows, costs, judged=not arguments.short)
    missed = [row.name for row in rows if row.kept is False]
    sys.exit(f"missed: {', '.join(missed)}" if arguments.check and missed else 0)


if __name__ == "__main__":
    main()
