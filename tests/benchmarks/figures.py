"""Figures beside what they are held to, and how they are shown."""

import os
import platform
import statistics
from importlib.metadata import version
from multiprocessing import get_context

import psutil
from rich.console import Console
from rich.table import Table


class Row:
    """One figure of ours, the figure that it is held to, and the promise about their ratio."""

    def __init__(self, name, unit, promise=None, *, more_is_better=True):
        self.name, self.unit, self.promise = name, unit, promise
        self.more_is_better = more_is_better
        self.ours, self.theirs = [], []

    def add(self, ours, theirs=None):
        """One round's figures; None where that side could not be measured."""
        if ours is not None:
            self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)

    @property
    def value(self):
        """The median of the rounds' ratios, or of our figures where nothing stands beside them."""
        if not self.ours:
            return None
        if self.theirs:
            return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))
        return statistics.median(self.ours)

    @property
    def kept(self):
        if self.promise is None or self.value is None:
            return None
        return self.value >= self.promise if self.more_is_better else self.value <= self.promise


class Cost:
    """What one contender's tasks took of the processors, in ms a task, round by round."""

    def __init__(self, contender, workload):
        self.contender, self.workload = contender, workload
        self.rates, self.parts = [], {}

    def add(self, rate, **seconds_a_task):
        self.rates.append(rate)
        for part, seconds in seconds_a_task.items():
            self.parts.setdefault(part, []).append(seconds * 1e3)


class Bench:
    """Workloads are its methods; what they found is in `rows` and `costs`."""

    def __init__(self, rounds, scale):
        self.rounds, self.scale = rounds, scale
        self.rows, self.costs = [], {}

    def row(self, *args, **kwargs):
        self.rows.append(Row(*args, **kwargs))
        return self.rows[-1]


def show(rows, costs, judged):
    """Print them; a short run is not judged by the promises, for it says little."""
    console = Console(width=160)
    console.print(_ratios(rows, judged))
    if costs:
        console.print(_costs(costs))


def _ratios(rows, judged):
    table = Table(title="Fossa in ratios", caption=machine())
    for column in ("workload", "ours", "held to", "ratio or figure", "promise", ""):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for row in rows:
        sign = "≥" if row.more_is_better else "≤"
        promise = f"{sign} {row.promise:g}" if row.promise is not None else ""
        mark = {None: "", True: "kept", False: "MISSED"}[row.kept if judged else None]
        value = "" if row.value is None else f"{row.value:.3g}"
        table.add_row(
            row.name,
            _spread(row.ours, row.unit),
            _spread(row.theirs, row.unit),
            value,
            promise,
            mark,
        )
    return table


def _costs(costs):
    table = Table(title="Processor time, ms a task")
    for column in ("workload", "contender", "tasks/s", "submitter", "workers", "broker"):
        table.add_column(column, justify="left" if column in ("workload", "contender") else "right")
    for cost in costs:
        parts = [statistics.median(cost.parts[p]) for p in ("submitter", "workers", "broker")]
        rate = f"{statistics.median(cost.rates):,.4g}"
        table.add_row(cost.workload, cost.contender, rate, *(f"{p:.2f}" for p in parts))
    return table


def _spread(figures, unit):
    if not figures:
        return ""
    middle = statistics.median(figures)
    return f"{middle:,.4g} ({min(figures):,.4g} to {max(figures):,.4g}) {unit}"


def machine():
    names = ("ayeaye-fossa", "ayeaye", "aiohttp", "msgspec")
    versions = ", ".join(f"{n} {version(n)}" for n in names)
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {load:.2f}, {versions}, "
        f"start method {get_context().get_start_method()}"
    )


def family(pid):
    """A process and its children; none where it is gone."""
    try:
        me = psutil.Process(pid)
        return [me, *me.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pss(pid):
    """Proportional set size of a process and its children, in MB."""
    return sum(_of(p, lambda p: p.memory_full_info().pss) for p in family(pid)) / 1e6


def cpu_seconds(pid):
    """What a process and its children have taken of the processors so far, in seconds.

    Not a number where the process is not known.
    """
    if pid is None:
        return float("nan")
    return sum(_of(p, lambda p: p.cpu_times().user + p.cpu_times().system) for p in family(pid))


def _of(process, figure):
    try:
        return figure(process)
    except psutil.NoSuchProcess:
        return 0.0
