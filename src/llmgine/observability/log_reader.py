"""JSON Lines logs of any size, read a block at a time: only lines that may hold what is wanted are parsed."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush, merge
from typing import Any

from llmgine.observability.log_files import (
    UNREADABLE,
    LogFile,
    LogStream,
    open_log,
    parse_line,
    position_in,
    read_some,
    stamp_of,
)
from llmgine.observability.log_filter import LogFilter

__all__ = ["LogLine", "LogReader"]

_BLOCK = 1 << 18
"""Bytes; what is searched is still in the processor's cache when its lines are cut out."""
_LONGEST = 1 << 25
"""Bytes of a line. Anything longer is no event, and is not kept."""
_SKEW = 3600.0
"""Seconds by which an event's date may lie after the time at which its file was last written, as clocks differ."""
_STARTED = b'{"event_type":"CommandStartedEvent"'


@dataclass(frozen=True, slots=True)
class LogLine:
    """An event in a log."""

    raw: bytes
    """The line as it was written, without its end."""
    data: dict[str, Any]


class LogReader:
    """Reads the wanted events of some files, as often as it is asked. Lines that are broken are counted.

    A line without its end counts as the others do: it is an event, or it is broken. If something particular is wanted,
    only lines are counted that look as if they had it. A file that turns out to be damaged is read up to there.
    """

    def __init__(
        self,
        files: Iterable[LogFile],
        wanted: LogFilter | None = None,
        on_progress: Callable[[int], None] | None = None,
        on_command: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Prepare for reading.

        Args:
            files: in the order in which they begin.
            wanted: by default, everything is.
            on_progress: is told again and again how many bytes of the files have been read since it was last told.
            on_command: gets each `CommandStartedEvent` that is not wanted, where it had to be looked at all the same.
        """
        self.files = list(files)
        self.wanted = wanted if wanted is not None else LogFilter()
        self.broken = 0
        """Lines that were no events."""
        self.problems: list[str] = []
        """Files that could not be read to their end, and why."""
        self._everything = self.wanted == LogFilter()
        self._progress = on_progress or _ignore
        self._on_command = on_command

    def __iter__(self) -> Iterator[LogLine]:
        """Give the events file by file; of files whose times overlap, by date."""
        waiting = deque(file for file in self.files if not self._is_too_old(file))
        open_: list[tuple[str, int, LogLine, Iterator[LogLine]]] = []  # each with the date of its next event
        number = 0  # so that what is equally old is never compared further
        while waiting or open_:
            while waiting and (not open_ or waiting[0].began <= open_[0][0]):
                lines = self._read(waiting.popleft())
                for line in lines:
                    number += 1
                    heappush(open_, (stamp_of(line.data), number, line, lines))
                    break
            if not open_:
                continue
            _, _, line, lines = heappop(open_)
            yield line
            for following in lines:
                number += 1
                heappush(open_, (stamp_of(following.data), number, following, lines))
                break

    def last(self, count: int) -> list[LogLine]:
        """Return the last events, the latest at the end, without reading more than it takes to find them."""
        latest: list[LogLine] = []
        for file in sorted(self.files, key=lambda file: file.modified, reverse=True):
            if self._is_too_old(file) or (len(latest) >= count > 0 and _precedes(file, latest[0])):
                self._progress(file.size)
                continue
            found = deque(self._read(file), count) if file.is_compressed else self._read_backwards(file, count)
            latest = list(merge(found, latest, key=lambda line: stamp_of(line.data)))[-count:] if count > 0 else []
        return latest

    def _is_too_old(self, file: LogFile) -> bool:
        since = self.wanted.since
        return since is not None and file.modified + _SKEW < since.timestamp()

    def _read(self, file: LogFile) -> Iterator[LogLine]:
        try:
            with open_log(file) as stream:
                for block in self._blocks(file, stream):
                    yield from self.search(block)
        except UNREADABLE as error:
            self.problems.append(f"{file.path}: {error}")

    def _read_backwards(self, file: LogFile, count: int) -> Iterable[LogLine]:
        found: deque[LogLine] = deque()
        try:
            with open_log(file) as stream:
                for block in self._blocks_backwards(file, stream):
                    for line in reversed(list(self.search(block))):
                        found.appendleft(line)
                        if len(found) == count:
                            return found
        except OSError as error:
            self.problems.append(f"{file.path}: {error}")
        return found

    def search(self, block: bytes) -> Generator[LogLine]:
        """Give the wanted events of whole lines."""
        may_match, matches, everything = self.wanted.may_match, self.wanted.matches, self._everything
        note = self._on_command
        for raw in _candidates(block, self.wanted.needles):
            if not raw:
                continue
            if not (everything or may_match(raw)):
                if note is not None and raw.startswith(_STARTED) and (data := parse_line(raw)) is not None:
                    note(data)
                continue
            data = parse_line(raw)
            if data is None:
                self.broken += not raw.isspace()
            elif everything or matches(data):
                yield LogLine(raw, data)
            elif note is not None and data.get("event_type") == "CommandStartedEvent":
                note(data)

    def _blocks(self, file: LogFile, stream: LogStream) -> Generator[bytes]:
        """Give a file piece by piece, each of whole lines."""
        rest, told, skipping = b"", 0, False
        left = sys.maxsize if file.is_compressed else file.size
        while left > 0 and (block := read_some(stream, min(_BLOCK, left))):
            left -= len(block)
            end = block.rfind(b"\n") + 1
            if skipping:
                if end:
                    yield block[block.find(b"\n") + 1 : end]
                    rest, skipping = block[end:], False
            elif end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
                if len(rest) > _LONGEST:
                    self.broken += 1
                    rest, skipping = b"", True
            read = position_in(stream)
            self._progress(read - told)
            told = read
        if rest:
            yield rest
        self._progress(max(0, file.size - told))

    def _blocks_backwards(self, file: LogFile, stream: LogStream) -> Generator[bytes]:
        position, rest = file.size, b""
        while position:
            size = min(_BLOCK, position)
            position -= size
            stream.seek(position)
            block = stream.read(size) + rest
            start = block.find(b"\n") + 1 if position else 0
            if position and not start:
                start = len(block)
            yield block[start:]
            rest = block[:start]
            if len(rest) > _LONGEST:
                self.broken += 1
                rest = b""
            self._progress(size)


def _candidates(block: bytes, needles: tuple[bytes, ...]) -> Iterable[bytes]:
    """Return the lines that contain the first of the needles; without any, all lines."""
    return _lines_with(block, needles[0]) if needles else block.split(b"\n")


def _lines_with(block: bytes, needle: bytes) -> Generator[bytes]:
    at = block.find(needle)
    while at >= 0:
        end = block.find(b"\n", at)
        if end < 0:
            end = len(block)
        yield block[block.rfind(b"\n", 0, at) + 1 : end]
        at = block.find(needle, end)


def _precedes(file: LogFile, line: LogLine) -> bool:
    """Tell whether everything in a file is older than an event."""
    return datetime.fromtimestamp(file.modified + _SKEW, UTC).isoformat(timespec="microseconds") < stamp_of(line.data)


def _ignore(_: int) -> None:
    pass
