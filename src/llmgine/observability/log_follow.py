"""A log that is being written, as `tail -F` sees it: files grow, are cut off, renamed, compressed, and new ones appear.

A file is known by its number in the file system, and what was made of it, by compressing or copying it, by its first
line, which holds the id of its first event. So of such a copy exactly that is read which has not been read before.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import BinaryIO

from llmgine.observability.log_files import UNREADABLE, LogFile, LogStream, first_line, is_of_log, open_log, read_some

__all__ = ["LogFollower"]

_LOOK_EVERY = 2.0
"""Seconds after which the folder is read again, though nothing was added to it or renamed in it."""
_BLUR = 0.1
"""Seconds within which two changes of a folder may get the same date."""
_ASLEEP = 60.0
"""Seconds after which a file in which nothing is written is looked at only when the folder is read."""
_FORGOTTEN = 10.0
"""Seconds after which a file is gone that was not found. It may be missed once, if it is just being renamed."""
_OPEN = 100
"""Files that are kept open."""
_HEADS = 10_000
"""Files that are known by their first lines."""
_CHUNK = 1 << 20
_COPY = re.compile(r".+(\.\d+|\.gz)")
"""The names of compressed and numbered files, which may be made of others."""


@dataclass(slots=True)
class _Source:
    """A file, whatever its name has become."""

    path: Path
    is_copy: bool
    offset: int = 0
    """Bytes that have been read."""
    head: bytes = b""
    """Its first line; `b""` while it has none."""
    rest: bytes = b""
    """The line that is being written."""
    seen: tuple[int, float] = (-1, 0.0)
    """The size and the date that it had when it was last read."""
    stream: BinaryIO | None = None
    active: float = 0.0
    """When something was last written, by the monotonic clock."""
    missed: float | None = None
    """Since when it has not been found in its folder."""


class LogFollower:
    """Gives what is added to a file, or to the files of a folder, since it was made. `poll` it a few times a second.

    Nothing is missed and nothing is given twice, also of files that are begun, completed, renamed and compressed
    between two polls; save for what is deleted or cut off before it was read.

    A poll asks for the size of each file that was written to within the last minute, and for the folder's date; every
    other second the folder is read, so that files appear and wake up.
    """

    def __init__(self, path: Path, known: Iterable[LogFile] = ()) -> None:
        """Begin to follow.

        Args:
            path: a file, also under the names of former ones (see `former_logs`), or a folder; neither need be there.
            known: files of which everything up to their `size` has been read, a line's end; others are read from their
                beginning.
        """
        is_folder = path.is_dir() or not (path.is_file() or path.suffix)
        self._folder = path if is_folder else path.parent
        self._name = None if is_folder else path.name
        self._sources: dict[tuple[int, int], _Source] = {}
        self._awake: dict[tuple[int, int], _Source] = {}
        """Those to look into with each poll."""
        self._streams: OrderedDict[tuple[int, int], _Source] = OrderedDict()
        """Those that are open, the one in which something was found last at the end."""
        self._given: OrderedDict[bytes, int] = OrderedDict()
        """How many bytes, of whole lines, have been given of the file with a first line."""
        self._looked = -_LOOK_EVERY
        self._changed = -1
        for file in known:
            if file.key is None or file.key in self._sources:
                continue
            is_copy = _COPY.fullmatch(file.path.name) is not None
            active = monotonic() - max(0.0, time() - file.modified)
            source = _Source(file.path, is_copy, file.size, file.head, seen=(file.size, file.modified), active=active)
            self._sources[file.key] = source
            if not file.is_compressed:
                self._note(source.head, file.size)

    def poll(self) -> Generator[bytes]:
        """Give what has been written since the last time, in pieces of whole lines."""
        now = monotonic()
        self._look(now)
        for key, source in list(self._awake.items()):
            if source.is_copy:
                del self._awake[key]
                yield from self._read_copy(source, key)
            elif self._open(key, source):
                yield from self._read(key, source, now)
                if now > source.active + _ASLEEP:
                    self._sleep(key, source)

    def close(self) -> None:
        """Close the files."""
        for key, source in list(self._streams.items()):
            self._sleep(key, source)

    def _look(self, now: float) -> None:
        """Find out which files there are."""
        try:
            status = self._folder.stat()
            changed = status.st_mtime_ns
            settled = abs(time() - status.st_mtime) > _BLUR
        except OSError:
            changed, settled = -1, False
        if changed == self._changed and now < self._looked + _LOOK_EVERY:
            return
        self._changed, self._looked = changed if settled else -1, now
        here = self._scan(now)
        for key in [key for key in self._sources if key not in here]:
            source = self._sources[key]
            source.missed = source.missed or now
            # Renamed or deleted, and perhaps still written to by whoever has not noticed.
            if now > max(source.missed, source.active) + _FORGOTTEN:
                self._sleep(key, source)
                del self._sources[key]

    def _scan(self, now: float) -> set[tuple[int, int]]:
        here: set[tuple[int, int]] = set()
        try:
            names = sorted(path.name for path in self._folder.iterdir() if is_of_log(path.name, self._name))
        except OSError:
            return here
        for name in names:  # former files before those that came after them
            path = self._folder / name
            try:
                status = path.stat()
            except OSError:
                continue  # it is gone again, or not for us to read
            key = status.st_dev, status.st_ino
            here.add(key)
            source = self._source(key, path)
            if source.seen != (status.st_size, status.st_mtime):
                source.active = now
                self._awake[key] = source
            elif not source.is_copy and now < source.active + _ASLEEP:
                self._awake[key] = source
        return here

    def _source(self, key: tuple[int, int], path: Path) -> _Source:
        source = self._sources.get(key)
        is_copy = _COPY.fullmatch(path.name) is not None
        is_renamed = source is not None and source.head and is_copy and path.suffix != ".gz"
        if source is None or not (source.is_copy == is_copy or is_renamed):
            if source is not None:  # it is gone, and another file has got its number
                self._sleep(key, source)
            source = self._sources[key] = _Source(path, is_copy)
        source.path, source.missed = path, None
        return source

    def _open(self, key: tuple[int, int], source: _Source) -> bool:
        """Open a file that is not open yet; tell whether it is the one that was meant."""
        if source.stream is not None:
            return True
        try:
            stream = source.path.open("rb", buffering=0)
        except OSError as error:
            if isinstance(error, FileNotFoundError):  # it has another name by now
                self._changed = -1
            self._awake.pop(key, None)
            return False
        source.stream = stream
        self._awake[key] = self._streams[key] = source
        status = os.fstat(stream.fileno())
        if key != (status.st_dev, status.st_ino):
            self._changed = -1
            self._sleep(key, source)
            return False
        if len(self._streams) > _OPEN:
            idle, other = next(iter(self._streams.items()))
            other.active = 0.0
            self._sleep(idle, other)
        return True

    def _read(self, key: tuple[int, int], source: _Source, now: float) -> Generator[bytes]:
        stream = source.stream
        if stream is None:
            return
        status = os.fstat(stream.fileno())
        if source.seen == (status.st_size, status.st_mtime):
            return
        source.seen = status.st_size, status.st_mtime
        stream.seek(0)
        if status.st_size < source.offset or stream.read(len(source.head)) != source.head:
            # Cut off, or another file with the number of one that is gone.
            if _COPY.fullmatch(source.path.name):
                self._sleep(key, source)
                self._sources[key] = copy = _Source(source.path, is_copy=True)
                yield from self._read_copy(copy, key)
                return
            source.offset, source.head, source.rest = 0, b"", b""
        if status.st_size == source.offset:
            return
        source.active = now
        self._streams.move_to_end(key)
        stream.seek(source.offset)
        while chunk := stream.read(_CHUNK):
            begin = source.offset - len(source.rest)
            source.offset += len(chunk)
            end = chunk.rfind(b"\n") + 1
            if not end:
                source.rest += chunk
                continue
            lines = source.rest + chunk[:end]
            source.rest = chunk[end:]
            if begin == 0:
                source.head = first_line(lines)
            self._note(source.head, begin + len(lines))
            yield lines

    def _read_copy(self, source: _Source, key: tuple[int, int]) -> Generator[bytes]:
        """Read what has not been given of a file that may be made of another, from that on which the two agree."""
        try:
            with open_log(LogFile(source.path, 0, "", 0.0, key)) as stream:
                status = os.fstat(stream.fileno())
                source.seen = status.st_size, status.st_mtime
                head = _head_of(stream)
                if head is None:
                    return
                begin, rest = self._given.get(head, 0), b""
                stream.seek(begin)
                while chunk := read_some(stream, _CHUNK):
                    end = chunk.rfind(b"\n") + 1
                    if not end:
                        rest += chunk
                        continue
                    lines = rest + chunk[:end]
                    rest = chunk[end:]
                    begin += len(lines)
                    self._note(head, begin)
                    yield lines
        except FileNotFoundError:  # it has another name by now
            self._changed = -1
        except UNREADABLE:  # it is damaged, or not complete yet; when it changes it is read again
            return

    def _note(self, head: bytes, given: int) -> None:
        if head:
            self._given[head] = given
            self._given.move_to_end(head)
            if len(self._given) > _HEADS:
                self._given.popitem(last=False)

    def _sleep(self, key: tuple[int, int], source: _Source) -> None:
        self._awake.pop(key, None)
        self._streams.pop(key, None)
        if source.stream is not None:
            source.stream.close()
            source.stream = None


def _head_of(stream: LogStream) -> bytes | None:
    """Return the first line by which a file is known; None while it has none."""
    begun = b""
    while b"\n" not in begun and first_line(begun) == begun and (more := read_some(stream, _CHUNK)):
        begun += more
    return first_line(begun) if b"\n" in begun or first_line(begun) != begun else None
