"""The time that an attempt has. It stands still while a person is asked: their thinking is not the tool's slowness."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress

__all__ = ["AttemptClock"]


class AttemptClock:
    """Runs while nobody is waited for. Belongs to the event loop of the attempt."""

    def __init__(self, limit: asyncio.Timeout, final: float | None) -> None:
        """Take over a timeout.

        Args:
            limit: of the attempt.
            final: when the attempt must end in any case, in seconds of the loop's clock; None for never.
        """
        self._limit = limit
        self._final = final
        self._stopped = 0
        self._left: float | None = None

    @contextmanager
    def stopped(self) -> Generator[float | None]:
        """Stop it for the block, and give the time that holds all the same, in seconds of the loop's clock, or None."""
        now = asyncio.get_running_loop().time
        if not self._stopped:
            when = self._limit.when()
            self._left = None if when is None else when - now()
            self._set(self._final)
        self._stopped += 1
        try:
            yield self._final
        finally:
            self._stopped -= 1
            if not self._stopped and self._left is not None:
                again = now() + self._left
                self._set(again if self._final is None else min(again, self._final))

    def _set(self, when: float | None) -> None:
        with suppress(RuntimeError):  # the attempt has ended meanwhile
            self._limit.reschedule(when)
