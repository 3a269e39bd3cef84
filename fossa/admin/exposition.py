"""The node's metrics in Prometheus's text format.

What can be asked is asked when somebody scrapes. What must be counted is counted by plugins: one
that has `collect()`, as prometheus-client's collectors do, has its metrics shown.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from fossa.contracts import Node

_GAUGES = (
    ("fossa_slots", "slots", "Attempts that may run at once."),
    ("fossa_slots_free", "slots_free", "Slots that nobody holds."),
    ("fossa_attempts_running", "running", "Attempts that hold a slot."),
    ("fossa_parents_waiting", "waiting_parents", "Tasks that wait for subtasks and hold no slot."),
)


class Exposition:
    """One registry for one node: the global one of prometheus-client would refuse a second node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._registry: CollectorRegistry | None = None

    def text(self) -> tuple[bytes, str]:
        """The metrics as of now, and their content type."""
        # Imported on first use: a node that nobody scrapes starts without it.
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(self)
            for _, plugin in self._node.composition.plugins:
                if callable(getattr(plugin, "collect", None)):
                    self._registry.register(plugin)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> "Iterator[Metric]":
        """What the node says of itself."""
        from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

        status = self._node.status()
        yield InfoMetricFamily("fossa_node", "The node.", value=_info(status))
        for name, key, text in _GAUGES:
            yield GaugeMetricFamily(name, text, value=status[key])
        queued = GaugeMetricFamily("fossa_queued", "Tasks that wait for a slot.", labels=["kind"])
        queued.add_metric(["task"], status["queued"])
        queued.add_metric(["subtask"], status["queued_subtasks"])
        yield queued
        yield GaugeMetricFamily(
            "fossa_ready", "1 where the node should get work.", value=not status["not_ready"]
        )
        yield GaugeMetricFamily(
            "fossa_booted_seconds", "When it booted, since the epoch.", value=status["booted"]
        )


def _info(status: dict[str, Any]) -> dict[str, str]:
    return {"name": status["name"], "id": status["id"], "version": status["versions"]["fossa"]}
