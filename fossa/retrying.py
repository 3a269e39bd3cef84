"""Whether, and when, a task is attempted again."""

import random
from typing import TYPE_CHECKING

from fossa.tasks import POINTLESS_TO_RETRY

if TYPE_CHECKING:
    from fossa.composition import Composition
    from fossa.live import LiveTask
    from fossa.tasks import Outcome

#: Seconds before a task whose process died is attempted again.
CRASH_DELAY = 0.5


def retry_delay(live: "LiveTask", outcome: "Outcome", config: "Composition") -> float | None:
    """Seconds to the next attempt, or None where this outcome is the task's.

    A crash (the process died, not the model's fault as far as anybody knows) counts against
    CRASH_ATTEMPTS and nothing else; every other failure counts against the task's retries, with
    a delay that doubles each time, less up to half of it by chance.
    """
    row = live.row
    if outcome.complete or live.cancelling or outcome.reason in POINTLESS_TO_RETRY:
        return None
    if outcome.reason.crash:
        row.crashes += 1
        return CRASH_DELAY if row.crashes < config.CRASH_ATTEMPTS else None
    failures = row.attempts - row.crashes
    if failures > live.task.retries:
        return None
    delay = min(config.RETRY_MAX_DELAY, config.RETRY_DELAY * 2.0 ** min(failures - 1, 60))
    return float(delay * random.uniform(0.5, 1.0))
