"""What commands, results and events have in common: when they were made, for which session, and what caused them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from llmgine.messages.ids import BUS, SessionID

__all__ = ["Message", "id_of"]


@dataclass(kw_only=True)
class Message:
    """The base of every message.

    The fields are keyword-only, so a dataclass subclass may declare fields without defaults. A subclass with an
    `__init__` of its own need not call this one: what it leaves out is filled in when first read.
    """

    __slots__ = ("__dict__", "__weakref__", "_timestamp")

    timestamp: str = field(default_factory=cast("Callable[[], str]", time_ns))
    """When the message was made: ISO 8601, UTC."""
    metadata: dict[str, Any] = field(default_factory=cast("Callable[[], dict[str, Any]]", dict))
    session_id: SessionID = BUS

    # Not fields, so that a message which begins a chain, or is never sent, does not pay for them.
    _correlation_id = cast("str | None", None)
    causation_id = cast("str | None", None)
    """The id of the message whose handler sent this one; None for the first of a chain."""
    traceparent = cast("str | None", None)
    """W3C trace context, where tracing is on."""

    _id_field: ClassVar[str]
    _left_out: ClassVar[Mapping[str, Callable[[], Any]]] = {"timestamp": time_ns, "metadata": dict}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # `@dataclass(slots=True)` makes a slot of each inherited field; this one has its place already.
        if "timestamp" in cls.__dict__.get("__slots__", ()):
            del cls.timestamp

    def __getattr__(self, name: str) -> Any:
        make = self._left_out.get(name)
        if make is None:
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        setattr(self, name, make())
        return getattr(self, name)

    @property
    def id(self) -> str:
        """The message's id, whatever its kind calls it."""
        return id_of(self)

    @property
    def correlation_id(self) -> str:
        """The id of the message that began the chain; this one's own if none did."""
        return self._correlation_id or id_of(self)

    @correlation_id.setter
    def correlation_id(self, value: str) -> None:
        self._correlation_id = value

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, with the ids of the chain. Only dates change: to ISO 8601 strings."""
        data = {name: getattr(self, name) for name in (self._id_field, "timestamp", "session_id", "metadata")}
        data["correlation_id"] = self.correlation_id
        data["causation_id"] = self.causation_id
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in (own | self.__dict__).items():
            if not name.startswith("_"):
                data[name] = value.isoformat() if isinstance(value, datetime) else value
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the message that `to_dict` described. `__init__` is not called; what is missing gets its default."""
        message = cls.__new__(cls)
        for f in fields(cls):
            if callable(f.default_factory):
                setattr(message, f.name, f.default_factory())
        for name, value in data.items():
            if not name.startswith("_") and not isinstance(getattr(cls, name, None), classmethod):
                setattr(message, name, value)
        return message


def id_of(message: Message) -> str:
    """Return a message's id, also where a subclass uses the name `id` for something of its own."""
    return cast("str", getattr(message, message._id_field))


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _read_timestamp(message: Any) -> str:
    value: Any = message._timestamp
    if type(value) is int:
        seconds, nanoseconds = divmod(value, 1_000_000_000)
        value = f"{_second(seconds)}.{nanoseconds // 1000:06d}+00:00"
        message._timestamp = value
    return cast("str", value)


if not TYPE_CHECKING:
    # Writing the date as text costs as much as building the rest of a message, and few are ever read: it is done
    # on first reading.
    Message.timestamp = property(_read_timestamp, Message._timestamp.__set__)
