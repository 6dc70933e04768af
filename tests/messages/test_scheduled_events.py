"""Events with a time: what it may be, when they are due, and how they come back."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any, Optional
from zoneinfo import ZoneInfo

import pytest

from llmgine.errors import CodecError, ConfigurationError
from llmgine.messages import EVENT_CLASSES, Event, ScheduledEvent, register_scheduled_event_class
from llmgine.messages.codec import decode, encode
from llmgine.messages.scheduled_events import due

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

NOON = datetime(2026, 12, 24, 12, tzinfo=UTC)


@dataclass
class Reminder(ScheduledEvent):
    text: str = ""
    sent: dt.datetime | None = None
    old: Optional[datetime] = None  # noqa: UP045  # as applications write it
    noted: Annotated[datetime | None, "extra"] = None
    either: datetime | str | None = None
    day: dt.date | None = None
    unknown: Unknown | None = None


class Forgetful(ScheduledEvent):
    def __init__(self, text: str) -> None:
        self.text = text


def test_the_default_is_now() -> None:
    before = datetime.now(UTC)
    event = ScheduledEvent()

    assert before <= event.scheduled_time <= datetime.now(UTC)
    assert due(event) == event.scheduled_time


def test_a_dict_has_the_time_in_iso_8601_and_comes_back() -> None:
    event = ScheduledEvent(scheduled_time=NOON)

    assert event.to_dict()["scheduled_time"] == "2026-12-24T12:00:00+00:00"
    assert ScheduledEvent.from_dict(event.to_dict()) == event


@pytest.mark.parametrize(
    "moment",
    [NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=-3))), NOON.replace(microsecond=1)],
)
def test_all_fields_of_a_subclass_come_back(moment: datetime) -> None:
    event = Reminder("call", moment, moment, moment, "2026-01-01", NOON.date(), scheduled_time=moment)

    back = Reminder.from_dict(event.to_dict())

    assert back == event
    assert (back.scheduled_time.tzinfo is None) == (moment.tzinfo is None)
    assert back.sent is not None
    assert back.sent.utcoffset() == moment.utcoffset()
    assert decode(encode(event)) == event


def test_a_text_stays_where_a_text_may_be_meant() -> None:
    assert Reminder.from_dict({"either": "2026-01-01", "text": "2026-01-01"}).to_dict().items() >= {
        ("either", "2026-01-01"),
        ("text", "2026-01-01"),
    }


def test_a_text_that_is_no_date_is_refused() -> None:
    with pytest.raises(CodecError, match=r"Reminder.sent .* not 'soon'"):
        Reminder.from_dict({"sent": "soon"})


def test_a_class_may_read_its_dates_itself() -> None:
    @dataclass
    class Own(ScheduledEvent):
        @classmethod
        def from_dict(cls, data: Mapping[str, Any]) -> Own:
            return super().from_dict({**data, "scheduled_time": datetime.fromisoformat(data["scheduled_time"])})

    event = Own(scheduled_time=NOON)

    assert Own.from_dict(event.to_dict()) == event
    assert decode(encode(event)) == event


def test_due_is_aware_and_utc() -> None:
    assert due(ScheduledEvent(scheduled_time=NOON.astimezone(ZoneInfo("Asia/Tokyo")))) == NOON
    assert due(ScheduledEvent(scheduled_time=NOON.astimezone(ZoneInfo("Asia/Tokyo")))).tzinfo is UTC


def test_a_naive_time_is_local_time() -> None:
    code = (
        "from datetime import datetime; from llmgine.messages.scheduled_events import *\n"
        "print(due(ScheduledEvent(scheduled_time=datetime(2026, 7, 1, 12))).isoformat())"
    )
    environment = {**os.environ, "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout.strip() == "2026-07-01T03:00:00+00:00"


def test_never_and_always_are_times_too() -> None:
    assert due(ScheduledEvent(scheduled_time=datetime.max)).year >= 9999  # noqa: DTZ901  # naive is meant
    assert due(ScheduledEvent(scheduled_time=datetime.min)).year == 1  # noqa: DTZ901
    assert due(ScheduledEvent(scheduled_time=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))).year == 9999


def test_an_event_without_a_time_is_due() -> None:
    event = Forgetful("x")
    first = due(event)

    assert first <= datetime.now(UTC)
    assert due(event) == first
    assert due(ScheduledEvent(scheduled_time=None)) < first  # type: ignore[arg-type]


def test_what_is_no_time_is_named() -> None:
    with pytest.raises(TypeError, match=r"Reminder\.scheduled_time has to be a datetime, not str 'noon'"):
        due(Reminder(scheduled_time="noon"))  # type: ignore[arg-type]


def test_classes_are_known_by_their_names() -> None:
    assert EVENT_CLASSES["ScheduledEvent"] is ScheduledEvent
    try:
        assert register_scheduled_event_class(Reminder) is Reminder
        assert EVENT_CLASSES["Reminder"] is Reminder
    finally:
        EVENT_CLASSES.pop("Reminder", None)


@pytest.mark.parametrize("cls", [int, 5, Reminder(), "Reminder"])
def test_what_is_no_class_of_messages_is_not_registered(cls: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a subclass"):
        register_scheduled_event_class(cls)


def test_any_event_may_have_dates() -> None:
    @dataclass
    class Met(Event):
        when: datetime

    event = Met(NOON)

    assert Met.from_dict(event.to_dict()).to_dict() == event.to_dict()
