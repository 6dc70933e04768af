"""How far something long has come: one line on standard error, where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOBase
from time import monotonic
from types import TracebackType
from typing import Self

from llmgine.cli.log_text import size
from llmgine.observability.log_files import LogFile

__all__ = ["Counted", "Progress"]

_PATIENCE = 0.5
"""Seconds that nobody minds."""
_EVERY = 0.1
_BAR = 24


class Counted:
    """Draws a bar from the second half of the first second on, until it is left."""

    def __init__(self, what: str, total: int | None) -> None:
        """Say what is counted.

        Args:
            what: many of it, such as "events".
            total: how many there are; None if nobody knows.
        """
        self._what = what
        self._total = total
        self._drawn = False
        self._stream = sys.stderr
        self._watched = sys.stderr is not None and sys.stderr.isatty()

        self.restart()

    def restart(self) -> None:
        """Begin at the beginning."""
        self._done = 0
        self._began = monotonic()
        self._next = self._began + _PATIENCE

    def advance(self, count: int = 1) -> None:
        """Note that so many more have been done."""
        self._done += count
        if self._watched and (now := monotonic()) >= self._next:
            self._next = now + _EVERY
            self._draw(now - self._began)

    def hide(self) -> None:
        """Take the line away, so that something else can be written; it comes back."""
        if self._drawn:
            self._drawn = False
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    @contextmanager
    def among_others(self) -> Generator[None]:
        """Take the line away whenever somebody else writes, also to standard output, which becomes standard error."""
        others = _Others(self) if self._watched else sys.stderr
        with redirect_stdout(others), redirect_stderr(others):
            yield

    def _draw(self, elapsed: float) -> None:
        if self._total is None:
            line = f"{self._done:,} {self._what}, {self._rate(elapsed)}"
        else:
            share = min(1.0, self._done / self._total) if self._total else 1.0
            done = round(share * _BAR)
            left = f", {max(1, round(elapsed / share * (1 - share)))} s left" if share > 0.02 else ""
            line = f"{'━' * done}{'╌' * (_BAR - done)} {share:4.0%} of {self._amount()}, {self._rate(elapsed)}{left}"
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
        self._drawn = True

    def _amount(self) -> str:
        return f"{self._total or 0:,} {self._what}"

    def _rate(self, elapsed: float) -> str:
        return f"{self._done / elapsed:,.1f}/s"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()


class _Others(TextIOBase):
    """What others write to."""

    def __init__(self, progress: Counted) -> None:
        self._progress = progress
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        self._progress.hide()
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return True


class Progress(Counted):
    """The same for the bytes of files that are read."""

    def __init__(self, files: Sequence[LogFile]) -> None:
        super().__init__("bytes", sum(file.size for file in files))

    def _amount(self) -> str:
        return size(self._total or 0)

    def _rate(self, elapsed: float) -> str:
        return f"{size(self._done / elapsed)}/s"
