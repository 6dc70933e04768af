"""Events that come again: a fixed grid of times, and when what is held is due next."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from llmgine.bus.options import check_number
from llmgine.bus.stores import Held, Misfire
from llmgine.errors import ConfigurationError

__all__ = ["Every", "next_due", "to_utc"]

_SHORTEST = 0.001
_SPEC = re.compile(r"every (?P<seconds>[0-9.]+) s from (?P<start>\S+)")


@dataclass(frozen=True)
class Every:
    """Every so many seconds from a first time on: a fixed grid, which does not drift however late a delivery is.

    Raises:
        ConfigurationError: `seconds` is below 0.001 or too long, or `start` is no datetime.
    """

    seconds: float
    """Between two occurrences, to the microsecond."""
    start: datetime
    """The first occurrence. Naive for local time; kept in UTC."""

    def __post_init__(self) -> None:
        expected = "a number of seconds between two occurrences, at least 0.001, such as 30"
        check_number("every", self.seconds, int | float, expected, least=_SHORTEST)
        try:
            self._interval  # noqa: B018  # may overflow
        except OverflowError:
            msg = f"every must be {expected}; {self.seconds!r} is longer than dates reach."
            raise ConfigurationError(msg) from None
        object.__setattr__(self, "start", to_utc("The first time of a recurrence", self.start))

    @property
    def _interval(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    @property
    def spec(self) -> str:
        """Such as "every 30 s from 2026-11-20T10:00:00+00:00"."""
        seconds = f"{self._interval // timedelta(microseconds=1) / 1_000_000:.6f}".rstrip("0").rstrip(".")
        return f"every {seconds} s from {self.start.isoformat()}"

    @classmethod
    def from_spec(cls, spec: str) -> Every:
        """Return the recurrence that `spec` describes.

        Raises:
            ConfigurationError: it describes none.
        """
        if found := _SPEC.fullmatch(spec):
            try:
                return cls(float(found["seconds"]), datetime.fromisoformat(found["start"]))
            except ConfigurationError:
                raise
            except ValueError:
                pass
        msg = f'A recurrence reads like "every 30 s from 2026-11-20T10:00:00+00:00"; got {spec!r}.'
        raise ConfigurationError(msg)

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time of the grid after `moment`; None beyond the last date there is."""
        if moment < self.start:
            return self.start
        try:
            return self.start + ((moment - self.start) // self._interval + 1) * self._interval
        except OverflowError:
            return None


def next_due(held: Held, now: datetime) -> datetime | None:
    """Return when what has just been delivered is due again; None if it is done with.

    Only `Misfire.ALL` makes up for every occurrence before `now`. A clock that has been set back repeats none.
    """
    if held.recurrence is None:
        return None
    return held.recurrence.after(held.due if held.misfire is Misfire.ALL else max(held.due, now))


def to_utc(name: str, moment: object) -> datetime:
    """Return a date as aware UTC; a naive one is local time.

    Raises:
        ConfigurationError: it is no datetime, or out of range.
    """
    if not isinstance(moment, datetime):
        msg = f"{name} must be a datetime, such as datetime(2026, 12, 24, 18, 0); got {moment!r}."
        raise ConfigurationError(msg)
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError, OSError):  # the first or the last day that there is
        return moment.replace(tzinfo=UTC)
