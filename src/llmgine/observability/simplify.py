"""What is not JSON, one step nearer to it; and what a message is written with."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import KeysView, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.events import CommandResultEvent
from llmgine.messages.ids import write
from llmgine.messages.message import Message, Origin, _second, origin_of
from llmgine.observability.content import content_fields, content_mark

__all__ = ["Shape", "message_data", "second_of", "shape_of", "simplify", "written_ids"]


def simplify(value: Any, *, record_content: bool) -> Any:  # noqa: PLR0911  # one for each kind of value
    """Take a value that is not JSON one step nearer to it."""
    if isinstance(value, Message):
        return message_data(value, record_content=record_content)
    if isinstance(value, BaseException):
        text = str(value)
        return f"{type(value).__name__}: {text}" if text else type(value).__name__
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(type(value)):
        data = dict(getattr(value, "__dict__", ()))
        return _public(value, data, record_content=record_content, result_is_content=True)
    if isinstance(value, float):
        return float.__float__(value)  # of a subclass
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return repr(value)
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(warnings=False)
    return str(value)


def message_data(message: Message, *, record_content: bool, result_is_content: bool = True) -> dict[str, Any]:
    """Return a message's public attributes by name, with its class first and the ids of its chain."""
    kind: Any = type(message)
    label = shape_of(kind).label
    origin = origin_of(message)
    own, correlation, causation = written_ids(origin)
    made = message._timestamp
    data = {
        label: "",
        kind._id_field: own,
        "timestamp": _time(made) if type(made) is int else made,
        "metadata": message._metadata or {},
        "correlation_id": correlation,
        "causation_id": causation,
        **message.__dict__,
    }
    if origin[3] is not None:
        data["traceparent"] = origin[3]
    data[label] = kind.__name__
    if not record_content and isinstance(message, CommandResultEvent):
        result = message.command_result
        if isinstance(result, CommandResult):  # and not whatever somebody put there
            told = message.result_is_content
            data["command_result"] = message_data(result, record_content=False, result_is_content=told)
    return _public(message, data, record_content=record_content, result_is_content=result_is_content)


def written_ids(origin: Origin) -> tuple[str, str, str | None]:
    """Return the id, correlation id and causation id as text, each written once: they are often the same."""
    own_id, correlation_id, causation_id, _ = origin
    own = write(own_id)
    correlation = own if correlation_id is None or correlation_id == own_id else write(correlation_id)
    if causation_id is None:
        return own, correlation, None
    return own, correlation, correlation if causation_id == correlation_id else write(causation_id)


@lru_cache(maxsize=8)
def second_of(seconds: int) -> bytes:
    """Return a timestamp's text up to the second."""
    return _second(seconds).encode()


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}+00:00"


def _public(value: Any, data: dict[str, Any], *, record_content: bool, result_is_content: bool) -> dict[str, Any]:
    """Return what an instance's `__dict__` holds without what is private, and with fields that are kept elsewhere."""
    kind: Any = type(value)
    shape = shape_of(kind)
    if data.keys() != shape.names:
        data |= {name: getattr(value, name) for name in shape.names if name not in data and hasattr(value, name)}
        data = {name: item for name, item in data.items() if not name.startswith("_")}
    if not record_content:
        data |= {name: content_mark(data[name]) for name in shape.content if name in data}
        if result_is_content and isinstance(value, CommandResult) and isinstance(data.get("result"), str):
            data["result"] = content_mark(data["result"])
    return data


class Shape(NamedTuple):
    """How instances of a class are written."""

    label: str
    """Where a message says its class."""
    names: KeysView[str]
    """Every name that there is."""
    own: frozenset[str]
    """Those that are not the same for every message."""
    content: tuple[str, ...]
    head: bytes
    """The line of an event with the usual ids and date, with places for these and for its own fields."""


@lru_cache(maxsize=1024)
def shape_of(kind: Any) -> Shape:
    """Return how instances of a message class, or another dataclass, are written."""
    label = "event_type" if issubclass(kind, Event) else "command_type" if issubclass(kind, Command) else "message_type"
    added = (label, "timestamp", "correlation_id", "causation_id") if issubclass(kind, Message) else ()
    public = [f.name for f in fields(kind) if not f.name.startswith("_")]
    own = frozenset(public) - {"event_id", "timestamp", "metadata"}
    head = b""
    given = ("event_id", "timestamp", "metadata", "correlation_id", "causation_id")
    usual = issubclass(kind, Event) and all(getattr(kind, name) is getattr(Event, name) for name in given)
    if usual and label not in own:
        name = orjson.dumps(kind.__name__).replace(b"%", b"%%")
        head = (
            b'{"event_type":' + name + b',"event_id":"%b","timestamp":"%b.%06d+00:00","metadata":{},'
            b'"correlation_id":"%b","causation_id":%b,%b'
        )
    return Shape(label, dict.fromkeys([*added, *public]).keys(), own, content_fields(kind), head)
