"""Any event becomes one line of JSON, which says what was in it and is never larger than allowed."""

from __future__ import annotations

import subprocess
import sys
from collections import ChainMap, OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import CommandResultEvent, CommandStartedEvent, EventHandlerFailedEvent
from llmgine.messages.message import origin_of
from llmgine.observability.redact import REDACTED, redact
from llmgine.observability.serialize import to_dict, to_line


@dataclass
class Happened(Event):
    value: Any = None
    _private: str = "unseen"


@dataclass
class Greet(Command[str]):
    name: str = "Ada"


class Plain(Event):
    """Forgets `super().__init__()`."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._secret = "unseen"


@dataclass(slots=True)
class Slotted(Event):
    value: int = 0


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 2


class Word(StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: float
    y: Any = None


@dataclass(frozen=True, slots=True)
class Pair:
    left: Any
    right: Any = None


class Account(BaseModel):
    name: str
    born: date
    password: SecretStr = SecretStr("hidden")
    internal: int = Field(default=1, exclude=True)


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "overridden"


class Real(float):
    def __float__(self) -> float:
        raise ArithmeticError


class Unprintable:
    def __str__(self) -> str:
        msg = "no"
        raise ValueError(msg)


class Surrogates:
    def __str__(self) -> str:
        return "\ud800"


class LyingAboutItsClass:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError


class BrokenMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


Named = namedtuple("Named", "a b")  # noqa: PYI024  # the untyped kind is meant


def value_of(value: Any, **bounds: Any) -> Any:
    """What a line says about a value, after what `to_dict` says has been found to be the same."""
    event = Happened(value=value)
    line = to_line(event, **bounds)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    data = orjson.loads(line)
    assert data == to_dict(event, **bounds)
    return data["value"]


def test_an_event_is_written_with_every_public_field_and_its_class() -> None:
    event = Happened(value=1, session_id=SessionID("s"), metadata={"source": "test"})
    assert to_dict(event) == {
        "event_type": "Happened",
        "timestamp": event.timestamp,
        "correlation_id": event.event_id,
        "causation_id": None,
        "event_id": event.event_id,
        "session_id": "s",
        "metadata": {"source": "test"},
        "value": 1,
    }


def test_the_class_comes_first_and_is_not_displaced_by_a_field_of_the_same_name() -> None:
    event = Happened()
    event.__dict__["event_type"] = "mine"
    assert to_line(event).startswith(b'{"event_type":"Happened",')


def test_the_chain_and_its_trace_are_written() -> None:
    event = Happened()
    event.correlation_id = "first"
    event.causation_id = "previous"
    event.traceparent = "00-1-2-01"
    data = orjson.loads(to_line(event))
    assert [data[name] for name in ("correlation_id", "causation_id", "traceparent")] == [
        "first",
        "previous",
        "00-1-2-01",
    ]


def test_a_plain_subclass_is_written_with_its_public_attributes_and_what_it_left_out() -> None:
    event = Plain(5)
    data = orjson.loads(to_line(event))
    assert data == to_dict(event)
    assert data.keys() == (to_dict(Happened()) | {"value": 5}).keys()
    assert data["event_id"] == event.event_id


def test_a_slotted_dataclass_is_written_with_its_fields() -> None:
    event = Slotted(value=3)
    assert orjson.loads(to_line(event)) == to_dict(event)
    assert to_dict(event).keys() == to_dict(Happened()).keys()
    assert to_dict(event)["value"] == 3


def test_messages_inside_an_event_are_written_like_events() -> None:
    command = Greet(name="Ada")
    started = orjson.loads(to_line(CommandStartedEvent(command=command)))
    assert started["command"] == {
        "command_type": "Greet",
        "timestamp": command.timestamp,
        "correlation_id": command.command_id,
        "causation_id": None,
        "command_id": command.command_id,
        "session_id": "BUS",
        "metadata": {},
        "name": "Ada",
    }
    ended = orjson.loads(to_line(CommandResultEvent(command_result=CommandResult(success=True, result=Point(1.0)))))
    assert ended["command_result"]["result"] == {"x": 1.0, "y": None}
    assert ended["command_result"]["message_type"] == "CommandResult"
    failed = orjson.loads(to_line(EventHandlerFailedEvent(event=Happened(value=1), exception=ValueError("bad"))))
    assert failed["event"]["event_type"] == "Happened"
    assert failed["exception"] == "ValueError: bad"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Color.RED, "red"),
        (Level.HIGH, 2),
        (Word.YES, "yes"),
        (Text("content"), "content"),
        (Real(0.5), 0.5),
        (KeyError("k"), "KeyError: 'k'"),
        (TimeoutError(), "TimeoutError"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=7))), "2026-01-02T00:00:00+00:00:07"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4, tzinfo=UTC), "03:04:00+00:00"),
        (timedelta(seconds=1), "0:00:01"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\xff", "b'\\xff'"),
        (bytearray(b"a"), "bytearray(b'a')"),
        (Path("a/b"), "a/b"),
        ({3}, [3]),
        (frozenset(), []),
        ((1, (2,)), [1, [2]]),
        (Named(1, 2), [1, 2]),
        (deque([1]), [1]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": {1}}), {"a": [1]}),
        (ChainMap({"a": 1}), {"a": 1}),
        (BrokenMapping(a=1), {"a": 1}),
        (Point(1.5, Pair({"k": b""})), {"x": 1.5, "y": {"left": {"k": "b''"}, "right": None}}),
        (Account(name="Ada", born=date(2000, 1, 2)), {"name": "Ada", "born": "2000-01-02", "password": "**********"}),
        (Point, f"<class '{__name__}.Point'>"),
        (len, "<built-in function len>"),
        (float("nan"), None),
        (float("-inf"), None),
        (2**64 - 1, 2**64 - 1),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        ("a\ud800b", "a\\ud800b"),
        pytest.param(Surrogates(), "\\ud800", id="surrogates"),
        ("two\nlines", "two\nlines"),
    ],
    ids=repr,
)
def test_what_json_lacks_is_written_as_what_comes_nearest(value: Any, expected: Any) -> None:
    assert value_of(value) == expected
    assert value_of([value]) == [expected]


def test_keys_become_texts_and_none_is_lost() -> None:
    keys = {
        1: "int",
        "1": "text",
        None: "none",
        (1, "a"): "tuple",
        Color.RED: "enum",
        Word.YES: "word",
        "\ud800": "bad",
    }
    assert value_of(keys) == {
        "1": "int",
        "1#1": "text",
        "None": "none",
        "[1, 'a']": "tuple",
        "red": "enum",
        "yes": "word",
        "\\ud800": "bad",
    }


@pytest.mark.parametrize("make", [Unprintable, LyingAboutItsClass, lambda: 10**5000])
def test_what_cannot_be_written_is_marked_and_the_rest_is_written(make: Callable[[], Any]) -> None:
    value = make()
    first, mark, last = value_of([1, value, 2])
    assert (first, last) == (1, 2)
    assert type(value).__name__ in mark
    assert "raised" in mark
    assert list(value_of({value: 1}).values()) == [1]


def test_an_event_that_cannot_be_read_is_still_a_line() -> None:
    class Broken(Event):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    data = orjson.loads(to_line(Broken()))
    assert data["event_type"] == "Broken"
    assert "raised RuntimeError" in data["event"]


def test_a_cycle_is_marked_where_it_closes_and_what_merely_repeats_is_written_again() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["self"] = [loop]
    assert value_of(loop) == {"a": 1, "self": ["<cycle>"]}
    point = Point(1.0)
    point.y = point
    assert value_of(point) == {"x": 1.0, "y": "<cycle>"}
    shared = [1]
    assert value_of([shared, shared]) == [[1], [1]]


def test_an_event_that_contains_itself_is_written() -> None:
    event = Happened()
    event.value = {"event": event}
    assert orjson.loads(to_line(event))["value"] == {"event": "<cycle>"}


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, Pair, lambda v: (v,)])
def test_deep_nesting_ends_in_a_mark(wrap: Any) -> None:
    value: Any = "bottom"
    for _ in range(5000):
        value = wrap(value)
    line = to_line(Happened(value=value))
    assert line.count(b"<too deep>") == 1
    assert orjson.loads(line)["event_type"] == "Happened"


def test_depth_is_bounded() -> None:
    assert value_of([[["x"]]], max_depth=2) == ["<too deep>"]
    assert value_of([[["x"]]], max_depth=4) == [[["x"]]]


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    assert value_of("x" * 100_001) == "x" * 100_000 + "<1 characters left out>"
    assert value_of("x" * 100_000) == "x" * 100_000
    assert value_of({"é" * 50: b"b" * 90}, max_text=40) == {
        "é" * 40 + "<10 characters left out>": "b'" + "b" * 38 + "<53 characters left out>"
    }


def test_the_number_of_values_is_bounded() -> None:
    assert value_of(list(range(10)), max_values=10) == [0, 1, "<8 more>"]
    assert value_of({"a": 1, "b": 2}, max_values=9) == {"a": 1, "<left out>": "<1 more>"}


def test_a_graph_in_which_everything_refers_to_everything_is_written_in_bounded_time() -> None:
    nodes = [Point(float(n), []) for n in range(30)]
    for node in nodes:
        node.y.extend(nodes)
    assert len(to_line(Happened(value=nodes))) < 10_000_000


@pytest.mark.parametrize("wrap", [lambda v: [v, v], lambda v: {"a": v, "b": v}, lambda v: (v, v), lambda v: Pair(v, v)])
def test_what_is_shared_everywhere_is_written_in_bounded_time_and_space(wrap: Any) -> None:
    value: Any = "bottom"
    for _ in range(60):
        value = wrap(value)
    assert len(to_line(Happened(value=value))) < 10_000_000


def test_pydantic_is_not_imported_for_events_without_it() -> None:
    code = (
        "import sys\n"
        "from llmgine.messages import Event\n"
        "from llmgine.observability.serialize import to_line\n"
        "to_line(Event(metadata={'value': object()}))\n"
        "sys.exit('pydantic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None))
odd = st.one_of(
    st.binary(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
    st.uuids(),
    st.sampled_from([*Color, *Level, *Word, len, Point, Unprintable(), Surrogates(), range(3), ...]),
    st.builds(ValueError, json_scalars),
    st.builds(Text, st.text()),
    st.builds(Real, st.floats()),
    st.builds(Path, st.just("a")),
)
hashable = json_scalars | st.binary() | st.sampled_from([*Color, *Level, Unprintable(), (1, 2)])
values = st.recursive(
    json_scalars | odd,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(deque),
        st.dictionaries(hashable, inner),
        st.dictionaries(st.text(), inner).map(BrokenMapping),
        st.frozensets(hashable),
        st.builds(Point, st.floats(), inner),
        st.builds(Pair, inner, inner),
        st.builds(Greet, name=inner),
        st.builds(Happened, value=inner),
        st.builds(Plain, inner),
        st.builds(lambda result: CommandResult(success=True, result=result), inner),
    ),
    max_leaves=20,
)


@given(value=values, metadata=st.dictionaries(st.text(), values, max_size=3), max_text=st.integers(0, 200))
def test_any_event_is_one_line_of_json_that_says_what_the_dict_says_and_is_not_changed(
    value: Any, metadata: dict[str, Any], max_text: int
) -> None:
    event = Happened(value=value, metadata=metadata)
    before = {name: id(attribute) for name, attribute in vars(event).items()}
    choices: list[dict[str, Any]] = [{}, {"max_text": max_text}]
    for bounds in choices:
        line = to_line(event, **bounds)
        assert line.index(b"\n") == len(line) - 1
        assert orjson.loads(line) == to_dict(event, **bounds)
    assert {name: id(attribute) for name, attribute in vars(event).items()} == before


@dataclass
class Full(Event):
    items: list[Any] = field(default_factory=lambda: [1, {"a": {2}}, (3,)])


def test_an_event_is_the_same_after_it_was_written() -> None:
    event, twin = Full(event_id="e", timestamp="t"), Full(event_id="e", timestamp="t")
    to_line(event)
    to_dict(event, max_values=3)
    assert event == twin
    assert vars(event) == vars(twin)


@dataclass
class Flat(Event):
    text: str = ""
    number: float | None = 0.5


@pytest.mark.parametrize("caused", [False, True])
@pytest.mark.parametrize("read", ["", "event_id", "timestamp"])
def test_what_is_written_before_it_is_read_is_what_is_read_later(caused: bool, read: str) -> None:
    event, command = Flat(text="é", session_id=SessionID('"s"')), Greet()
    if caused:
        event._identity = (*origin_of(event)[:1], origin_of(command)[0], origin_of(command)[0], None)
    if read:
        getattr(event, read)
    data = orjson.loads(to_line(event, record_content=False, redactor=redact))
    assert data == to_dict(event)
    for name in ("event_id", "timestamp", "correlation_id", "causation_id", "session_id", "text", "number"):
        assert data[name] == getattr(event, name)
    if caused:
        assert data["causation_id"] == data["correlation_id"] == command.command_id


@pytest.mark.parametrize("name", ["%s", "Naïve", 'Quo"te', "A%%b"])
def test_a_class_may_have_any_name(name: str) -> None:
    event = type(name, (Event,), {})()
    assert orjson.loads(to_line(event)) == to_dict(event)


def test_a_field_with_the_name_of_something_given_is_written_once() -> None:
    @dataclass
    class Odd(Event):
        event_type: str = "mine"
        traceparent: str = "t"

    event = Odd()
    line = to_line(event)
    assert line.count(b"event_type") == line.count(b"traceparent") == 1
    assert orjson.loads(line) == to_dict(event)


SECRET = "sk-proj-T3BlbkFJabcdefghijkl"
secret_texts = st.sampled_from([SECRET, f"it is {SECRET}.", f"password={SECRET}"])
secretive = st.recursive(
    json_scalars | secret_texts | secret_texts.map(Text) | st.sampled_from([Enum("Kind", {"A": SECRET}).A]),  # type: ignore[attr-defined]
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.sampled_from(["a", "password", "x-api-key", "time_to_first_token", SECRET]), inner),
        st.builds(Point, st.floats(), inner),
        st.builds(Greet, name=inner),
        st.builds(Happened, value=inner),
    ),
    max_leaves=10,
)


@given(value=secretive, metadata=st.dictionaries(st.just("note"), secretive), max_text=st.integers(0, 200))
def test_no_secret_is_written_and_line_and_dict_agree(value: Any, metadata: dict[str, Any], max_text: int) -> None:
    event = Happened(value=value, metadata=metadata)
    choices: list[dict[str, Any]] = [{}, {"max_text": max_text}]
    for bounds in choices:
        line = to_line(event, redactor=redact, **bounds)
        assert orjson.loads(line) == to_dict(event, redactor=redact, **bounds)
        assert b"T3Blbk" not in line


@given(value=secretive)
def test_what_redacting_leaves_is_what_redacting_the_dict_leaves(value: Any) -> None:
    event = Happened(value=value)
    assert to_dict(event, redactor=redact)["value"] == redact(to_dict(event))["value"]


def test_a_secret_that_the_end_of_a_long_text_goes_through_is_found() -> None:
    text = f"{'x ' * 48}{SECRET} and more"
    for max_text in range(90, 130):
        assert b"sk-" not in to_line(Happened(value=text), redactor=redact, max_text=max_text)
    assert to_dict(Happened(value=text), redactor=redact)["value"] == f"{'x ' * 48}{REDACTED} and more"


def test_fields_with_the_names_of_secrets_go_and_those_that_count_stay() -> None:
    @dataclass
    class Login(Event):
        password: str = "p"
        time_to_first_token: float = 0.5
        token: int = 3

    data = orjson.loads(to_line(Login(), redactor=redact))
    assert (data["password"], data["time_to_first_token"], data["token"]) == (REDACTED, 0.5, 3)
