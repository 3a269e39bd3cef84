"""Runs a broker and the port mapper (epmd) that it needs, for as long as its own owner lives.

Started as a program: `keeper.py MAPPER… -- BROKER…`. It writes the broker's process id and a line
end, then waits until its standard input ends or the broker does, and leaves no process behind.
It adopts what the broker's processes leave, which Erlang's helpers would otherwise make orphans.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: Milliseconds between two looks for processes that have ended.
_REAP_INTERVAL = 500
_libc = ctypes.CDLL(None)


def _die_with_the_keeper() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=_die_with_the_keeper,  # noqa: PLW1509 - the keeper has one thread
    )


def _wait_for_an_end(broker: int) -> None:
    """Of the owner, whose end of the pipe is then closed, or of the broker."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(os.pidfd_open(broker), select.POLLIN)
    while not poll.poll(_REAP_INTERVAL):
        _reap_but(broker)


def _reap_but(broker: int) -> None:
    """Take leave of adopted processes that have ended."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid == broker:
            return
        os.waitpid(ended.si_pid, 0)


def _leave_nothing(groups: list[int]) -> None:
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def main() -> None:
    """Never returns before both programs, and all that they started, are gone."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    cut = sys.argv.index("--")
    mapper = _start(sys.argv[1:cut])
    broker = _start(sys.argv[cut + 1 :])
    os.write(1, f"{broker.pid}\n".encode())
    _wait_for_an_end(broker.pid)
    _leave_nothing([broker.pid, mapper.pid])


if __name__ == "__main__":
    main()
