"""Which lines of a log are wanted. What can be told from a line's bytes is told before the line is parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from llmgine.bus.event_names import _matches, check_pattern
from llmgine.errors import ConfigurationError
from llmgine.messages.events import _WORD
from llmgine.observability.events import LogLevel

__all__ = ["LogFilter", "instant_of", "level_of", "parse_time"]

_LEVELS = list(LogLevel)
_CHATTER = frozenset({"TextChunkEvent", "EngineStatusEvent", "TraceEvent", "MetricEvent"})
_TOLD_AGAIN = "ModelCallEndedEvent"
"""What goes wrong with one is told by the event that its prompt ends with."""
_HEAD = b'{"event_type":"'
"""How our own lines begin."""
_STAMP = b'"timestamp":"'
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """What an event must be like; all that is given must be true of it.

    Raises:
        ConfigurationError: a type can be no type, or the time ends before it begins.
    """

    session: str | None = None
    types: tuple[str, ...] = ()
    """Any of these: class names, with or without their `Event`, or event names as in subscriptions, such as "tool.*". A
    log does not say what is a subclass of what, nor the event names that classes have set for themselves."""
    correlation_id: str | None = None
    """As is `causation_id`: the id, or how it begins."""
    causation_id: str | None = None
    since: datetime | None = None
    """The first moment. Without a time zone it is local time; so is `until`."""
    until: datetime | None = None
    """The first moment that is too late."""
    text: str | None = None
    """Found anywhere in the event, in a name or in a value, upper and lower case as given."""
    mentions: str | None = None
    """An id, or how it begins, anywhere in the event."""
    level: LogLevel | None = None
    """This or a worse one."""
    needles: tuple[bytes, ...] = field(init=False)
    """Bytes that the line of every wanted event contains, the rarest first."""

    def __post_init__(self) -> None:
        for pattern in self.types:
            check_pattern(pattern)
        if self.since is not None and self.until is not None and _utc(self.since) >= _utc(self.until):
            msg = f"No time is after {self.since} and before {self.until}; the first must be the earlier one."
            raise ConfigurationError(msg)
        ids = (self.mentions, self.causation_id, self.correlation_id)
        needles = sorted([b'"' + _written(start) for start in ids if start], key=len, reverse=True)
        if self.text:
            needles.append(_written(self.text))
        if self.session is not None:
            needles.append(b'"' + _written(self.session) + b'"')
        if len(self.types) == 1 and self.types[0].isidentifier() and self.types[0][0].isupper():
            needles.append(b'"' + _written(self.types[0]))
        object.__setattr__(self, "needles", tuple(needles))
        object.__setattr__(self, "_since", _bound(self.since))
        object.__setattr__(self, "_until", _bound(self.until))

    _since: bytes = field(init=False, repr=False, compare=False)
    _until: bytes = field(init=False, repr=False, compare=False)

    def may_match(self, line: bytes) -> bool:
        """Tell from its bytes whether a line may hold a wanted event; what is not one of our own lines may."""
        if any(needle not in line for needle in self.needles):
            return False
        if not line.startswith(_HEAD):
            return True
        if self.types:
            kind = line[len(_HEAD) : line.find(b'"', len(_HEAD))]
            if not any(_is_type(pattern, kind) for pattern in self.types):
                return False
        if self._since or self._until:
            begin = line.find(_STAMP)
            stamp = line[begin + len(_STAMP) : begin + len(_STAMP) + 33]
            # A stamp of ours, and the event's own: nothing that is nested comes before it.
            if begin > 0 and stamp.endswith(b'+00:00"') and line.find(b"{", 1, begin) < 0:
                return not ((self._since and stamp < self._since) or (self._until and stamp >= self._until))
        return True

    def matches(self, data: Mapping[str, Any]) -> bool:  # noqa: PLR0911  # one for each thing that may be asked
        """Tell whether an event is wanted. Its text and what it mentions have been looked at by `may_match`."""
        if self.session is not None and data.get("session_id") != self.session:
            return False
        if self.types:
            kind = str(data.get("event_type", "")).encode()
            if not any(_is_type(pattern, kind) for pattern in self.types):
                return False
        for name, start in (("correlation_id", self.correlation_id), ("causation_id", self.causation_id)):
            if start and not str(data.get(name) or "").startswith(start):
                return False
        if self.since is not None or self.until is not None:
            when = instant_of(data)
            if when is None:
                return False
            if self.since is not None and when < _utc(self.since):
                return False
            if self.until is not None and when >= _utc(self.until):
                return False
        return self.level is None or _LEVELS.index(level_of(data)) >= _LEVELS.index(self.level)


def level_of(data: Mapping[str, Any]) -> LogLevel:
    """Return how much an event matters: what it says itself, or else what its kind and its error say."""
    given = data.get("level")
    if isinstance(given, str) and given.lower() in _LEVELS:
        return LogLevel(given.lower())
    kind = str(data.get("event_type", ""))
    if kind == "TraceEvent":
        failed = data.get("status") == "ERROR" and not str(data.get("name")).startswith("Command ")
        return LogLevel.ERROR if failed else LogLevel.DEBUG  # a command's failure is told by its CommandErrorEvent
    if kind in {_TOLD_AGAIN, "CommandRetriedEvent"}:
        return LogLevel.DEBUG if kind == _TOLD_AGAIN else LogLevel.WARNING
    if kind.endswith(("ErrorEvent", "FailedEvent")) or (isinstance(error := data.get("error"), str) and error):
        return LogLevel.ERROR
    if data.get("execution_succeed") is False or kind.endswith("CancelledEvent"):
        return LogLevel.WARNING
    return LogLevel.DEBUG if kind in _CHATTER else LogLevel.INFO


def instant_of(data: Mapping[str, Any], name: str = "timestamp") -> datetime | None:
    """Return when an event was made, or another of its dates; None where it is no date."""
    value = data.get(name)
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not 1900 < when.year < 9000:  # not every time zone can say when that is
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def parse_time(text: str, now: datetime) -> datetime:
    """Return the moment that a text means: a date, a date and time, "15m" or "2h" ago, "today", "yesterday".

    Args:
        text: ISO 8601, local time unless it says otherwise; or a number with s, m, h, d or w.
        now: with its time zone.

    Raises:
        ConfigurationError: it means none.
    """
    asked = text.strip().lower()
    if asked in {"today", "yesterday"}:
        day = now.date() - timedelta(days=asked == "yesterday")
        return datetime(day.year, day.month, day.day).astimezone()  # midnight here
    try:
        if match := _AGO.fullmatch(asked):
            return now - timedelta(**{_UNITS[match[2]]: float(match[1])})
        return _utc(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError) as error:
        msg = f"{text!r} is no time. Expected one like 2026-05-04, 2026-05-04T13:30, 15m, 2h, 3d, today or yesterday."
        raise ConfigurationError(msg) from error


def _utc(when: datetime) -> datetime:
    return when.astimezone(UTC)


def _bound(when: datetime | None) -> bytes:
    return b"" if when is None else _utc(when).isoformat(timespec="microseconds").encode()


def _written(text: str) -> bytes:
    """Return a text as it stands between the quotes of our JSON."""
    return orjson.dumps(text)[1:-1]


@lru_cache(maxsize=4096)
def _is_type(pattern: str, event_type: bytes) -> bool:
    name = event_type.decode(errors="replace")
    short = name.removesuffix("Event") or name
    return pattern in {name, short} or _matches(pattern, ".".join(_WORD.findall(short)).lower())
