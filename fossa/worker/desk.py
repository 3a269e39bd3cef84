"""The worker's main loop: attempts come in, one or several at a time, and their ends go out.

Short attempts come several at a time and their ends go back together, for each message costs more
than they do. A task that takes longer than expected must not keep those behind it: after `PATIENCE`
a watching thread gives the rest back to the governor and sends the ends that are ready.
"""

import sys
import threading
import time
from collections import deque

import msgspec

from fossa.worker.capture import Capture
from fossa.worker.channel import Channel
from fossa.worker.messages import Done, Dones, GivenBack, Run, Runs
from fossa.worker.redaction import Redaction
from fossa.worker.run import Runner, leftovers, resident_bytes
from fossa.worker.signals import Interrupts

#: Seconds that one attempt may take before those behind it are given back.
PATIENCE = 0.01
#: Seconds that a finished attempt's end may wait for others to go with.
FLUSH = 0.002
#: Attempts between two looks at this process's memory, where they are short.
RSS_EVERY = 64


class Desk:
    """What waits to be run, what has been run, and who looks after both."""

    def __init__(
        self,
        channel: Channel,
        runner: Runner,
        capture: Capture,
        interrupts: Interrupts,
        redact: Redaction,
        *,
        once: bool = False,
    ) -> None:
        self._once = once
        self._redact = redact
        self._channel = channel
        self._runner = runner
        self._capture = capture
        self._interrupts = interrupts
        self._waiting: deque[Run] = deque()
        self._dones: list[Done] = []
        self._flushing = threading.Lock()
        self._flushed = 0.0
        self._busy = threading.Event()
        self._threads = {threading.main_thread(), *channel.threads}
        self._watching = False
        self._rss = 0
        self._since_rss = RSS_EVERY

    def work(self) -> None:
        """Run what comes, for as long as the channel is open."""
        while True:
            message = self._channel.receive()
            assert isinstance(message, Runs), message
            self._waiting.extend(message.runs)
            if len(message.runs) > 1:
                self._watch()
            self._flushed = time.monotonic()
            self._work_off()
            self._busy.clear()

    def _work_off(self) -> None:
        while True:
            try:
                run = self._waiting.popleft()
            except IndexError:
                break
            done = self._attempt(run)
            with self._flushing:
                self._dones.append(done)
            if time.monotonic() - self._flushed > FLUSH:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._flushing:
            dones, self._dones = self._dones, []
            self._flushed = time.monotonic()
            if dones:
                self._channel.send(Dones(dones))

    def _attempt(self, run: Run) -> Done:
        self._capture.begin(run.number)
        started = time.time()
        self._interrupts.armed = True
        try:
            ending = self._runner.run(run)
        finally:
            self._interrupts.armed = False
            self._channel.disarm()
        finished = time.time()
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        self._capture.end()
        return Done(
            number=run.number,
            started=started,
            finished=finished,
            complete=ending.complete,
            reason=ending.reason,
            message=self._redact(ending.message),
            error=ending.error,
            traceback=tuple(map(self._redact, ending.traceback)),
            result=msgspec.Raw(self._redact.json(bytes(ending.result))),
            result_is_json=ending.result_is_json,
            failed_subtask=ending.failed_subtask,
            retire=ending.retire or leftovers(self._threads, reap=self._once),
            rss=self._memory(finished - started),
        )

    def _memory(self, taken: float) -> int:
        self._since_rss += 1
        if self._since_rss >= RSS_EVERY or taken > PATIENCE:
            self._rss, self._since_rss = resident_bytes(), 0
        return self._rss

    def _watch(self) -> None:
        """See to it that nothing waits behind a long attempt."""
        if not self._watching:
            self._watching = True
            watcher = threading.Thread(target=self._keep_watch, name="fossa-watch", daemon=True)
            self._threads.add(watcher)
            watcher.start()
        self._busy.set()

    def _keep_watch(self) -> None:
        while True:
            self._busy.wait()
            before = len(self._waiting)
            time.sleep(PATIENCE)
            if before and len(self._waiting) == before:
                self._give_back()

    def _give_back(self) -> None:
        numbers = []
        while True:
            try:
                numbers.append(self._waiting.pop().number)
            except IndexError:
                break
        self._flush()
        if numbers:
            self._channel.send(GivenBack(numbers))
