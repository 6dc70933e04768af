"""A file of lines that several processes append to, and that is begun anew when it is too large or a day is over.

Who writes, or renames, holds a lock on the file and has seen that it still has its name. So when a file has been
renamed, nobody will ever write to it again.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import time

from llmgine.observability.handlers.archive import Archive
from llmgine.observability.handlers.file_lock import lock, unlock
from llmgine.observability.handlers.file_sync import is_torn

__all__ = ["RotatingFile"]

_PATIENCE = 0.2
"""Seconds to wait for a lock. Whoever has it for so long is not writing: it is stopped, and may never go on."""
_DAY = 86_400


class RotatingFile:
    """Appends whole lines to a file. Not for several threads at once."""

    def __init__(self, path: Path, archive: Archive, *, max_bytes: int | None = None, daily: bool = False) -> None:
        """Name the file, without opening it.

        Args:
            path: where to write.
            archive: names what is put aside, and looks after it.
            max_bytes: how large the file may become. A line that is longer gets a file of its own.
            daily: begin a new file with each day of UTC.
        """
        self._path = path
        self._archive = archive
        self._max_bytes = max_bytes
        self._daily = daily
        self._fd = -1
        self._day = 0
        self._end = 0
        """Where the last write ended; if the file has another size by now, somebody else has written."""
        self._torn = False
        """Whether it ended in the middle of a line."""

    def append(self, lines: list[bytes]) -> tuple[int, OSError | None]:
        """Append lines that end in a line feed. Return how many are in the file, the first ones, and why not all."""
        done = 0
        try:
            while done < len(lines):
                locked = self._acquire()
                try:
                    size = os.fstat(self._fd).st_size
                    fitting = self._fitting(lines, done, size)
                    if fitting == done and size and locked:
                        self._rotate()
                        continue
                    done, error = self._write(lines, done, max(fitting, done + 1), size)
                    if error is not None:
                        return done, error
                finally:
                    if self._fd >= 0:
                        unlock(self._fd)
        except OSError as error:
            return done, error
        return done, None

    def open(self) -> None:
        """Open the file, which need not be done before the first line.

        Raises:
            OSError: it cannot be made or opened.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        status = os.fstat(self._fd)
        self._day = int((status.st_mtime if status.st_size else time()) // _DAY)
        self._end = -1

    def close(self) -> None:
        """Close the file. The next line opens it again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _acquire(self) -> bool:
        """Lock the file that has the name. Return whether that succeeded; it need not, to append in one write."""
        while True:
            if self._fd < 0:
                self.open()
            locked = lock(self._fd, _PATIENCE)
            if self._has_its_name():
                return locked
            self.close()

    def _has_its_name(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _fitting(self, lines: list[bytes], done: int, size: int) -> int:
        """Return how far the lines may go into the file as it is."""
        if self._daily and size and int(time() // _DAY) != self._day:
            return done
        if self._max_bytes is None:
            return len(lines)
        fitting = done
        while fitting < len(lines) and size + len(lines[fitting]) <= self._max_bytes:
            size += len(lines[fitting])
            fitting += 1
        return fitting

    def _rotate(self) -> None:
        self._path.rename(self._archive.next_path())
        self.close()
        self._archive.tidy()

    def _write(self, lines: list[bytes], start: int, stop: int, size: int) -> tuple[int, OSError | None]:
        if size == 0:
            self._day = int(time() // _DAY)
        torn = self._torn if size == self._end else size > 0 and is_torn(self._fd)
        data = b"\n" * torn + b"".join(lines[start:stop])
        written = 0
        failure = None
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:] if written else data)
        except OSError as error:
            failure = error
        self._end = size + written
        self._torn = data[written - 1 : written] != b"\n" if written else torn
        if failure is None:
            return stop, None
        left = written - torn
        while start < stop and left >= len(lines[start]):
            left -= len(lines[start])
            start += 1
        return start, failure
