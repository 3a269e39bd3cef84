"""How a running model is asked to stop."""

import signal
from typing import Any

from fossa.interrupts import Cancelled, SoftTimeout
from fossa.worker.channel import Channel


class Interrupts:
    """Turns the governor's two signals into exceptions in the model."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.armed = False

    def install(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, self._soft_timeout)
        signal.signal(signal.SIGUSR2, self._cancelled)
        signal.signal(signal.SIGXCPU, self._out_of_cpu)

    def _soft_timeout(self, *_: Any) -> None:
        self._raise(SoftTimeout("the task ran for longer than its timeout"))

    def _out_of_cpu(self, *_: Any) -> None:
        self._raise(SoftTimeout("it used more processor time than cpu_seconds allows"))

    def _cancelled(self, *_: Any) -> None:
        self._raise(Cancelled("the task was cancelled"))

    def _raise(self, interrupt: BaseException) -> None:
        if self.armed:
            self.armed = False
            self._channel.interrupt(interrupt)
