"""A node in a process of its own that kills itself: `kill_node.py '{"point": "admit", …}'`.

The points are on the way of a delivery: receive, admit, record, run, record, reply, settle.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parents[2] / "tests")]

from faults_support import FaultsConfig, plugin  # noqa: E402

from fossa import Fossa  # noqa: E402
from fossa.builtin.local import LocalExecutor  # noqa: E402
from fossa.governor import Governor  # noqa: E402
from fossa.ledger import Ledger  # noqa: E402
from fossa_rabbitmq import fleet, post  # noqa: E402
from fossa_rabbitmq.channel import Channel  # noqa: E402
from fossa_rabbitmq.guests import Guests  # noqa: E402
from fossa_rabbitmq.held import Held  # noqa: E402
from support import until  # noqa: E402

_PR_SET_PDEATHSIG = 1


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def soon_after_this_turn(*_):
    """What was written in this turn of the loop has left by the next."""
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, die)


def a_reply(_channel, _exchange, queue, *_):
    if queue.endswith(".client") or ".replies." in queue:
        soon_after_this_turn()


def an_insert(_ledger, documents):
    if any(statement.startswith("INSERT INTO tasks") for statement, _ in documents):
        die()


#: By point: the method at which it is, whether that is done first, and what then kills.
POINTS = {
    # It has a message and has not looked at it.
    "received": (Guests, "take", False, die),
    # The task is checked and on its way into the ledger.
    "admitted": (Ledger, "_commit", False, an_insert),
    # The task is in the ledger.
    "recorded": (Ledger, "_commit", True, an_insert),
    # Its attempt begins.
    "started": (LocalExecutor, "run", False, die),
    # Its attempt has ended.
    "ended": (Governor, "_end", False, die),
    # Its outcome is in the ledger.
    "outcome_recorded": (Governor, "_settle", False, die),
    # The reply has been written to the broker, which has not confirmed it.
    "replied": (Channel, "publish", True, a_reply),
    # The reply is confirmed.
    "reply_confirmed": (Guests, "let_go", False, die),
    # The acknowledgement has been written.
    "settled": (Held, "ack", True, soon_after_this_turn),
}


def kill_at(point):
    owner, name, first, kill = POINTS[point]
    method = getattr(owner, name)

    def instead(*arguments, **options):
        if not first:
            kill(*arguments)
        result = method(*arguments, **options)
        if first:
            kill(*arguments)
        return result

    setattr(owner, name, instead)


async def main(
    url, prefix, state, *, presence=None, submit=None, executor=False, rabbit=None, **settings
):
    if presence is not None:
        post.PRESENCE_INTERVAL, fleet.GONE_AFTER = presence, 5 * presence
    rabbit = plugin(url, prefix, **(rabbit or {}))
    executors = ["local", rabbit] if executor else ["local"]
    node = Fossa(
        FaultsConfig, SOURCES=[rabbit], EXECUTORS=executors, STATE_DIR=state, LEDGER="sqlite",
        **settings,
    )  # fmt: skip
    async with node:
        if submit is not None:
            await until(lambda: len(node.governor.fleet()) > 1)
            await node.submit(**submit)
        print("up", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    given = json.loads(sys.argv[1])
    if (point := given.pop("point", None)) in POINTS:
        kill_at(point)
    asyncio.run(main(**given))
