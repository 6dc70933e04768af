"""The files of a log: which there are, in which order they begin, and how they are opened."""

from __future__ import annotations

import errno
import gzip
import os
import re
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias, cast

import orjson

from llmgine.errors import ConfigurationError
from llmgine.observability.log_filter import instant_of

__all__ = [
    "UNREADABLE",
    "LogFile",
    "LogStream",
    "find_logs",
    "first_line",
    "former_logs",
    "is_of_log",
    "open_log",
    "parse_line",
    "position_in",
    "read_some",
    "stamp_of",
]

LogStream: TypeAlias = "FileIO | gzip.GzipFile"
UNREADABLE = (OSError, EOFError, zlib.error)
"""What is raised where a file is cut off or damaged."""
_HEAD = 1 << 16
"""Bytes in which a file's first date is looked for."""
_BLOCK = 1 << 18
_FIRST = 1 << 10
"""Bytes of a file's first line by which it is known; they hold the id of its first event."""
_NAME = re.compile(r".+\.jsonl(\.\d+)?(\.gz)?")
_STAMP = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}Z_*"
"""What a log that is begun anew has put into the name of the former file."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of a log, as far as it was written when it was found."""

    path: Path
    size: int
    """Bytes, compressed or not."""
    began: str
    """The date of its first event, ISO 8601; "" if none was found."""
    modified: float
    """When it was last written, in seconds since 1970."""
    key: tuple[int, int] | None = None
    """Which file had this name: its device and its number there."""
    head: bytes = b""
    """Its first line, as far as files are told apart by it; `b""` if it has none yet."""

    @property
    def is_compressed(self) -> bool:
        """Whether it has to be read from its beginning."""
        return self.path.suffix == ".gz"

    @classmethod
    def of(cls, path: Path, *, whole_lines: bool = False) -> LogFile:
        """Look at a file.

        Args:
            path: where it is.
            whole_lines: leave out the line at its end that is still being written, if it is not compressed.

        Raises:
            OSError: it cannot be read.
        """
        file = cls(path, 0, "", 0.0)
        with open_log(file) as stream:
            status = os.fstat(stream.fileno())
            try:
                head = read_some(stream, _HEAD)
            except UNREADABLE:
                head = b""
            size = status.st_size
            if whole_lines and not file.is_compressed:
                size = _end_of_lines(stream, size)
        dates = (stamp_of(data) for line in head.splitlines() if (data := parse_line(line)) is not None)
        began = next(filter(None, dates), "")
        key = status.st_dev, status.st_ino
        return cls(path, size, began, status.st_mtime, key, first_line(head) if size else b"")


def _end_of_lines(stream: LogStream, end: int) -> int:
    while end > 0:
        begin = max(0, end - _BLOCK)
        stream.seek(begin)
        found = stream.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def find_logs(path: Path, *, whole_lines: bool = False) -> list[LogFile]:
    """Return the files of a log in the order in which they begin: one file, or those of a folder, also rotated ones.

    Args:
        path: the file, or the folder.
        whole_lines: leave out lines that are still being written.

    Raises:
        ConfigurationError: there is no such file or folder.
        OSError: it cannot be read.
    """
    if path.is_file():
        return [LogFile.of(path, whole_lines=whole_lines)]
    if not path.is_dir():
        msg = f"There is no file or folder {str(path)!r}. Name the log, or the folder where it is."
        raise ConfigurationError(msg)
    names = {entry.name for entry in path.iterdir() if is_of_log(entry.name) and entry.is_file()}
    # A file is there twice for a moment while it is being compressed.
    once = {name for name in names if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in names}
    return _look_at(path, once, whole_lines=whole_lines)


def former_logs(path: Path) -> list[LogFile]:
    """Return what a file was before it was begun anew, in the order in which these files begin.

    Raises:
        OSError: the folder cannot be read.
    """
    names = {each.name for each in path.parent.iterdir() if each.name != path.name and is_of_log(each.name, path.name)}
    return _look_at(path.parent, names, whole_lines=True)


def is_of_log(name: str, log: str | None = None) -> bool:
    """Tell whether a name is that of a log's file, former and compressed ones included.

    Args:
        name: of a file.
        log: the file that is written; by default any.
    """
    if log is None:
        return _NAME.fullmatch(name) is not None
    return _names_of(log).fullmatch(name) is not None


@lru_cache(maxsize=8)
def _names_of(log: str) -> re.Pattern[str]:
    path = Path(log)
    return re.compile(rf"{re.escape(path.stem)}(\.{_STAMP})?{re.escape(path.suffix)}(\.\d+)?(\.gz)?")


def _look_at(folder: Path, names: set[str], *, whole_lines: bool) -> list[LogFile]:
    files: list[LogFile] = []
    for name in sorted(names, key=lambda name: (_is_former(name), name)):  # first those that may be renamed any moment
        with suppress(FileNotFoundError):  # renamed or deleted meanwhile
            files.append(LogFile.of(folder / name, whole_lines=whole_lines))
    return sorted(files, key=lambda file: (file.began, file.path.name))


def _is_former(name: str) -> bool:
    return re.search(rf"\.{_STAMP}\.|\.\d+$|\.gz$", name) is not None


def first_line(head: bytes) -> bytes:
    """Return of a file's beginning that by which the file is told from others."""
    return head[:_FIRST].partition(b"\n")[0]


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the event on a line; None if the line is broken."""
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", data) if isinstance(data, dict) else None


@contextmanager
def open_log(file: LogFile) -> Generator[LogStream]:
    """Open a file, whose bytes come uncompressed.

    Raises:
        OSError: it cannot be read, or it is not the one that had the name when it was found.
    """
    with file.path.open("rb", buffering=0) as raw:
        status = os.fstat(raw.fileno())
        if file.key is not None and file.key != (status.st_dev, status.st_ino):
            raise FileNotFoundError(errno.ENOENT, "it was begun anew meanwhile", str(file.path))
        if file.is_compressed:
            with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                yield stream
        else:
            yield raw


def read_some(stream: LogStream, size: int) -> bytes:
    """Read at most so many bytes; of a damaged file first what comes before the damage."""
    return stream.read1(size) if isinstance(stream, gzip.GzipFile) else stream.read(size)


def position_in(stream: LogStream) -> int:
    """Return how much of the file itself has been read."""
    return cast("FileIO", stream.fileobj).tell() if isinstance(stream, gzip.GzipFile) else stream.tell()


def stamp_of(data: dict[str, Any]) -> str:
    """Return an event's date in the one form that sorts; "" if it has none."""
    stamp = data.get("timestamp")
    if isinstance(stamp, str) and len(stamp) == 32 and stamp.endswith("+00:00"):
        return stamp
    when = instant_of(data)
    return "" if when is None else when.astimezone(UTC).isoformat(timespec="microseconds")
