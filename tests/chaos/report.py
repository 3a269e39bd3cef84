"""What a run came to, as a table."""

from collections import Counter

from chaos.accounts import recoveries

#: Violations that are shown; the first ones say it all.
SHOWN = 30


def show(trial, books):
    for name, text in rows(trial, books):
        print(f"{name:<18} {text}")
    for violation in books.violations[:SHOWN]:
        print(f"VIOLATION: {violation}")
    if len(books.violations) > SHOWN:
        print(f"… and {len(books.violations) - SHOWN} more")
    if books.violations:
        _show_more(trial)
        print(f"{len(books.violations)} violations; look into {trial.directory}")


def _show_more(trial):
    """What happened, for whoever has nothing but this to look at."""
    for action in trial.nemesis.actions:
        print(f"{action.began:.3f} to {action.ended or 0:.3f} {action.step} {action.skipped or ''}")
    for row in trial.abandoned:
        print(f"abandoned: {row}")
    for node in trial.fleet.nodes:
        print(f"--- the end of the log of {node.name}\n{node.log_end()}")


def rows(trial, books):
    """Names and texts."""
    arguments, actions = trial.arguments, trial.nemesis.actions
    done = [action for action in actions if action.skipped is None]
    slowest = recoveries(trial.journal, done)[:1]
    yield "seed", str(arguments.seed)
    yield "fleet", f"{arguments.nodes} nodes of {arguments.slots} slots over {arguments.over}"
    yield "broken for", f"{arguments.seconds:g} s"
    yield "tasks", str(len(trial.wanted.wholes))
    yield "subtasks", f"{len(trial.wanted.subtasks)} of {len(trial.wanted.parents)} parents"
    yield "executions", str(books.executions)
    yield "duplicates", f"{books.duplicates}{_in_brackets(books.explained)}"
    yield "nemesis", f"{len(done)} actions{_in_brackets(Counter(a.kind for a in done))}"
    yield (
        "slowest recovery",
        "".join(
            f"{seconds:.1f} s after {action.kind} {action.node or ''}"
            for seconds, action in slowest
        ),
    )
    if trial.submitter is not None:
        twice = f"{trial.submitter.repeated} replies that it had already"
        yield "submitter", f"{trial.submitter.reconnects} reconnects, {twice}"
        yield "abandoned rows", str(len(trial.abandoned))
    yield "drain", "not within time" if trial.drained is None else f"{trial.drained:.1f} s"
    yield "lost", str(books.lost)
    yield "violations", str(len(books.violations))


def _in_brackets(counts):
    text = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return f" ({text})" if text else ""
