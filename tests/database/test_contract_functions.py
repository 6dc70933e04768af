"""The functions without an event loop: they follow the environment, and no database makes them raise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from llmgine import database
from llmgine.bus.recurrence import Every
from llmgine.bus.stores import Held
from llmgine.database import get_and_delete_unfinished_events, persist_event, reset_engine, save_unfinished_events
from llmgine.messages import Event
from llmgine.messages.scheduled_events import EVENT_CLASSES, ScheduledEvent

from .conftest import Place


@dataclass
class Wake(ScheduledEvent):
    room: str = ""


@dataclass
class Odd(Event):
    thing: Any = None


SOON = datetime(2040, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    reset_engine()


@pytest.fixture
def environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("LLMGINE_DB_URL", place.url)
    monkeypatch.setenv("LLMGINE_DB_SCHEMA", place.schema)
    monkeypatch.setenv("LLMGINE_PERSIST_EVENTS", "1")
    return place


def rows(place: Place, table: str) -> int:
    return cast("int", place.execute("SELECT count(*) FROM", place.name(table))[0][0])


def test_what_is_saved_comes_back_once_by_its_time(environment: Place) -> None:
    events = [Wake(room=f"{n}", scheduled_time=SOON + timedelta(seconds=-n)) for n in range(5)]
    save_unfinished_events(events)
    reset_engine()

    assert get_and_delete_unfinished_events() == events[::-1]
    assert get_and_delete_unfinished_events() == []


def test_a_class_may_be_registered_by_name(environment: Place) -> None:
    @dataclass
    class Local(ScheduledEvent):
        n: int = 0

    save_unfinished_events([Local(n=3, scheduled_time=SOON)])
    EVENT_CLASSES["Local"] = Local
    try:
        (event,) = get_and_delete_unfinished_events()
    finally:
        del EVENT_CLASSES["Local"]
    assert (type(event).__name__, vars(event)["n"]) == ("Local", 3)


def test_what_cannot_be_read_is_left_out_and_kept(environment: Place) -> None:
    save_unfinished_events([Wake(event_id="a"), Wake(event_id="b"), Wake(event_id="c")])
    environment.execute("UPDATE {scheduled_events} SET payload = 'x' WHERE id = 'a'")
    environment.execute("UPDATE {scheduled_events} SET type_name = 'gone:Gone' WHERE id = 'b'")

    assert [event.event_id for event in get_and_delete_unfinished_events()] == ["c"]
    assert rows(environment, "scheduled_events") == 2


async def test_what_repeats_or_is_being_delivered_is_left_where_it_is(environment: Place) -> None:
    stores = environment.open()
    now = environment.clock()
    await stores.schedule.add([Held.of(Wake(event_id="again"), now, Every(10, now))])
    stores.schedule._access.clock = lambda: datetime.now(UTC)
    await stores.schedule.add([Held.of(Wake(event_id="claimed"), datetime.now(UTC))])
    assert len(await stores.schedule.claim(datetime.now(UTC), 10)) == 1
    await stores.aclose()

    assert get_and_delete_unfinished_events() == []
    assert rows(environment, "scheduled_events") == 2


def test_an_event_that_cannot_be_stored_does_not_hold_up_the_others(
    environment: Place, caplog: pytest.LogCaptureFixture
) -> None:
    save_unfinished_events([Odd(thing=object()), Wake(event_id="a"), Wake(event_id="b", scheduled_time=None)])  # type: ignore[arg-type]

    assert {event.event_id for event in get_and_delete_unfinished_events()} == {"a", "b"}
    assert "thing" in caplog.text


def test_every_event_has_one_row_in_the_log_if_that_is_wanted(
    environment: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    persist_event(Wake(room="1"))
    persist_event(Odd(thing=object()))
    assert rows(environment, "event_log") == 2

    monkeypatch.setenv("LLMGINE_PERSIST_EVENTS", "0")
    persist_event(Wake())
    assert rows(environment, "event_log") == 2


def test_the_environment_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("LLMGINE_DB_URL", f"sqlite:///{tmp_path / name}.db")
        save_unfinished_events([Wake(room=name)])
    monkeypatch.setenv("LLMGINE_DB_SCHEMA", "other.place")
    assert get_and_delete_unfinished_events() == []

    monkeypatch.setenv("LLMGINE_DB_SCHEMA", "message_bus")
    for name in ("one", "two"):
        monkeypatch.setenv("LLMGINE_DB_URL", f"sqlite:///{tmp_path / name}.db")
        assert [vars(event)["room"] for event in get_and_delete_unfinished_events()] == [name]


def test_tables_can_be_dropped_and_come_back(environment: Place) -> None:
    database.drop_all()
    save_unfinished_events([Wake()])
    database.drop_all()
    with pytest.raises(Exception, match="scheduled_events"):
        rows(environment, "scheduled_events")

    assert get_and_delete_unfinished_events() == []
    assert rows(environment, "scheduled_events") == 0


def test_tables_of_others_are_not_dropped(environment: Place) -> None:
    if not environment.is_sqlite:
        environment.execute(f"CREATE SCHEMA {environment.schema}")
    environment.execute("CREATE TABLE {scheduled_events} (id INTEGER)")
    database.drop_all()
    assert rows(environment, "scheduled_events") == 0


def test_dropping_what_is_not_there_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_DB_URL", f"sqlite:///{tmp_path / 'none.db'}")
    database.drop_all()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "schema"),
    [
        ("invalid://invalid", "message_bus"),
        ("nonsense", "message_bus"),
        ("sqlite:////no/such/folder/bus.db", "message_bus"),
        ("postgresql://nobody:hush@127.0.0.1:1/none", "message_bus"),
        ("sqlite://", "no name; DROP"),
    ],
)
def test_no_database_makes_them_raise(
    url: str, schema: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLMGINE_DB_URL", url)
    monkeypatch.setenv("LLMGINE_DB_SCHEMA", schema)
    monkeypatch.setenv("LLMGINE_PERSIST_EVENTS", "1")

    with caplog.at_level(logging.WARNING, "llmgine.database"):
        save_unfinished_events([Wake()])
        assert get_and_delete_unfinished_events() == []
        persist_event(Wake())
        reset_engine()
        database.drop_all()
    assert caplog.records
    assert "hush" not in caplog.text
