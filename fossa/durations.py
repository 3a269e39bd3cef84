"""How long the methods of the models take: short ones may share a slot, one after another."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fossa.composition import Model

if TYPE_CHECKING:
    from fossa.live import LiveTask
    from fossa.tasks import Outcome

#: Seconds below which an attempt is short.
SHORT = 0.001
#: Weight of the newest duration; a long one counts at once.
WEIGHT = 0.2


class Durations:
    """A moving average for each method of each model, in seconds."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._partitioned = {name for name, model in models.items() if model.partitioned}
        self._mean: dict[tuple[str, str], float] = {}

    def learn(self, live: "LiveTask", outcome: "Outcome") -> None:
        """Take the duration of an attempt that has ended."""
        task = live.task
        taken = outcome.finished - (outcome.started or outcome.finished)
        if not outcome.complete or taken > SHORT * 10:
            taken = max(taken, SHORT * 10)
        key = (task.model, task.method)
        mean = self._mean.get(key, taken)
        self._mean[key] = mean + WEIGHT * (taken - mean)

    def forget(self, live: "LiveTask") -> None:
        """What was thought short was not."""
        self._mean.pop((live.task.model, live.task.method), None)

    def short(self, live: "LiveTask") -> bool:
        """Whether a task is known to be short."""
        mean = self._known(live)
        return mean is not None and mean < SHORT

    def fitting(self, live: "LiveTask", seconds: float) -> int:
        """How many tasks like this one take so many seconds; one, where that is not known."""
        mean = self._known(live)
        return 1 if mean is None else max(1, int(seconds / max(mean, 1e-6)))

    def _known(self, live: "LiveTask") -> float | None:
        """The mean; None: it is not known, or means little, as it does for a parent of subtasks."""
        task = live.task
        if task.model in self._partitioned and task.method == "go":
            return None
        return self._mean.get((task.model, task.method))

    @staticmethod
    def alike(first: "LiveTask", second: "LiveTask") -> bool:
        """Whether the second may follow the first in its slot."""
        a, b = first.task, second.task
        return (
            a.model == b.model
            and a.method == b.method
            and a.depth == b.depth
            and b.timeout is None
            and not second.suspect
            and second.row.attempts == 0
        )
