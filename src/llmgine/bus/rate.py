"""No more than so many in a second: by refusing what is too much, or by making it wait its turn."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from llmgine.errors import ConfigurationError

__all__ = ["TokenBuckets", "Turns", "check_rate"]


def check_rate(max_per_second: Any) -> None:
    """Raise ConfigurationError unless this is a positive, finite number."""
    if not (isinstance(max_per_second, int | float) and 0 < max_per_second < math.inf):
        msg = f"max_per_second must be a positive, finite number, such as 10 or 0.5; got {max_per_second!r}."
        raise ConfigurationError(msg)


class TokenBuckets:
    """A token bucket for each key, filled at one rate.

    A bucket begins full and holds `rate` tokens, at least one. One that is full again is forgotten, because a new one
    would be the same: what is held are the keys that took a token within the last two times that filling takes.
    """

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        """Fill every bucket with `rate` tokens per second of `clock`."""
        self._rate = rate
        self._capacity = max(1.0, rate)
        self._filling = self._capacity / rate
        self._clock = clock
        # By key: how many tokens were left when the last one was taken, and when that was.
        self._recent: dict[Hashable, tuple[float, float]] = {}
        self._older: dict[Hashable, tuple[float, float]] = {}
        self._turned = clock()

    def take(self, key: Hashable) -> bool:
        """Take a token from the key's bucket; return False, and take nothing, if there is none."""
        now = self._clock()
        age = now - self._turned
        if age >= self._filling:
            # Whatever lies in `_older` has not been touched since the last turn, and is full.
            self._older = self._recent if age < 2 * self._filling else {}
            self._recent = {}
            self._turned = now
        tokens = self._capacity
        bucket = self._recent.get(key) or self._older.get(key)
        if bucket is not None:
            left, since = bucket
            tokens = min(tokens, left + (now - since) * self._rate)
        if tokens < 1:
            return False
        self._recent[key] = (tokens - 1, now)
        return True

    def __len__(self) -> int:
        """Return for how many keys there is a bucket at present."""
        return len(self._recent.keys() | self._older.keys())


class _Queue:
    """The callers of one type on one event loop; the lock serves them in the order in which they came."""

    __slots__ = ("callers", "first")

    def __init__(self) -> None:
        self.callers = 0
        self.first = asyncio.Lock()


class Turns:
    """Gives callers their turns, at least `interval` seconds apart for each type, in the order in which they asked.

    A caller that is cancelled while it waits uses up no turn.
    """

    def __init__(
        self, interval: float, *, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        self._next: dict[type, float] = {}
        # A lock belongs to one event loop, and whoever owns this object may be used on several.
        self._queues: dict[tuple[asyncio.AbstractEventLoop, type], _Queue] = {}

    async def wait(self, kind: type) -> None:
        """Return when it is the caller's turn."""
        place = (asyncio.get_running_loop(), kind)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue()
        queue.callers += 1
        try:
            async with queue.first:
                # More than once where a timer fires early, or another loop was faster.
                while (left := self._next.get(kind, -math.inf) - self._clock()) > 0:
                    await self._sleep(left)
                self._next[kind] = self._clock() + self._interval
        finally:
            queue.callers -= 1
            if not queue.callers:
                del self._queues[place]
