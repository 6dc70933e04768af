"""Which events are delivered at all: the filters that come with the bus. They decide at once and hold no event."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar, cast

from llmgine.bus.interfaces import EventFilter
from llmgine.bus.rate import TokenBuckets, check_rate
from llmgine.errors import ConfigurationError
from llmgine.messages import Event, SessionID

__all__ = [
    "CompositeFilter",
    "DebugFilter",
    "EventTypeFilter",
    "MetadataFilter",
    "PatternFilter",
    "RateLimitFilter",
    "SessionFilter",
    "check_filter",
]

T = TypeVar("T")

_log = logging.getLogger("llmgine.bus.filters")


class SessionFilter(EventFilter):
    """Lets events pass by their session."""

    def __init__(
        self, include_sessions: Collection[str] | None = None, exclude_sessions: Collection[str] | None = None
    ) -> None:
        """Say which sessions pass.

        Args:
            include_sessions: only these; None means all. `"BUS"` is the session of events without one.
            exclude_sessions: not these.

        Raises:
            ConfigurationError: a session is in both, or `include_sessions` is empty.
        """
        self._included, self._excluded = _choice("sessions", include_sessions, exclude_sessions, str, "session ids")

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: ARG002, D102
        return session_id not in self._excluded and (self._included is None or session_id in self._included)


class EventTypeFilter(EventFilter):
    """Lets events pass by their exact type; a subclass is another type."""

    def __init__(
        self,
        include_types: Collection[type[Event]] | None = None,
        exclude_types: Collection[type[Event]] | None = None,
    ) -> None:
        """Say which types pass.

        Args:
            include_types: only these; None means all.
            exclude_types: not these.

        Raises:
            ConfigurationError: a type is in both, is no class, or `include_types` is empty.
        """
        self._included, self._excluded = _choice("types", include_types, exclude_types, type, "event classes")

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: ARG002, D102
        kind = type(event)
        return kind not in self._excluded and (self._included is None or kind in self._included)


class PatternFilter(EventFilter):
    """Lets events pass by the name of their class, in which regular expressions are searched for."""

    def __init__(
        self,
        include_patterns: Collection[str] | None = None,
        exclude_patterns: Collection[str] | None = None,
        case_sensitive: bool = False,  # noqa: FBT001, FBT002  # published
    ) -> None:
        """Say which names pass.

        Args:
            include_patterns: at least one of them must be found in the name; None means every name.
            exclude_patterns: none of them may be found.
            case_sensitive: whether `tool` differs from `Tool`.

        Raises:
            ConfigurationError: a pattern is no regular expression or in both, or `include_patterns` is empty.
        """
        included, excluded = _choice("patterns", include_patterns, exclude_patterns, str, "regular expressions")
        flags = re.NOFLAG if case_sensitive else re.IGNORECASE
        self._included = None if included is None else [_compile(pattern, flags) for pattern in included]
        self._excluded = [_compile(pattern, flags) for pattern in excluded]

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: ARG002, D102
        name = type(event).__name__
        if any(pattern.search(name) for pattern in self._excluded):
            return False
        return self._included is None or any(pattern.search(name) for pattern in self._included)


class MetadataFilter(EventFilter):
    """Lets events pass that carry certain metadata."""

    def __init__(
        self, required_keys: Collection[str] | None = None, required_values: Mapping[str, Any] | None = None
    ) -> None:
        """Say what the metadata must have.

        Args:
            required_keys: must be there, whatever their values.
            required_values: must be there with values equal to these.

        Raises:
            ConfigurationError: `required_keys` is a single string, or `required_values` no mapping.
        """
        self._keys = _several("required_keys", required_keys or (), str, "names")
        self._values = _mapping("required_values", required_values or {})

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: ARG002, D102
        metadata = event.metadata or {}
        return all(key in metadata for key in self._keys) and all(
            key in metadata and metadata[key] == value for key, value in self._values.items()
        )


class CompositeFilter(EventFilter):
    """Joins filters. They are asked in their order, and no further than the answer needs.

    So a `RateLimitFilter` at the end counts only what the filters before it let pass.
    """

    def __init__(self, filters: Sequence[EventFilter], require_all: bool = True) -> None:  # noqa: FBT001, FBT002  # published
        """Join filters.

        Args:
            filters: at least one.
            require_all: an event passes when all of them say yes; if False, when one does.

        Raises:
            ConfigurationError: `filters` is empty, or something in it is no filter.
        """
        self._filters = _several("filters", filters, object, "filters")
        if not self._filters:
            msg = "CompositeFilter needs at least one filter; joining none would turn away everything, or nothing."
            raise ConfigurationError(msg)
        for candidate in self._filters:
            check_filter(candidate)
        self._join = all if require_all else any

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: D102
        return self._join(each.should_handle(event, session_id) for each in self._filters)


class DebugFilter(EventFilter):
    """Lets everything pass, and writes down what it saw."""

    enabled: bool
    """May be switched at any time."""

    def __init__(
        self,
        logger_func: Callable[[str], object] | None = None,
        enabled: bool = True,  # noqa: FBT001, FBT002  # published
    ) -> None:
        """Say where to write.

        Args:
            logger_func: called with one line per event; by default the debug level of the log.
            enabled: whether to write at all.

        Raises:
            ConfigurationError: `logger_func` cannot be called, or would have to be awaited.
        """
        self._write = _log.debug if logger_func is None else _plain_function("logger_func", logger_func)
        self.enabled = enabled

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: D102
        if self.enabled:
            self._write(f"{type(event).__name__} {event.event_id} in session {session_id}")
        return True


class RateLimitFilter(EventFilter):
    """Turns away events that come faster than a rate, by token bucket: a burst may have as many as a second allows.

    Memory is held for the keys of the last few moments only, however many sessions there were.
    """

    def __init__(
        self,
        max_per_second: float,
        per_session: bool = True,  # noqa: FBT001, FBT002  # published
        per_type: bool = False,  # noqa: FBT001, FBT002  # published
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the rate.

        Args:
            max_per_second: events per second, and the most that a burst may have; below 1 a burst is one event.
            per_session: count each session for itself.
            per_type: count each type of event for itself.
            clock: seconds that never go back.

        Raises:
            ConfigurationError: `max_per_second` is not a positive, finite number.
        """
        check_rate(max_per_second)
        self._buckets = TokenBuckets(max_per_second, clock)
        self._per_session = per_session
        self._per_type = per_type

    def should_handle(self, event: Event, session_id: SessionID) -> bool:  # noqa: D102
        key: Hashable = (session_id if self._per_session else None, type(event) if self._per_type else None)
        return self._buckets.take(key)


