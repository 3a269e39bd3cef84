"""What the nemesis will do, and when: made of the seed alone, so that a seed is a run."""

import random

from attrs import field, frozen

#: What it may do, how often in comparison, and the seconds that it lasts for.
NODES = {
    "kill_worker": (4, (0.0, 0.0)),
    "pause_worker": (1, (0.2, 3.0)),
    "kill_node": (3, (0.3, 3.0)),
    "pause_node": (2, (0.3, 4.0)),
}
NETWORK = {
    "cut": (3, (0.0, 0.0)),
    "cut_all": (1, (0.0, 0.0)),
    "hold": (1, (0.5, 6.0)),
    "half_open": (2, (2.0, 12.0)),
    "refuse": (1, (0.5, 5.0)),
    "kill_broker": (1.5, (0.1, 3.0)),
    "pause_broker": (1, (0.5, 5.0)),
}
#: Those with no node for a target.
_OF_ALL = {"cut_all", "kill_broker", "pause_broker"}
#: Seconds that a node or a broker is left alone for after it came back.
_MERCY = 1.5
#: Seconds that a broker takes to come back, besides those for which it is left down.
_BROKER_START = 8.0


@frozen(kw_only=True)
class Step:
    """One thing that the nemesis is going to do."""

    #: Seconds after the beginning.
    at: float
    kind: str
    #: Which node, from 0; None where it is no matter of one node. For the network, the number
    #: after the last node's is the submitter.
    node: int | None
    #: Seconds until it is undone.
    lasts: float
    #: From 0 to 1: which of the executions that are under way then.
    pick: float = field(default=0.0)


def plan(seed, seconds, nodes, kinds, pace=1.2):
    """The steps of a run, a new one every `pace` seconds on average; all of them end in time."""
    chance = random.Random(f"plan {seed}")
    steps, free, now = [], {}, 0.5
    while kinds and (now := now + chance.expovariate(1 / pace)) < seconds:
        kind = chance.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        node = None if kind in _OF_ALL else chance.randrange(nodes + (kind in NETWORK))
        lasts = min(chance.uniform(*kinds[kind][1]), seconds - now)
        pick = chance.random()
        target = _target(kind, node)
        if free.get(target, 0.0) > now:
            continue
        if lasts:
            down = lasts + (_BROKER_START if kind == "kill_broker" else 0.0)
            free[target] = now + down + _MERCY
        steps.append(Step(at=round(now, 3), kind=kind, node=node, lasts=lasts, pick=pick))
    return steps


def _target(kind, node):
    """What is hurt: the same thing is not hurt in two ways at once."""
    if kind.endswith("_broker"):
        return "broker"
    if kind.endswith("_node"):
        return f"node {node}"
    if kind.endswith("_worker"):
        return f"worker of {node}"
    return f"link of {node}"
