"""When an event is to be delivered, as somebody asks for it, and as it is held."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

from llmgine.bus.clocks import utc_now
from llmgine.bus.options import check_number
from llmgine.bus.recurrence import Every, to_utc
from llmgine.bus.stores import Held, Misfire, Recurrence
from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.messages.scheduled_events import ScheduledEvent

__all__ = ["plan"]


def plan(
    event: Event,
    *,
    at: datetime | None = None,
    after: float | timedelta | None = None,
    every: float | timedelta | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    misfire: Misfire | Literal["once", "all", "skip"] = Misfire.ONCE,
    clock: Callable[[], datetime] = utc_now,
) -> Held:
    """Return an event as it is held until its time.

    Args:
        event: delivered once, or copied for each occurrence. A `ScheduledEvent` is given the time.
        at: when; naive for local time, at once if it has passed.
        after: how long from now, in seconds.
        every: how long from one occurrence to the next, in seconds; the first is at `at`, `after`, or after so long.
        cron: the times as an expression of five fields.
        timezone: of `cron`; by default UTC.
        misfire: of what repeats.
        clock: the date: aware, UTC.

    Raises:
        ConfigurationError: these contradict each other or make no sense.
    """
    _check_combination(at=at, after=after, every=every, cron=cron, timezone=timezone)
    missed = _misfire(misfire)
    now = clock()
    recurrence: Recurrence | None = None
    if cron is not None:
        from llmgine.cron import Cron  # above this layer: loaded for those who ask for it

        recurrence = Cron(cron, "UTC" if timezone is None else timezone)
        due = recurrence.after(now)
        if due is None:
            msg = f"The cron expression {cron!r} does not come true any more."
            raise ConfigurationError(msg)
    else:
        due = (
            to_utc("at", at)
            if at is not None
            else _later(now, *(("after", after) if after is not None else ("every", every)))
        )
        if every is not None:
            recurrence = Every(_seconds(every), due)
    if isinstance(event, ScheduledEvent):
        event.scheduled_time = due
    return Held.of(event, due, recurrence, missed)


def _check_combination(*, at: object, after: object, every: object, cron: object, timezone: object) -> None:
    if at is None and after is None and every is None and cron is None:
        msg = "When? Give at= a datetime, after= or every= so many seconds, or cron= an expression."
        raise ConfigurationError(msg)
    if at is not None and after is not None:
        msg = "at= and after= both say when it is the first time. Give one of them."
        raise ConfigurationError(msg)
    if cron is not None and (at is not None or after is not None or every is not None):
        msg = "cron= says all about when. Leave out at=, after= and every=."
        raise ConfigurationError(msg)
    if timezone is not None and cron is None:
        msg = "timezone= is that of cron=. For at=, give a datetime with a time zone."
        raise ConfigurationError(msg)


def _misfire(given: object) -> Misfire:
    try:
        return Misfire(given)
    except ValueError:
        expected = ", ".join(repr(each.value) for each in Misfire)
        msg = f"misfire is one of {expected}; got {given!r}."
        raise ConfigurationError(msg) from None


def _seconds(duration: Any) -> Any:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _later(now: datetime, name: str, duration: object) -> datetime:
    seconds = _seconds(duration)
    check_number(name, seconds, int | float, "a number of seconds or a timedelta, not negative")
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        msg = f"{name} is {seconds!r} seconds, which is longer than dates reach."
        raise ConfigurationError(msg) from None
