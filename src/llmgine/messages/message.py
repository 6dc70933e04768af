"""What commands, results and events have in common: when they were made, for which session, and what caused them.

Making a message is most of what a small event costs, and little of it is ever read. So the id, the date and the
metadata are written out when they are first read; until then there are two numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from inspect import get_annotations
from time import time_ns
from types import SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from llmgine.errors import CodecError
from llmgine.messages.ids import BUS, Id, SessionID, next_number, write

__all__ = ["Message", "Origin", "id_of", "origin_of"]

Origin: TypeAlias = tuple[Id, "Id | None", "Id | None", "str | None"]
"""A message's id, its correlation id, its causation id (None where there is none) and its traceparent."""


@dataclass(kw_only=True)
class Message:
    """The base of every message.

    The fields are keyword-only, so a dataclass subclass may declare fields without defaults. A subclass with an
    `__init__` of its own need not call this one: what it leaves out is filled in when first read.
    """

    # _identity: a number, from which and the timestamp the id is written; or the `Id`, "" if none was given; or an
    # `Origin`. _timestamp: nanoseconds since 1970, or what was given or written. _metadata: None until it is read.
    __slots__ = ("__dict__", "__weakref__", "_identity", "_metadata", "_timestamp")
    if TYPE_CHECKING:
        _identity: Any = field(init=False)
        _timestamp: Any = field(init=False)
        _metadata: Any = field(init=False)

    timestamp: str = field(default_factory=cast("Callable[[], str]", time_ns))
    """When the message was made: ISO 8601, UTC."""
    metadata: dict[str, Any] = field(default=cast("dict[str, Any]", None))
    session_id: SessionID = BUS

    schema_version: ClassVar[int] = 1
    """Of the fields. A class that changes them counts it up, and says in an upcaster what becomes of older ones."""

    _id_field: ClassVar[str]
    _left_out: ClassVar[Mapping[str, Callable[[], Any]]] = {
        "_identity": lambda: (time_ns(), next_number()),  # all of it, so that it does not matter who is first to read
        "_timestamp": time_ns,
        "_metadata": dict,
        "session_id": lambda: BUS,
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # `@dataclass(slots=True)` makes a slot of each inherited field; these have their place already.
        for name in {"timestamp", "metadata", "command_id", "event_id"} & {*cls.__dict__.get("__slots__", ())}:
            delattr(cls, name)

    def __getattr__(self, name: str) -> Any:
        make = self._left_out.get(name)
        if make is None:
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        value = self.__dict__.setdefault(name, make())  # atomic, where two threads are the first to read
        setattr(self, name, value)
        return value

    def __getstate__(self) -> object:
        id_of(self)  # which another process would write differently
        return super().__getstate__()

    @property
    def id(self) -> str:
        """The message's id, whatever its kind calls it."""
        return id_of(self)

    @property
    def correlation_id(self) -> str:
        """The id of the message that began the chain; this one's own if none did."""
        own, correlation, _, _ = origin_of(self)
        return write(correlation or own)

    @correlation_id.setter
    def correlation_id(self, value: str | None) -> None:
        own, _, causation, traceparent = origin_of(self)
        self._identity = own, value, causation, traceparent

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handler sent this one; None for the first of a chain."""
        causation = origin_of(self)[2]
        return None if causation is None else write(causation)

    @causation_id.setter
    def causation_id(self, value: str | None) -> None:
        own, correlation, _, traceparent = origin_of(self)
        self._identity = own, correlation, value, traceparent

    @property
    def traceparent(self) -> str | None:
        """W3C trace context, where tracing is on."""
        return origin_of(self)[3]

    @traceparent.setter
    def traceparent(self, value: str | None) -> None:
        own, correlation, causation, _ = origin_of(self)
        self._identity = own, correlation, causation, value

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, with the ids of the chain. Only dates change: to ISO 8601 strings."""
        data = {name: getattr(self, name) for name in (self._id_field, "timestamp", "session_id", "metadata")}
        data["correlation_id"] = self.correlation_id
        data["causation_id"] = self.causation_id
        if self.traceparent is not None:
            data["traceparent"] = self.traceparent
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in (own | self.__dict__).items():
            if not name.startswith("_"):
                data[name] = value.isoformat() if isinstance(value, datetime) else value
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the message that `to_dict` described. `__init__` is not called; what is missing gets its default.

        Raises:
            CodecError: a field that is annotated as datetime has a text that is no date.
        """
        kind: Any = cls
        dates = _date_fields(kind)
        message = cls.__new__(cls)
        for f in fields(cls):
            if callable(f.default_factory):
                setattr(message, f.name, f.default_factory())
        if cls._id_field in data:  # before what is noted beside it
            setattr(message, cls._id_field, data[cls._id_field])
        for name, value in data.items():
            if not (name.startswith("_") or name == cls._id_field or isinstance(getattr(cls, name, None), classmethod)):
                setattr(message, name, _read_date(cls, name, value) if name in dates else value)
        return message


def id_of(message: Message) -> str:
    """Return a message's id, also where a subclass uses the name `id` for something of its own."""
    identity = message._identity
    if type(identity) is str and identity:
        return identity
    own, *noted = origin_of(message)
    written = write(own)
    message._identity = (written, *noted) if any(noted) else written
    return written


def origin_of(message: Message) -> Origin:
    """Return a message's id and what is noted of its causes, without writing the ids out."""
    # In this order: whoever replaces the time, in another thread, has written the id before.
    made, identity = message._timestamp, message._identity
    if type(identity) is int:
        return (made, identity), None, None, None
    if type(identity) is tuple and len(identity) == 4:
        return cast("Origin", identity)
    if identity:
        return identity, None, None, None
    number = message.__dict__.setdefault("_number", next_number())
    return (made, number), None, None, None


@lru_cache(maxsize=512)
def _date_fields(cls: type) -> frozenset[str]:
    """Return the names of fields that are annotated as datetime, be it among others; not where a text may be meant."""
    found: dict[str, bool] = {}
    for base in reversed(cls.__mro__):
        for name, annotation in get_annotations(base).items():
            # One at a time: what a name stands for may be known to type checkers only.
            one = SimpleNamespace(__annotations__={name: annotation})
            try:
                hint = get_type_hints(one, vars(sys.modules[base.__module__]), dict(vars(base)))[name]
            except Exception:  # noqa: BLE001  # an annotation is any expression
                hint = None
            options = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
            found[name] = datetime in options and str not in options
    return frozenset(name for name, is_date in found.items() if is_date)


def _read_date(cls: type, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError as exc:
        msg = f"{cls.__name__}.{name} has to be a date in ISO 8601, not {value!r}."
        raise CodecError(msg) from exc


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _read_timestamp(message: Any) -> str:
    value: Any = message._timestamp
    if type(value) is int:
        id_of(message)  # which is written with the number that the text takes the place of
        seconds, nanoseconds = divmod(value, 1_000_000_000)
        value = f"{_second(seconds)}.{nanoseconds // 1000:06d}+00:00"
        message._timestamp = value
    return cast("str", value)


def _read_metadata(message: Any) -> dict[str, Any]:
    if message._metadata is None:
        message._metadata = message.__dict__.setdefault("_metadata", {})
    return cast("dict[str, Any]", message._metadata)


if not TYPE_CHECKING:
    Message.timestamp = property(_read_timestamp, Message._timestamp.__set__)
    Message.metadata = property(_read_metadata, Message._metadata.__set__)
