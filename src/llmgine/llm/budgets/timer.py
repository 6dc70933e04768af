"""The seconds of a budget, which pass whether or not anything is done."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Timer"]


class Timer:
    """Begins when it is made."""

    def __init__(self, limit: float | None, set_aside: float | None, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._set_aside = set_aside or 0.0
        self._clock = clock
        self._began = clock()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    def left(self, *, last: bool) -> float | None:
        """Return the seconds left, below zero if they are over; None if there is no end.

        Args:
            last: whether those count that are set aside for the last answer.
        """
        if self._limit is None:
            return None
        return self._limit - self.age - (0.0 if last else self._set_aside)
