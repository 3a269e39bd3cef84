"""One queue that a node takes tasks from, and how long its tasks take here."""

from attrs import define

#: Messages are streamed where they take less than this, in seconds; and no more above the other.
STREAM_BELOW, STREAM_NOT_ABOVE = 0.015, 0.05
#: Seconds of work, for each slot, that a stream may bring ahead.
AHEAD = 0.05
#: Messages that a stream may bring ahead, at the least and at the most.
LEAST_AHEAD, MOST_AHEAD = 2, 500
#: Messages whose durations must be known before they are streamed.
SAMPLES = 5
#: Weight of the newest duration.
WEIGHT = 0.2


@define(eq=False)
class Level:
    """A queue, the mean duration of its messages, and whether they are streamed."""

    queue: str
    #: Whether they may be streamed at all.
    streams: bool = True
    mean: float = 0.0
    samples: int = 0
    streaming: bool = False
    #: The consumer that streams, or that listens while there is nothing; None: there is none.
    tag: str | None = None
    #: Consumers so far.
    consumers: int = 0
    #: Messages that the present consumer has delivered and that are not settled.
    unsettled: int = 0

    def learn(self, seconds: float) -> None:
        """A message took so long to run."""
        self.samples += 1
        weight = max(WEIGHT, 1 / self.samples)
        self.mean += weight * (seconds - self.mean)

    def forget(self) -> None:
        """What was thought short was not: learn anew."""
        self.mean, self.samples = 0.0, 0

    @property
    def short(self) -> bool:
        """Whether its messages should be streamed."""
        if self.samples < SAMPLES or not self.streams:
            return False
        return self.mean < (STREAM_NOT_ABOVE if self.streaming else STREAM_BELOW)

    def ahead(self, slots: int) -> int:
        """Messages that a stream may bring ahead."""
        wanted = int(slots * AHEAD / max(self.mean, 1e-6))
        return max(LEAST_AHEAD * slots, min(MOST_AHEAD, wanted))
