"""Messages of many shapes: what the stored forms in this folder stand for.

`python tests/messages/corpus` prints today's form: the next file, where it differs from the newest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from llmgine.messages import Command, CommandResult, Event, ScheduledEvent, SessionID
from llmgine.messages.codec import encode, renamed, upcaster
from llmgine.messages.message import Message

NAME = "stored_corpus"
"""What this module is called, whoever loads it."""


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Right(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True)
class Address:
    street: str
    city: str = "Graz"
    lines: tuple[str, ...] = ()


@dataclass(slots=True)
class Place:
    schema_version: ClassVar[int] = 2

    name: str
    country: str


@upcaster(Place, from_version=1)
def _place_with_country(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "country": "AT"}


@dataclass
class Anything(Event):
    value: Any = None


@dataclass
class Reminder(ScheduledEvent):
    text: str = ""
    address: Address | None = None


@dataclass
class Charge(Command[str]):
    amount: Decimal = Decimal(0)
    tags: list[str] = field(default_factory=list)


@dataclass
class Order(Event):
    """Version 1 had `name`; version 2 had `customer`; version 3 has `placed` too."""

    schema_version: ClassVar[int] = 3

    customer: str
    placed: datetime | None = None


@upcaster(Order, from_version=1)
def _order_with_customer(fields: dict[str, Any]) -> dict[str, Any]:
    fields["customer"] = fields.pop("name")
    return fields


@upcaster(Order, from_version=2)
def _order_with_placed(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "placed": datetime(2026, 1, 1, tzinfo=UTC)}


@dataclass
class Parcel(Event):
    """Was two classes once: `Letter` and `Box`."""

    schema_version: ClassVar[int] = 2

    kind: str
    grams: int = 0


@upcaster(f"{NAME}:Letter", from_version=1, to=Parcel)
def _letter(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "kind": "letter"}


@upcaster(f"{NAME}:Box", from_version=1, to=Parcel)
def _box(fields: dict[str, Any]) -> dict[str, Any]:
    fields["grams"] = fields.pop("kilograms") * 1000
    return {**fields, "kind": "box"}


renamed(f"{NAME}:Colour", Color)
renamed("gone.module:Memo", Reminder)


class Own(Event):
    """Says itself what is stored of it."""

    def __init__(self, secret: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.secret = secret

    def to_dict(self) -> dict[str, Any]:
        return {"reversed": self.secret[::-1]}

    @classmethod
    def from_dict(cls, data: Any) -> Own:
        return cls(data["reversed"][::-1])


def _whole(message: Any, number: int) -> Any:
    """Give a message the ids and the date that it had when it was written."""
    setattr(message, message._id_field, f"{number:032x}")
    message.timestamp = "2026-11-20T10:00:00.000001+00:00"
    message.session_id = SessionID("session")
    message.metadata = {"number": number, "nested": {"list": [1, 2.5, None, True, "ü"]}}
    message.correlation_id, message.causation_id = "c" * 32, "d" * 32
    message.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return message


_BERLIN = ZoneInfo("Europe/Berlin")
_VALUES: dict[str, Any] = {
    "datetime": [
        datetime(2026, 11, 20, 9, 30, 0, 123456),  # noqa: DTZ001  # naive is meant
        datetime(2026, 11, 20, 9, 30, tzinfo=UTC),
        datetime(2026, 11, 20, 9, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        datetime(2026, 10, 25, 2, 30, tzinfo=_BERLIN, fold=1),
        datetime(2026, 10, 25, 2, 30, tzinfo=_BERLIN),
        datetime(2026, 3, 29, 2, 30, tzinfo=_BERLIN),
    ],
    "date": [
        date(2026, 11, 20),
        time(9, 30),
        time(9, 30, tzinfo=_BERLIN, fold=1),
        time(1, tzinfo=UTC),
        timedelta(-1, 5, 7),
    ],
    "number": [
        Decimal("1.50"),
        Decimal("-Infinity"),
        2**63,
        -(2**70),
        2**53 + 1,
        1e308,
        -0.0,
        float("inf"),
        complex(1, -0.0),
    ],
    "text": ["", "naïve 🙂", "half \ud800", "nul \0", b"\x00\xff", UUID(int=7), Path("a/b c")],
    "containers": [(), (1, (2,)), {3, 1, 2}, frozenset({"b", "a"}), Point(1, 2), [[]]],
    "dicts": [{}, {1: "a", (2, 3): None}, {"$set": [1]}, {"$dict": {"$lossy": 1}}, {"a": {"b": {}}}],
    "enums": [Color.RED, Level.HIGH, Right.READ | Right.WRITE, {Color.BLUE: 1}],
    "objects": [Address("Ring 1", lines=("a", "b")), Place("Lech", "AT"), [Address("x")]],
}

EXAMPLES: dict[str, Message] = {
    **{name: _whole(Anything(value=value), number) for number, (name, value) in enumerate(_VALUES.items(), 1)},
    "nested": _whole(Anything(value=[_whole(Charge(amount=Decimal("9.99"), tags=["a"]), 31)]), 30),
    "scheduled": _whole(Reminder(scheduled_time=datetime(2026, 12, 24, 18, tzinfo=UTC), address=Address("Ring 1")), 32),
    "command": _whole(Charge(amount=Decimal("0.10")), 33),
    "result": _whole(CommandResult(success=False, error="ValueError: no"), 34),
    "own": _whole(Own("secret"), 35),
    "order": _whole(Order("Ada", datetime(2026, 1, 1, tzinfo=UTC)), 36),
    "letter": _whole(Parcel("letter", 20), 37),
    "box": _whole(Parcel("box", 2000), 38),
    "place": _whole(Anything(value=Place("Lech", "AT")), 39),
    "color": _whole(Anything(value=Color.RED), 40),
    "memo": _whole(Reminder(scheduled_time=datetime(2026, 12, 24, 18, tzinfo=UTC), text="call"), 41),
}


def written() -> list[dict[str, Any]]:
    """Today's form of every example."""
    stored = [(name, encode(message)) for name, message in EXAMPLES.items()]
    return [{"name": name, "type_name": s.type_name, "version": s.version, "data": s.data} for name, s in stored]