def check_filter(candidate: object) -> None:
    """Raise ConfigurationError, which says what is wrong, unless this is an object that can filter events."""
    expected = "a filter is an object with a method should_handle(event, session_id) that returns True or False"
    if isinstance(candidate, type):
        msg = f"{candidate.__name__} is a class; {expected}. Make one: {candidate.__name__}(...)."
        raise ConfigurationError(msg)
    decide = getattr(candidate, "should_handle", None)
    if not callable(decide):
        msg = f"{candidate!r} is not a filter; {expected}."
        raise ConfigurationError(msg)
    if _answers_later(decide):
        msg = f"should_handle of {candidate!r} would have to be awaited; {expected}. Write it with a plain def."
        raise ConfigurationError(msg)


def _answers_later(function: Callable[..., object]) -> bool:
    """Whether calling this gives something to await or to iterate, which as an answer would always be true."""
    return any(
        kind(target)
        for kind in (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)
        for target in (function, getattr(function, "__call__", None))  # noqa: B004  # the function itself is looked at
    )


def _plain_function(name: str, given: Any) -> Callable[[str], object]:
    if not callable(given) or _answers_later(given):
        msg = f"{name} must be a plain function that takes a string; got {given!r}."
        raise ConfigurationError(msg)
    return cast("Callable[[str], object]", given)


def _choice(
    what: str, included: Collection[T] | None, excluded: Collection[T] | None, kind: type, expected: str
) -> tuple[frozenset[T] | None, frozenset[T]]:
    """Return what is included (None for everything) and what is excluded, or say why that makes no sense."""
    excludes = frozenset(_several(f"exclude_{what}", excluded or (), kind, expected))
    if included is None:
        return None, excludes
    includes = frozenset(_several(f"include_{what}", included, kind, expected))
    if not includes:
        msg = f"include_{what} is empty, so nothing would ever pass. Leave it out to let everything pass."
        raise ConfigurationError(msg)
    if both := includes & excludes:
        names = ", ".join(sorted(getattr(each, "__name__", None) or repr(each) for each in both))
        msg = f"include_{what} and exclude_{what} both name {names}. Name each in one of them."
        raise ConfigurationError(msg)
    return includes, excludes


def _several(name: str, given: Any, kind: type, expected: str) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Collection):
        msg = f"{name} must be a collection of {expected}; got {given!r}."
        raise ConfigurationError(msg)
    for each in given:
        if not isinstance(each, kind):
            msg = f"{name} must hold {expected}; {each!r} is none."
            raise ConfigurationError(msg)
    return tuple(given)


def _mapping(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        msg = f"{name} must map names to values; got {given!r}."
        raise ConfigurationError(msg)
    return dict(given)


def _compile(pattern: str, flags: re.RegexFlag) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"{pattern!r} is not a regular expression: {error}."
        raise ConfigurationError(msg) from error
