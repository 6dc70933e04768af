"""Nobody waits for ever: a stream from which nothing comes for too long is over."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

__all__ = ["SilenceError", "StallTimer"]


class SilenceError(Exception):
    """Nothing came in time. Whoever reads the stream says it in a `ProviderError`."""


class StallTimer:
    """Cancels what a task waits for, within the block, when it has waited too long. The block raises then.

    Waiting begins with the block. The time between `pause` and `wait` does not count. Pieces come far more often than
    the timer runs out, so it is not moved with each: when it runs out, it looks how long the wait has lasted.

    Args:
        seconds: how long each wait may last.

    Raises:
        SilenceError: by the end of the block: a wait lasted too long, and has been cancelled.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._runs_out = 0.0
        self._waiting: asyncio.Task[Any] | None = None
        self._cancellations = 0
        """How often that task had been asked to cancel before it waited."""
        self._deadline = 0.0
        self._cancelled: asyncio.Task[Any] | None = None
        """The task whose wait lasted too long, until it is known what came of that."""

    def __enter__(self) -> Self:
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
        # A cancellation from elsewhere that came meanwhile is not ours to take back.
        if self._cancelled is not None and self._take_back() and kind is asyncio.CancelledError:
            raise SilenceError from error

    def wait(self) -> None:
        """Begin to wait for the next piece, in the current task."""
        self._waiting = task = asyncio.current_task(self._loop)
        if task is None:
            return
        self._cancellations = task.cancelling()
        self._deadline = self._loop.time() + self._seconds
        if self._timer is None:
            self._set()

    def pause(self) -> None:
        """Stop to wait: a piece has come."""
        self._waiting = None
        if self._cancelled is not None:  # and came in spite of it
            self._take_back()

    def _set(self) -> None:
        self._runs_out = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        """See, when the timer has run out, whether somebody has waited for that long."""
        self._timer = None
        if self._waiting is None:
            return  # the next wait sets it
        if self._runs_out < self._deadline:
            self._set()
            return
        self._cancelled = self._waiting
        self._cancelled.cancel()

    def _take_back(self) -> bool:
        """Take our cancellation back. Return whether there was none but ours."""
        task, self._cancelled = self._cancelled, None
        return task is not None and task.uncancel() <= self._cancellations
