"""A log that is being written, as `tail -F` sees it: files grow, are cut off, are renamed, and new ones appear."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import BinaryIO

from llmgine.observability.log_files import LogFile

__all__ = ["LogFollower"]

_LOOK_EVERY = 2.0
"""Seconds after which the folder is read again, though nothing was added to it or renamed in it."""
_ASLEEP = 60.0
"""Seconds after which a file in which nothing is written is looked at only when the folder is read."""
_CHUNK = 1 << 20
_LIVE = re.compile(r".+\.jsonl")
"""What a writer writes to; compressed and numbered files are done with."""


@dataclass(slots=True)
class _Source:
    """A file that is followed, whatever its name has become."""

    offset: int
    stream: BinaryIO | None = None
    rest: bytes = b""
    """The line that is being written."""
    active: float = 0.0
    """When something was last written, by the monotonic clock."""
    gone: bool = False
    """Whether it was missing when the folder was last read."""


class LogFollower:
    """Gives what is added to a file, or to the files of a folder, since it was made. `poll` it a few times a second.

    A poll asks for the size of each file that was written to within the last minute, and for the folder's date; every
    other second the folder is read, so that files appear and wake up.

    What is written and gone between two polls is missed: a file that is begun, completed and compressed, or one that is
    cut off and has grown to more than its size again.
    """

    def __init__(self, path: Path, known: Iterable[LogFile] = ()) -> None:
        """Begin to follow.

        Args:
            path: a file or a folder; neither need be there yet.
            known: files of which everything up to their `size` has been read, a line's end; others are read from their
                beginning.
        """
        is_folder = path.is_dir() or not (path.is_file() or path.suffix)
        self._folder = path if is_folder else path.parent
        self._name = None if is_folder else path.name
        self._sources: dict[tuple[int, int], _Source] = {}
        self._looked = -_LOOK_EVERY
        self._changed = -1
        for file in known:
            status = file.path.stat()
            active = monotonic() - max(0.0, time() - file.modified)
            self._sources[status.st_dev, status.st_ino] = _Source(file.size, active=active)

    def poll(self) -> Generator[bytes]:
        """Give what has been written since the last time, in pieces of whole lines."""
        now = monotonic()
        self._look(now)
        for source in self._sources.values():
            if source.stream is not None:
                yield from _added(source, now)

    def close(self) -> None:
        """Close the files."""
        for source in self._sources.values():
            _sleep(source)

    def _look(self, now: float) -> None:
        """Find out which files there are."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            changed = -1
        if changed == self._changed and now < self._looked + _LOOK_EVERY:
            return
        self._changed, self._looked = changed, now
        here = self._scan(now)
        for key in [key for key in self._sources if key not in here]:
            source = self._sources[key]
            # Renamed or deleted, and perhaps still written to by whoever has not noticed.
            if source.stream is None or (source.gone and now > source.active + _LOOK_EVERY):
                _sleep(source)
                del self._sources[key]
            source.gone = True

    def _scan(self, now: float) -> set[tuple[int, int]]:
        here: set[tuple[int, int]] = set()
        try:
            entries = list(os.scandir(self._folder))
        except OSError:
            return here
        for entry in entries:
            if entry.name != self._name if self._name is not None else not _LIVE.fullmatch(entry.name):
                continue
            try:
                status = Path(entry.path).stat()  # an entry's own does not say which file it is on Windows
                key = status.st_dev, status.st_ino
                here.add(key)
                source = self._sources.setdefault(key, _Source(0))
                source.gone = False
                if source.stream is None and (status.st_size != source.offset or now < source.active + _ASLEEP):
                    source.stream = Path(entry.path).open("rb", buffering=0)  # noqa: SIM115  # closed by _sleep
                    source.active = now
            except OSError:
                continue  # it is gone again, or not for us to read
        return here


def _added(source: _Source, now: float) -> Generator[bytes]:
    stream = source.stream
    if stream is None:
        return
    size = os.fstat(stream.fileno()).st_size
    if size == source.offset:
        if now > source.active + _ASLEEP:
            _sleep(source)
        return
    if size < source.offset:  # cut off: what is there is new
        source.offset, source.rest = 0, b""
    source.active = now
    stream.seek(source.offset)
    while chunk := stream.read(_CHUNK):
        source.offset += len(chunk)
        end = chunk.rfind(b"\n") + 1
        if end:
            yield source.rest + chunk[:end]
            source.rest = chunk[end:]
        else:
            source.rest += chunk


def _sleep(source: _Source) -> None:
    if source.stream is not None:
        source.stream.close()
        source.stream = None
