"""How long the messages of a queue take here, and how many may be brought ahead."""

#: Messages are brought ahead where they take less than this, in seconds; no more above the other.
SHORT_BELOW, SHORT_NOT_ABOVE = 0.015, 0.05
#: Seconds of work, for each slot, that may be here ahead.
AHEAD = 0.05
#: Messages that may be here ahead, at the least and at the most.
LEAST, MOST = 20, 100
#: Messages whose durations must be known before.
SAMPLES = 5
#: Weight of the newest duration.
WEIGHT = 0.2


class Pace:
    """The mean duration of a queue's messages."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._was_short = False
        self.forget()

    def learn(self, seconds: float | None) -> None:
        """A message took so long to run. None: it did not run here."""
        if seconds is None:
            return
        self._samples += 1
        weight = max(WEIGHT, 1 / self._samples)
        self._mean += weight * (seconds - self._mean)

    def forget(self) -> None:
        """What was thought short was not: learn anew."""
        self._mean, self._samples, self._was_short = 0.0, 0, False

    @property
    def short(self) -> bool:
        if self._samples < SAMPLES:
            return False
        self._was_short = self._mean < (SHORT_NOT_ABOVE if self._was_short else SHORT_BELOW)
        return self._was_short

    @property
    def ahead(self) -> int:
        """Messages that may be here at once."""
        return max(LEAST, min(MOST, int(self._slots * AHEAD / max(self._mean, 1e-6))))
