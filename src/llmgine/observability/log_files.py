"""The files of a log: which there are, in which order they begin, and how they are opened."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC
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
_NAME = re.compile(r".+\.jsonl(\.\d+)?(\.gz)?")


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

    @property
    def is_compressed(self) -> bool:
        """Whether it has to be read from its beginning."""
        return self.path.suffix == ".gz"

    def whole_lines(self) -> LogFile:
        """Return it without the line at its end that is still being written, if it is not compressed.

        Raises:
            OSError: it cannot be read.
        """
        end = self.size
        with open_log(self) as stream:
            while end > 0 and not self.is_compressed:
                begin = max(0, end - _BLOCK)
                stream.seek(begin)
                found = stream.read(end - begin).rfind(b"\n")
                if found >= 0:
                    return replace(self, size=begin + found + 1)
                end = begin
        return replace(self, size=end)

    @classmethod
    def of(cls, path: Path) -> LogFile:
        """Look at a file.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        file = cls(path, status.st_size, "", status.st_mtime)
        with open_log(file) as stream:
            try:
                head = read_some(stream, _HEAD)
            except UNREADABLE:
                head = b""
        dates = (stamp_of(data) for line in head.splitlines() if (data := parse_line(line)) is not None)
        return cls(path, status.st_size, next(filter(None, dates), ""), status.st_mtime)


def find_logs(path: Path) -> list[LogFile]:
    """Return the files of a log in the order in which they begin: one file, or those of a folder, also rotated ones.

    Raises:
        ConfigurationError: there is no such file or folder.
        OSError: it cannot be read.
    """
    if path.is_file():
        return [LogFile.of(path)]
    if not path.is_dir():
        msg = f"There is no file or folder {str(path)!r}. Name the log, or the folder where it is."
        raise ConfigurationError(msg)
    names = {entry.name for entry in path.iterdir() if _NAME.fullmatch(entry.name) and entry.is_file()}
    # A file is there twice for a moment while it is being compressed.
    files: list[LogFile] = []
    for name in names:
        if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in names:
            with suppress(FileNotFoundError):  # renamed or deleted meanwhile
                files.append(LogFile.of(path / name))
    return sorted(files, key=lambda file: (file.began, file.path.name))


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
        OSError: it cannot be read.
    """
    with file.path.open("rb", buffering=0) as raw:
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
