"""Counting what happened within the last so many seconds, in little memory."""

from __future__ import annotations

from collections import deque

__all__ = ["Window"]

_BUCKETS = 100


class Window:
    """Calls, and failures among them, within the last seconds.

    They are counted in buckets of a hundredth of the window, so that a call is forgotten when it is that old, or up to
    a hundredth later. Adding one costs the same whatever their number.
    """

    __slots__ = ("_buckets", "_calls", "_failures", "_newest", "_width")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / _BUCKETS
        self._buckets: deque[list[int]] = deque()
        """The number of each bucket since the clock's beginning, its calls, its failures; the oldest first."""
        self._newest = [-1, 0, 0]
        self._calls = 0
        self._failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        """Count a call."""
        number = int(now / self._width)
        bucket = self._newest
        if bucket[0] != number:
            self._forget(number)
            bucket = self._newest = [number, 0, 0]
            self._buckets.append(bucket)
        bucket[1] += 1
        bucket[2] += failed
        self._calls += 1
        self._failures += failed

    def counted(self, now: float) -> tuple[int, int]:
        """Return how many calls and how many failures there were."""
        self._forget(int(now / self._width))
        return self._calls, self._failures

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._newest = [-1, 0, 0]
        self._calls = self._failures = 0

    def _forget(self, number: int) -> None:
        buckets = self._buckets
        while buckets and number - buckets[0][0] > _BUCKETS:
            _, calls, failures = buckets.popleft()
            self._calls -= calls
            self._failures -= failures
