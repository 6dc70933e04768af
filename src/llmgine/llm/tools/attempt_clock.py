"""The time that an attempt has. It stands still while a person is asked: their thinking is not the tool's slowness."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["AttemptClock"]


class AttemptClock:
    """Runs while nobody is waited for, and cancels the attempt when it is over. Belongs to its event loop."""

    def __init__(self, when: float | None, final: float | None) -> None:
        """Set it.

        Args:
            when: when the attempt is cancelled, in seconds of the loop's clock; None for never.
            final: when it must end in any case, whoever is waited for; None for never.
        """
        self.expired = False
        """Whether the attempt has been cancelled because it took too long."""
        self.ended = False
        """Whether the attempt is over."""
        self._loop = asyncio.get_running_loop()
        self._when = when
        self._final = final
        self._stopped = 0
        self._left: float | None = None
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, task: asyncio.Task[object]) -> None:
        """Run, for the task that is the attempt."""
        self._task = task
        self._set(self._when)

    def end(self) -> None:
        """Take note that the attempt is over."""
        self.ended = True
        self._set(None)

    @contextmanager
    def stopped(self) -> Generator[float | None]:
        """Stop it for the block, and give the time that holds all the same, in seconds of the loop's clock, or None."""
        now = self._loop.time
        if not self._stopped:
            self._left = None if self._when is None else self._when - now()
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._when = when
        task = self._task
        if when is not None and task is not None and not (self.ended or self.expired):
            self._timer = self._loop.call_at(when, self._expire, task)

    def _expire(self, task: asyncio.Task[object]) -> None:
        self.expired = task.cancel()
