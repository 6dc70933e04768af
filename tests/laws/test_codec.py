"""Law 24, of what is stored: all fields come back as they were; what has been tampered with is an error, never more."""

from __future__ import annotations

import json
import math
import string
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from pathlib import PurePath
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgine.errors import CodecError
from llmgine.messages import Command, Event, ScheduledEvent, SessionID
from llmgine.messages.codec import StoredMessage, decode, encode
from llmgine.messages.message import Message


class Color(Enum):
    RED = "red"
    BLUE = ("b", 1)


class Role(str, Enum):  # noqa: UP042  # as it is written where 3.11 is not the oldest
    USER = "user"


class Size(IntEnum):
    S = 1
    L = 3


class Right(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass(frozen=True)
class Frozen:
    a: Any = None
    _b: Any = None


@dataclass(slots=True)
class Slotted:
    a: Any
    b: list[Any] = field(default_factory=list)


@dataclass
class Noted(Event):
    value: Any = None
    other: Any = ""


@dataclass(slots=True)
class Held(ScheduledEvent):
    value: Any = None


@dataclass
class Do(Command[Any]):
    value: Any


class Plain(Event):
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.value == self.value and other.id == self.id

    __hash__ = None  # type: ignore[assignment]


texts = (
    st.text()
    | st.text(st.characters(categories=["Cs", "Cc"]))
    | st.sampled_from(["$set", "$dict", "$lossy", "$", "\0"])
)
moments = st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53 + 1, 2**63, -(2**63) - 1, 10**400]),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False),
    texts,
    st.binary(max_size=20),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.none() | st.timezones()),
    moments,
    st.timedeltas(),
    st.sampled_from([*Color, *Size, *Right, Right.READ | Right.WRITE]),
)
keys = st.one_of(texts, st.integers(), st.dates(), st.sampled_from([*Color, *Role]), st.tuples(st.integers(), texts))


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
        st.dictionaries(texts, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Frozen, inner, inner),
        st.builds(Slotted, inner, st.lists(inner, max_size=2)),
        st.builds(Noted, value=inner),
    )


values = st.recursive(scalars, _nested, max_leaves=8)
ids = st.text(string.hexdigits, min_size=1)


def _linked(message: Any, correlation: str, causation: str | None, traceparent: str | None) -> Any:
    message.correlation_id, message.causation_id, message.traceparent = correlation, causation, traceparent
    return message


messages = st.builds(
    _linked,
    st.one_of(
        st.builds(Noted, value=values, other=values, metadata=st.dictionaries(texts, values, max_size=2), event_id=ids),
        st.builds(Held, scheduled_time=moments, value=values, session_id=texts.map(SessionID)),
        st.builds(Do, values, timestamp=texts | moments),
        st.builds(Plain, values),
    ),
    texts.filter(bool),
    st.none() | texts,
    st.none() | texts,
)
unhurried = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


def alike(a: Any, b: Any) -> bool:  # noqa: PLR0911  # one for each kind of value
    """Whether two values are the same in type, zone, fold and sign too, which `==` does not ask."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Message):
        return alike(told(a), told(b))
    if isinstance(a, dict):
        return {(key, type(key)) for key in a} == {(key, type(key)) for key in b} and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, Frozen | Slotted):
        return all(alike(getattr(a, name), getattr(b, name)) for name in type(a).__dataclass_fields__)
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, datetime | time):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and (a.fold, str(a.tzinfo)) == (b.fold, str(b.tzinfo))
    return bool(a.as_tuple() == b.as_tuple() if isinstance(a, Decimal) else a == b)


def told(message: Any) -> dict[str, Any]:
    names = ("id", "timestamp", "session_id", "metadata", "correlation_id", "causation_id", "traceparent", "value")
    return {name: getattr(message, name) for name in (*names, *message.__dict__) if name[0] != "_"}


def through_text(stored: StoredMessage) -> StoredMessage:
    text = stored.payload.encode().decode()  # as a database takes it
    assert "\\u0000" not in text
    return StoredMessage.from_payload(stored.type_name, stored.version, text)


@given(messages)
@unhurried
def test_what_is_decoded_is_what_was_encoded(message: Message) -> None:
    stored = encode(message)

    assert alike(decode(stored), message)
    assert alike(decode(through_text(stored)), message)
    assert through_text(stored) == stored
    assert encode(message, lossy=True) == stored


@given(messages)
@unhurried
def test_equal_messages_are_stored_alike(message: Message) -> None:
    stored = encode(message)

    assert encode(decode(stored)) == stored


@given(st.lists(st.sampled_from([object(), print, ValueError("x"), PurePath, Ellipsis]) | values, max_size=4))
@unhurried
def test_lossy_keeps_whatever_can_be_kept(value: list[Any]) -> None:
    stored = encode(Noted(value=value), lossy=True)
    read: Any = decode(through_text(stored))

    kept = [_storable(item) for item in value]
    assert [f"Noted.value[{number}]" in stored.lost for number in range(len(value))] == [not keep for keep in kept]
    assert all(alike(got, item) for got, item, keep in zip(read.value, value, kept, strict=True) if keep)


def _storable(value: Any) -> bool:
    try:
        encode(Noted(value=value))
    except CodecError:
        return False
    return True


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Return every place in JSON, as container and key."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in [(data, key), *_places(value)]]


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.lists(st.integers(), max_size=3),
    st.dictionaries(texts, st.integers(), max_size=2),
    st.sampled_from(["$set", "$dict", "$object", "$enum", "$tuple", "$path", "$base", "$datetime", "$bytes"]).map(
        lambda tag: {tag: [["os:system", {"$object": "builtins:eval"}]]}
    ),
    st.sampled_from(["os:system", "builtins:eval", "llmgine.messages.events:Event", f"{__name__}:Frozen"]),
)


@given(messages, st.data())
@unhurried
def test_what_has_been_tampered_with_raises_codec_errors_only(message: Message, data: st.DataObject) -> None:
    stored = encode(message)
    whole: Any = [stored.type_name, stored.version, json.loads(stored.payload)]
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(_places(whole)))
        if isinstance(container, dict) and data.draw(st.booleans()):
            container[data.draw(texts)] = container.pop(key)
        else:
            container[key] = data.draw(junk)

    try:
        read = decode(StoredMessage(*whole))
    except CodecError:
        return
    assert isinstance(read.id, str)
    read.to_dict()
