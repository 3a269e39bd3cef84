"""Counts what happens to tasks and attempts, for the node's metrics: an observer.

It counts in plain dicts, because it is told of every attempt and scraped now and then.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fossa.contracts import Node
from fossa.hookspecs import hookimpl
from fossa.tasks import Attempt, Outcome, Task

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: Upper bounds of the histogram of durations, in seconds: no-op models to nightly loads.
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
#: In place of a model's name that a subtask made up and this node refused.
UNKNOWN = "(not accepted)"


class Metrics:
    """One node's counters. `PLUGINS = ["metrics"]` enables them."""

    def __init__(self) -> None:
        self._models: frozenset[str] | None = None
        self._accepted: Counter[tuple[str, str]] = Counter()
        self._ended: Counter[tuple[str, str, str, str]] = Counter()
        #: For each model and kind: attempts in each bucket, those beyond the last one too.
        self._durations: dict[tuple[str, str], list[int]] = {}
        self._seconds: Counter[tuple[str, str]] = Counter()

    # observe

    @hookimpl
    def fossa_node_started(self, node: Node) -> None:
        self._models = frozenset(node.composition.models)

    @hookimpl
    def fossa_task_accepted(self, task: Task) -> None:
        self._accepted[self._labels(task)] += 1

    @hookimpl
    def fossa_attempt_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        labels = self._labels(attempt.task)
        buckets = self._durations.get(labels)
        if buckets is None:
            buckets = self._durations[labels] = [0] * (len(BUCKETS) + 1)
        seconds = max(0.0, outcome.finished - attempt.started)
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[labels] += seconds  # type: ignore[assignment]

    @hookimpl
    def fossa_task_ended(self, task: Task, outcome: Outcome) -> None:
        self._ended[(*self._labels(task), outcome.status, outcome.reason)] += 1

    def _labels(self, task: Task) -> tuple[str, str]:
        known = self._models is None or task.model in self._models
        return (task.model if known else UNKNOWN, "subtask" if task.depth else "task")

    # tell

    def collect(self) -> "Iterator[Metric]":
        """As prometheus-client's collectors have it."""
        from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

        labels = ["model", "kind"]
        accepted = CounterMetricFamily(
            "fossa_tasks_accepted", "Tasks and subtasks that were admitted.", labels=labels
        )
        for key, count in self._accepted.items():
            accepted.add_metric(key, count)
        yield accepted
        ended = CounterMetricFamily(
            "fossa_tasks_ended",
            "Tasks and subtasks that have their outcome.",
            labels=[*labels, "status", "reason"],
        )
        for ended_key, count in self._ended.items():
            ended.add_metric(ended_key, count)
        yield ended
        durations = HistogramMetricFamily(
            "fossa_attempt_seconds", "How long attempts took.", labels=labels
        )
        for key, counts in self._durations.items():
            durations.add_metric(key, _cumulated(counts), self._seconds[key])
        yield durations


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
