"""A distribution of durations in fixed memory: observations become counts between fixed bounds, a batch at a time."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise
from math import ceil, inf, isnan, log
from threading import Lock
from typing import Any

__all__ = ["BATCH", "Histogram"]

BATCH = 256
"""Observations that wait to be counted together: sorting them costs less than a search for each."""
_RATIO = 1.105
"""The most by which a fine bound exceeds the one below, so that a value between them is known to 5 %."""
_PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}
_COARSE = (
    *(1e-6, 1e-5, 1e-4, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(25.0, 50.0, 100.0, 1000.0, inf),
)


def _fine_bounds() -> tuple[float, ...]:
    """Return bounds from 100 ns to 1000 s and infinity, in even steps between 1, 2.5 and 5 of each power of ten."""
    steps = [float(f"{digits}e{exponent}") for exponent in range(-7, 3) for digits in ("1", "2.5", "5")]
    bounds: list[float] = []
    for low, high in pairwise([*steps, 1000.0]):
        parts = ceil(log(high / low) / log(_RATIO))
        bounds += [low * (high / low) ** (part / parts) for part in range(parts)]
    return (*bounds, 1000.0, inf)


_BOUNDS = _fine_bounds()
_COARSE_INDEX = {bound: _BOUNDS.index(bound) for bound in _COARSE}


class Histogram:
    """How durations, in seconds, are distributed.

    A percentile is the observation of the nearest rank, with an error of at most 5 %, where that lies between 100 ns
    and 1000 s; outside, the limit stands for it. No percentile is below the smallest or above the largest observation.
    Counts and buckets are exact. A histogram takes up to 12 KB, whatever the number of observations. Every method may
    be called from any thread, and no observation is lost.
    """

    __slots__ = ("_counts", "_largest", "_lock", "_smallest", "_sum", "description", "name", "pending")

    def __init__(self, name: str, description: str = "") -> None:
        self.name = name
        self.description = description
        self._lock = Lock()
        self.pending: list[float] = []
        """Observed and not counted yet; the same list for ever.

        Where a call of `observe` is too dear, append floats here, from any thread, and `flush` when there are `BATCH`.
        """
        self._forget()

    def observe(self, seconds: float) -> None:
        """Count a duration. A negative one counts as 0, NaN does not count."""
        pending = self.pending
        pending.append(seconds + 0.0)  # what is not a number fails here, in the hands of its owner
        if len(pending) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Count what is pending. Never waits: while another thread counts or reads, it is left for the next flush."""
        if self._lock.acquire(blocking=False):
            try:
                self._count_pending()
            finally:
                self._lock.release()

    def snapshot(self) -> dict[str, Any]:
        """Return what was observed.

        Returns:
            `{"count": 3, "sum": 0.6, "percentiles": {"p50": 0.2, "p95": 0.3, "p99": 0.3}, "buckets": {0.1: 1, …}}`, in
            seconds. Without observations the percentiles are None. A bucket counts the observations up to and including
            its bound; the last bound is infinity.
        """
        with self._lock:
            self._count_pending()
            cumulative = list(accumulate(self._counts))
            total, smallest, largest = self._sum, self._smallest, self._largest
        count = cumulative[-1]
        percentiles: dict[str, float | None] = dict.fromkeys(_PERCENTILES)
        if count:
            for name, percent in _PERCENTILES.items():
                rank = -(-count * percent // 100)
                percentiles[name] = min(max(_middle(bisect_left(cumulative, rank)), smallest), largest)
        buckets = {bound: cumulative[index] for bound, index in _COARSE_INDEX.items()}
        return {"count": count, "sum": total, "percentiles": percentiles, "buckets": buckets}

    def reset(self) -> None:
        """Forget every observation."""
        with self._lock:
            self.pending.clear()
            self._forget()

    def _forget(self) -> None:
        self._counts = array("q", bytes(8 * len(_BOUNDS)))
        self._sum = 0.0
        self._smallest, self._largest = inf, 0.0

    def _count_pending(self) -> None:
        batch = self.pending[:]
        del self.pending[: len(batch)]  # and not all: another thread may have appended since
        batch.sort()
        total = sum(batch)
        # NaN spoils the order, so it has to be looked for in the sum.
        if batch and (isnan(total) or batch[0] < 0):
            batch = sorted(max(seconds, 0.0) for seconds in batch if not isnan(seconds))
            total = sum(batch)
        if not batch:
            return
        self._sum += total
        self._smallest = min(self._smallest, batch[0])
        self._largest = max(self._largest, batch[-1])
        counted = index = 0
        while counted < len(batch):
            index = bisect_left(_BOUNDS, batch[counted], index)
            upto = bisect_right(batch, _BOUNDS[index], counted)
            self._counts[index] += upto - counted
            counted = upto


def _middle(index: int) -> float:
    """Return the value that stands for a fine bucket: equally far, as a ratio, from either of its bounds."""
    high = _BOUNDS[index]
    if index == 0:
        return high
    low = _BOUNDS[index - 1]
    return low if high == inf else 2 * low * high / (low + high)
