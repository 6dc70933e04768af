"""Cron expressions: times by the calendar of a place, with its changes to summer time and back.

As in Debian's cron, what is to happen at a fixed time of day happens once a day: where the clock is put forward over
that time, right after the change; where it is put back over it, the first time only. What has a `*` for the minute or
the hour goes by the time that really passes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from llmgine.bus.recurrence import Every
from llmgine.bus.stores import Recurrence
from llmgine.errors import ConfigurationError

__all__ = ["Cron", "parse_recurrence"]

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31 and in its month, L (the last day), LW (the last weekday)",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT (0 and 7 are Sunday), 1#2 (the second Monday), 5L (the last Friday)",
}
_EXAMPLE = '"0 9 * * mon-fri" is nine o\'clock on weekdays'
_LOCALTIME = Path("/etc/localtime")
"""A link to the data of the local time zone, on Unix."""
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Cron:
    """The times of a cron expression.

    Raises:
        ConfigurationError: the expression has no meaning or never comes true, or there is no such time zone.
    """

    expression: str
    """Minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly."""
    timezone: str = "UTC"
    """An IANA name, such as "Europe/Berlin"; "local" is replaced by the name of this machine's zone."""

    def __post_init__(self) -> None:
        given: Any = self.expression
        if not isinstance(given, str):
            msg = f"A cron expression is text, such as {_EXAMPLE}; got {given!r}."
            raise ConfigurationError(msg)
        words = given.split()
        expression = _NAMED.get(words[0].lower(), words[0]) if len(words) == 1 else " ".join(words)
        object.__setattr__(self, "expression", expression)
        if self.timezone == "local":
            object.__setattr__(self, "timezone", _local_zone())
        _zone(self.timezone)
        if len(expression.split()) != len(_FIELDS):
            msg = f"A cron expression has five fields, {', '.join(_FIELDS)}: {_EXAMPLE}. Got {given!r}."
            raise ConfigurationError(msg)
        self._check_fields()
        if self.after(_LONG_AGO) is None:
            msg = f"The cron expression {expression!r} never comes true: there is no such day in any year."
            raise ConfigurationError(msg)

    @property
    def spec(self) -> str:
        """Such as "cron 0 9 * * mon-fri Europe/Berlin"."""
        return f"cron {self.expression} {self.timezone}"

    @classmethod
    def from_spec(cls, spec: str) -> Cron:
        """Return the recurrence that `spec` describes.

        Raises:
            ConfigurationError: it describes none.
        """
        kind, *expression, zone = spec.split() if len(spec.split()) > 2 else ["", ""]
        if kind != "cron":
            msg = f'A recurrence by the calendar reads like "cron 0 9 * * mon-fri Europe/Berlin"; got {spec!r}.'
            raise ConfigurationError(msg)
        return cls(" ".join(expression), zone)

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time after `moment`, in UTC; None if there is none within fifty years."""
        from cronsim import CronSim

        try:
            for local in CronSim(self.expression, moment.astimezone(_zone(self.timezone))):
                found = local.astimezone(UTC)
                # In the hour that the change from summer time repeats, a time of day may have been before.
                if found > moment:
                    return found
        except (OverflowError, ValueError):  # beyond the last date there is
            return None
        return None

    def _check_fields(self) -> None:
        from cronsim import CronSim, CronSimError

        try:
            CronSim(self.expression, _LONG_AGO)
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            msg = (
                f"The cron expression {self.expression!r} has a wrong {field}; it must be {_FIELDS.get(field)}, * for "
                f"any, or a list, range or step of these, such as 1,15 or 1-5 or */10. {_EXAMPLE}."
            )
            raise ConfigurationError(msg) from error


def parse_recurrence(spec: str) -> Recurrence:
    """Return the recurrence whose `spec` this is.

    Raises:
        ConfigurationError: it is none.
    """
    return Every.from_spec(spec) if spec.startswith("every ") else Cron.from_spec(spec)


def _zone(name: str) -> tzinfo:
    """Return a time zone."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError) as error:  # unknown; a path; a folder; no text
        msg = (
            f'There is no time zone {name!r} on this machine. Give an IANA name, such as "Europe/Berlin", or "UTC"; '
            "where the system has no zones, as on Windows, install them with: pip install tzdata"
        )
        raise ConfigurationError(msg) from error


def _local_zone() -> str:
    """Return the name of this machine's time zone."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if not named and _LOCALTIME.is_symlink():
        named = str(_LOCALTIME.resolve()).rpartition("zoneinfo/")[2]
    if not named and os.name == "posix" and not _LOCALTIME.exists():
        named = "UTC"  # what the C library takes then
    try:
        _zone(named)
    except ConfigurationError:
        msg = 'The name of the local time zone is not known. Give it, such as timezone="Europe/Berlin".'
        raise ConfigurationError(msg) from None
    return named
