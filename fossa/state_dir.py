"""A node's own directory: the ledger is in it, and no second node may be."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from fossa.errors import LedgerError, StateDirInUse
from fossa.worker.loading import WORKER_MARK


class StateDir:
    """The claim of one node on one directory; None: the node keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock: IO[str] | None = None

    @property
    def ledger_path(self) -> Path | None:
        return self._path / "ledger.sqlite" if self._path else None

    def claim(self) -> None:
        """Make the directory and lock it. Raises `StateDirInUse`, `LedgerError`."""
        if self._path is None:
            return
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self._path / "lock").open("a+")
        except OSError as error:
            raise LedgerError(
                f"the state directory {self._path} cannot be used: {error.strerror}. Name another "
                "one: STATE_DIR in the config, or FOSSA_STATE_DIR in the environment"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._refuse()
        self._end_orphans()
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def release(self) -> None:
        """Empty the lock file, which says that the node ended in good order, and unlock it."""
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _refuse(self) -> None:
        assert self._lock is not None
        self._lock.seek(0)
        holder = self._lock.read().strip() or "unknown"
        self._lock.close()
        self._lock = None
        raise StateDirInUse(
            f"the state directory {self._path} is in use by another node (process {holder}): stop "
            "that one, or give this one its own STATE_DIR (FOSSA_STATE_DIR in the environment)"
        )

    def _end_orphans(self) -> None:
        """End what the models of a node that was killed may have left running."""
        assert self._lock is not None
        self._lock.seek(0)
        if not self._lock.read().strip():
            return
        import psutil  # only after a node was killed: it is large

        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(WORKER_MARK) == str(self._path):
                    process.kill()
