"""Every event as a line of JSON in a file that any number of threads and processes may share."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from time import monotonic, sleep

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability.manager import ObservabilityHandler
from llmgine.observability.redact import Redactor, redactor_of
from llmgine.observability.serialize import to_line

__all__ = ["SyncFileEventHandler", "files_lock", "is_torn", "log_path"]

_CHECK_EVERY = 1.0
"""Seconds after which a handler looks again whether its file is still there."""
_SETTLE = 0.02
"""Seconds after which a line that has not grown is not being written."""

# One for all files, so that a fork can wait for it: no child begins with a lock that nobody will release.
files_lock = RLock()
"""Held by whoever writes to a log in this process."""
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(
        before=files_lock.acquire, after_in_parent=files_lock.release, after_in_child=files_lock.release
    )


class SyncFileEventHandler(ObservabilityHandler):
    """Appends every event to a JSON Lines file. When `handle` returns, other processes can read the line.

    A line is one write in append mode, so threads and processes that share a file do not mix their lines (on a local
    file system). Whoever opens a file that ends in the middle of a line begins a new one; if another process was just
    writing that line, an empty one is between them. If the file is deleted, it is begun anew within a second.
    """

    _fd = -1
    _torn = False
    _next_check = 0.0

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        filename: str | None = None,
        *,
        record_content: bool = True,
        redact: bool | Redactor = True,
    ) -> None:
        """Open the file, and make the folders on its way.

        Args:
            log_dir: the folder.
            filename: the file in it, which may exist already; by default a new one, `events_<UTC time>.jsonl`.
            record_content: record what people and models say, and not only how long it is.
            redact: leave secrets out; or what leaves them out.

        Raises:
            ConfigurationError: the file would be outside the folder.
            OSError: the file cannot be made or opened.
        """
        self.log_file, self._path = log_path(log_dir, filename)
        """The file's path, inside `log_dir` as that was given."""
        self._record_content = record_content
        self._redactor = redactor_of(redact)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def handle(self, event: Event) -> None:
        """Append the event.

        Raises:
            OSError: it could not be written: the disk is full, the folder is gone, the handler is closed.
        """
        line = to_line(event, record_content=self._record_content, redactor=self._redactor)
        with files_lock:
            if monotonic() >= self._next_check:
                self._check()
            if self._torn:
                line = b"\n" + line
            while True:
                written = os.write(self._fd, line)
                self._torn = written < len(line)
                if not self._torn:
                    return
                line = line[written:]

    def close(self) -> None:
        """Close the file. Does nothing the second time."""
        with files_lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    __del__ = close

    def _open(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self.close()
        self._fd = fd
        self._torn = is_torn(fd)

    def _check(self) -> None:
        if os.fstat(self._fd).st_nlink == 0:
            self._open()
        self._next_check = monotonic() + _CHECK_EVERY


def log_path(log_dir: str | os.PathLike[str], filename: str | None) -> tuple[Path, Path]:
    """Return the path of a log as a user would write it, and the absolute one; without a name, of a new file.

    Raises:
        ConfigurationError: the file would be outside the folder.
        OSError: the new file cannot be made.
    """
    folder = Path(log_dir)
    path = folder / filename if filename is not None else _new_file(folder)
    absolute = path.resolve()
    if folder.resolve() not in absolute.parents:
        msg = f"{filename!r} is not the name of a file inside the folder {str(folder)!r}."
        raise ConfigurationError(msg)
    return path, absolute


def is_torn(fd: int) -> bool:
    """Tell whether a file ends in half a line that nobody is about to finish."""
    known = 0
    while (size := os.fstat(fd).st_size) != known:
        if os.pread(fd, 1, size - 1) == b"\n":
            return False
        known = size
        sleep(_SETTLE)
    return size > 0


def _new_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"events_{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
    path, number = folder / f"{stem}.jsonl", 1
    while True:
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            path = folder / f"{stem}_{number}.jsonl"
        else:
            return path
