"""How far each schedule has come: one small JSON file for a source, in the node's directory."""

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import frozen

from fossa import FossaError
from fossa_schedule.timing import instant_of, utc

VERSION = 1


@frozen(kw_only=True)
class Mark:
    """How far one schedule has come."""

    #: The text of its timing: where that changes it begins anew.
    text: str
    #: No firing up to this instant (seconds since the epoch) is to be made any more.
    last: int
    #: The task of the latest firing.
    task: str | None = None


class Progress:
    """The marks of one source; in memory only where the node keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._marks: dict[str, Mark] = {}
        self._lock = threading.Lock()
        self._closed = False
        #: Why the marks could not be written; None: they are.
        self.trouble: str | None = None

    def read(self) -> None:
        """Read the file, if it is there. Raises a `FossaError` where it is not one of ours."""
        if self._path is None:
            return
        try:
            self._marks = _decoded(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise FossaError(
                f"the progress of schedules in {self._path} cannot be read "
                f"({type(error).__name__}: {error}): repair it, or delete it to have every "
                "schedule begin from now"
            ) from error

    def get(self, name: str) -> Mark | None:
        return self._marks.get(name)

    def put(self, name: str, mark: Mark) -> None:
        """Kept in memory; `write` makes it last."""
        self._marks[name] = mark

    def keep(self, names: set[str]) -> None:
        """Forget the others: who comes back later begins from then."""
        self._marks = {name: mark for name, mark in self._marks.items() if name in names}

    def write(self) -> None:
        """Replace the file. May be called from several threads; the newest marks win."""
        if self._path is None:
            return
        with self._lock:
            if not self._closed:
                self._try(self._path)

    def close(self) -> None:
        """Returns once nothing is being written; nothing will be."""
        with self._lock:
            self._closed = True

    def _try(self, path: Path) -> None:
        try:
            _replace(path, _encoded(dict(self._marks)))
        except OSError as error:
            self.trouble = f"{path} cannot be written: {error.strerror}"
        else:
            self.trouble = None


def progress_path(state_dir: Path | None, source: str) -> Path | None:
    """The file of one source."""
    return None if state_dir is None else state_dir / f"schedule-{quote(source, safe='')}.json"


def _encoded(marks: Mapping[str, Mark]) -> str:
    schedules = {n: {"when": m.text, "last": utc(m.last), "task": m.task} for n, m in marks.items()}
    return json.dumps({"version": VERSION, "schedules": schedules}, indent=1)


def _decoded(text: str) -> dict[str, Mark]:
    document: dict[str, Any] = json.loads(text)
    if document["version"] != VERSION:
        raise ValueError(f"its version is {document['version']!r:.20}, and not {VERSION}")
    return {
        name: Mark(text=one["when"], last=instant_of(one["last"]), task=one["task"])
        for name, one in document["schedules"].items()
    }


def _replace(path: Path, text: str) -> None:
    """Write a file so that after a crash either the old or the new one is there, whole."""
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    with contextlib.suppress(OSError):  # not every file system can
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
