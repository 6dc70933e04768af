"""How far a long reading has come: one line on standard error, where a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import Self

from llmgine.cli.log_text import size
from llmgine.observability.log_files import LogFile

__all__ = ["Progress"]

_PATIENCE = 0.5
"""Seconds that nobody minds."""
_EVERY = 0.1
_BAR = 24


class Progress:
    """Draws a bar from the second half of the first second on, until it is left."""

    def __init__(self, files: Sequence[LogFile]) -> None:
        self._total = sum(file.size for file in files)
        self._drawn = False
        self._watched = sys.stderr is not None and sys.stderr.isatty()

        self.restart()

    def restart(self) -> None:
        """Begin to read from the beginning."""
        self._read = 0
        self._began = monotonic()
        self._next = self._began + _PATIENCE

    def advance(self, count: int) -> None:
        """Note that so many more bytes have been read."""
        self._read += count
        if self._watched and (now := monotonic()) >= self._next:
            self._next = now + _EVERY
            self._draw(now - self._began)

    def hide(self) -> None:
        """Take the line away, so that something else can be written; it comes back."""
        if self._drawn:
            self._drawn = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self, elapsed: float) -> None:
        share = min(1.0, self._read / self._total) if self._total else 1.0
        done = round(share * _BAR)
        left = f", {max(1, round(elapsed / share * (1 - share)))} s left" if share > 0.02 else ""
        bar = f"{'━' * done}{'╌' * (_BAR - done)}"
        speed = size(self._read / elapsed)
        sys.stderr.write(f"\r\x1b[K{bar} {share:4.0%} of {size(self._total)}, {speed}/s{left}")
        sys.stderr.flush()
        self._drawn = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()
