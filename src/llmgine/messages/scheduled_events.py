"""Events with a time: published now, delivered then."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, TypeVar, cast

from llmgine.errors import ConfigurationError
from llmgine.messages.events import Event
from llmgine.messages.message import Message

__all__ = ["EVENT_CLASSES", "ScheduledEvent", "due", "register_scheduled_event_class"]

C = TypeVar("C", bound="type[Message]")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True)
class ScheduledEvent(Event):
    """An event that is delivered when its time has come; at once if that has passed."""

    scheduled_time: datetime = field(default_factory=_now)
    """Naive for local time."""

    _has_time: ClassVar[bool] = True
    # Also where a subclass has an `__init__` of its own that does not call this one.
    _left_out: ClassVar = {**Message._left_out, "scheduled_time": _now}


def due(event: ScheduledEvent) -> datetime:
    """Return when an event is to be delivered: aware, UTC. One without a time was due long ago.

    Raises:
        TypeError: its `scheduled_time` is not a datetime.
    """
    moment = cast("object", event.scheduled_time)
    if moment is None:
        return datetime.fromtimestamp(0, UTC)
    if not isinstance(moment, datetime):
        msg = f"{type(event).__name__}.scheduled_time has to be a datetime, not {type(moment).__name__} {moment!r}."
        raise TypeError(msg)
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError, OSError):  # the first or the last day that there is: `datetime.max` means never
        return moment.replace(tzinfo=UTC)


EVENT_CLASSES: dict[str, type] = {"ScheduledEvent": ScheduledEvent}
"""Classes by their names, for stored messages whose module is not what it was, or whose class is in a function."""


def register_scheduled_event_class(cls: C) -> C:
    """Make a class known by its name: a decorator.

    Raises:
        ConfigurationError: it is not a class of messages.
    """
    kind = cast("object", cls)
    if not (isinstance(kind, type) and issubclass(kind, Message)):
        msg = f"register_scheduled_event_class takes a subclass of ScheduledEvent, not {cls!r}."
        raise ConfigurationError(msg)
    EVENT_CLASSES[cls.__name__] = cls
    return cls
