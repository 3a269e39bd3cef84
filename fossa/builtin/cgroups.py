"""A control group (version 2) for each attempt: limits for all its processes, ended as one."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

#: Microseconds over which the kernel shares out processor time.
_PERIOD = 100_000


def not_usable(root: Path, controllers: Iterable[str]) -> str | None:
    """Why no groups with these controllers can be made below a group; None where they can."""
    if not (root / "cgroup.procs").is_file():
        return "is no cgroup of version 2: give one like /sys/fs/cgroup/fossa, and make it first"
    try:
        for controller in controllers:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        probe = Cgroup(root, None, None)
        probe.make()
        probe.remove()
    except OSError as error:
        wanted = " and ".join(controllers) or "no"
        return (
            f"cannot be used ({error.strerror}; {wanted} controllers are needed): delegate it to "
            "the node's user, with these controllers and no process of its own in it"
        )
    return None


class Cgroup:
    """The group of one attempt."""

    _made = 0

    def __init__(self, root: Path, memory: int | None, cpus: float | None) -> None:
        Cgroup._made += 1
        self._path = root / f"attempt-{os.getpid()}-{Cgroup._made}"
        self._memory = memory
        self._cpus = cpus

    def make(self) -> None:
        """Make it, with its limits. Raises OSError."""
        self._path.mkdir()
        if self._memory is not None:
            (self._path / "memory.max").write_text(str(self._memory))
            (self._path / "memory.oom.group").write_text("1")
        if self._cpus is not None:
            (self._path / "cpu.max").write_text(f"{int(self._cpus * _PERIOD)} {_PERIOD}")

    def add(self, pid: int) -> None:
        """Move a process in, and with it what it will start. Raises OSError."""
        (self._path / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """End everything that is in it."""
        with contextlib.suppress(OSError):
            (self._path / "cgroup.kill").write_text("1")

    def remove(self) -> bool:
        """Remove it; False while something is still in it."""
        try:
            self._path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True
