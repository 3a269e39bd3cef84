"""A process that answers each line of JSON with one, and says first that it is ready.

    python talking.py peer_amqp URL floor bench.floor

imports the module, makes its `Peer` with the other arguments and drives it: a command is a work,
a count and whether it is to be done one by one. What comes back is checked here.
"""

import gc
import json
import sys
import time
from importlib import import_module

from workloads import check, kwargs_of


def talk(answer):
    """Answer commands until standard input ends."""
    say(ready=True)
    for line in sys.stdin:
        say(**answer(**json.loads(line)))


def say(**document):
    """Write a line: an answer, or `done=` tasks while the answer is made."""
    print(json.dumps(document), flush=True)


def drive(peer, work, count, one_by_one=False):
    calls = [kwargs_of(work, i) for i in range(count)]
    gc.collect()
    if one_by_one:
        return {"took": [_timed(peer, work, [kwargs]) for kwargs in calls]}
    began = time.perf_counter()
    results = peer.many(work, calls)
    seconds = time.perf_counter() - began
    assert len(results) == count
    check(work, results)
    return {"seconds": seconds, "cpu": sum(r.get("cpu", 0) for r in results)}


def _timed(peer, work, calls):
    began = time.perf_counter()
    peer.many(work, calls)
    return time.perf_counter() - began


if __name__ == "__main__":
    peer = import_module(sys.argv[1]).Peer(*sys.argv[2:])
    talk(lambda **command: drive(peer, **command))
