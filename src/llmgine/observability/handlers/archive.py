"""The files that a log was: their names, which sort by time, and what becomes of them."""

from __future__ import annotations

import gzip
import logging
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock, Thread

from llmgine.observability.handlers.file_lock import lock

__all__ = ["Archive"]

_log = logging.getLogger("llmgine.observability")

_STAMP = "%Y-%m-%dT%H-%M-%S.%fZ"
_PATIENCE = 0.5
"""Seconds to wait for those who find that a file is not the log any more. Who has it for longer compresses it."""


class Archive:
    """The files that `name.jsonl` was: `name.<UTC time>.jsonl`, or `name.<UTC time>.jsonl.gz`."""

    def __init__(
        self, path: Path, *, compress: bool = False, keep: int | None = None, keep_days: float | None = None
    ) -> None:
        """Look after the former files of a log.

        Args:
            path: where the log is written.
            compress: replace each by a compressed one.
            keep: how many to leave, the newest.
            keep_days: how old they may become.
        """
        self._path = path
        self._compress = compress
        self._keep = keep
        self._keep_days = keep_days
        self._name = re.compile(
            re.escape(path.stem) + r"\.(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}Z_*)" + re.escape(path.suffix) + r"(\.gz)?"
        )
        self._tidying = Lock()
        self._failing = False
        self.thread: Thread | None = None
        """What tidies up; it ends by itself."""
        self.at_exit = False
        """The interpreter no longer waits for threads."""

    def next_path(self) -> Path:
        """Return the name for a file that is now complete, after all others even if the clock was set back."""
        stamp = datetime.now(UTC).strftime(_STAMP)
        latest = max((stamp for stamp, _ in self._files()), default="")
        if stamp <= latest:
            stamp = f"{latest}_"
        return self._path.with_name(f"{self._path.stem}.{stamp}{self._path.suffix}")

    def tidy(self) -> None:
        """Compress and delete what is due, in a thread, which the interpreter waits for when it ends."""
        if self._compress or self._keep is not None or self._keep_days is not None:
            self.thread = Thread(target=self._tidy, name="llmgine-log-archive")
            try:
                if not self.at_exit:
                    self.thread.start()
                    return
            except RuntimeError:  # the system has no more threads
                pass
            self._tidy()

    def after_fork(self) -> None:
        """Begin anew in a child process, which has no threads."""
        self._tidying = Lock()

    def _tidy(self) -> None:
        with self._tidying:
            try:
                for path in self._outdated():
                    path.unlink(missing_ok=True)
                if self._compress:
                    for _, path in self._files():
                        if path.suffix != ".gz":
                            _compress(path)
            except OSError as error:
                if not self._failing:
                    self._failing = True
                    _log.warning("Former files of the log %s are left as they are: %s", self._path, error)
            else:
                self._failing = False

    def _outdated(self) -> list[Path]:
        stamps = sorted({stamp for stamp, _ in self._files()}, reverse=True)  # of a file and its compressed copy, one
        outdated = set() if self._keep is None else set(stamps[self._keep :])
        if self._keep_days is not None:
            oldest = (datetime.now(UTC) - timedelta(days=self._keep_days)).strftime(_STAMP)
            outdated.update(stamp for stamp in stamps if stamp < oldest)
        return [path for stamp, path in self._files() if stamp in outdated]

    def _files(self) -> list[tuple[str, Path]]:
        matches = ((self._name.fullmatch(path.name), path) for path in self._path.parent.iterdir())
        return sorted((match[1], path) for match, path in matches if match is not None)


def _compress(path: Path) -> None:
    """Replace a file by a compressed one, unless somebody else is about to."""
    compressed = path.with_name(f"{path.name}.gz")
    part = path.with_name(f"{path.name}.gz.part")
    with suppress(FileNotFoundError), path.open("rb") as source:
        if not lock(source.fileno(), _PATIENCE) or not path.exists():
            return
        try:
            if not compressed.exists():  # or else whoever made it was killed before it could delete this one
                with gzip.open(part, "wb", compresslevel=6) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                part.replace(compressed)
            path.unlink()
        finally:
            part.unlink(missing_ok=True)
