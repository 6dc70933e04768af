"""The log of events: one row each, whatever the database does meanwhile; how it is read, and what goes from it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmgine.bus import MessageBus
from llmgine.database.event_log import DatabaseEventLog
from llmgine.database.event_records import EventRecord
from llmgine.database.retention import Retention, Trimmer
from llmgine.database.stores import Database
from llmgine.errors import ConfigurationError, StoreError
from llmgine.messages import Event, SessionID

from .conftest import NOON, Clock, Place


@dataclass
class OrderPlaced(Event):
    order: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class OrderShipped(Event):
    order: str = ""


@dataclass
class Unwritable(Event):
    schema_version: ClassVar[int] = 2**70


@pytest.fixture
def log(database: Database) -> DatabaseEventLog:
    return DatabaseEventLog(database.access)


@pytest.fixture
async def file_log(tmp_path: Path) -> AsyncIterator[DatabaseEventLog]:
    """One whose database is away until `tmp_path / "there"` is made."""
    database = Database(f"sqlite:///{tmp_path / 'there' / 'bus.db'}")
    yield DatabaseEventLog(database.access, capacity=5)
    await database.aclose()


async def everything(database: Database, **filters: Any) -> list[EventRecord]:
    return [record async for record in database.event_records.records(**filters)]


async def orders(database: Database, **filters: Any) -> list[str]:
    return [json.loads(record.payload)["order"] for record in await everything(database, **filters)]


class TestWriting:
    async def test_every_published_event_has_one_row(
        self, place: Place, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLMGINE_PERSIST_EVENTS", "1")
        bus = MessageBus.isolated(database=database)
        await bus.start()
        event = OrderPlaced(order="a", session_id=SessionID("s"))
        await bus.publish(event)
        await bus.publish(event)
        await bus.publish(OrderShipped(order="a"), await_processing=False)
        await bus.stop()
        rows = place.execute("SELECT event_id, event_type, session_id FROM {event_log} ORDER BY position")
        expected = [(event.event_id, "OrderPlaced", "s")] * 2
        assert [(row.event_id, row.event_type, row.session_id) for row in rows[:2]] == expected
        assert [row.event_type for row in rows] == ["OrderPlaced", "OrderPlaced", "OrderShipped"]

    async def test_nothing_is_written_unless_that_is_asked_for(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LLMGINE_PERSIST_EVENTS", raising=False)
        assert database.event_log is None

    async def test_a_row_says_what_the_event_was_when_it_was_published(
        self, database: Database, log: DatabaseEventLog
    ) -> None:
        event = OrderPlaced(order="before", notes={"a": [1]}, session_id=SessionID("s"))
        event.correlation_id, event.causation_id = "first", "cause"
        log.append(event)
        event.order = "after"
        event.notes["a"].append(2)
        await log.flush()
        (record,) = await everything(database)
        fields = json.loads(record.payload)
        assert (fields["order"], fields["notes"]) == ("before", {"a": [1]})
        assert (record.event_id, record.event_type, record.session_id) == (event.event_id, "OrderPlaced", "s")
        assert (record.correlation_id, record.causation_id) == ("first", "cause")
        assert (record.event_time, record.published) == (event.timestamp, NOON)
        assert record.type_name.endswith("test_event_log:OrderPlaced")

    async def test_what_cannot_be_stored_is_marked_and_not_read_as_an_event(
        self, database: Database, log: DatabaseEventLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        for event in (OrderPlaced(order="a", notes={"lock": asyncio.Lock()}), OrderPlaced(order="b\0\ud800")):
            log.append(event)
        await log.flush()
        assert len(await everything(database)) == 2
        events = [event async for event in database.read_events()]
        assert [event.order for event in events if isinstance(event, OrderPlaced)] == ["b\0\ud800"]
        assert [text for text in caplog.messages if "left out" in text and "1 events" in text]

    async def test_events_are_written_in_order_and_many_at_once(
        self, database: Database, log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writes: list[object] = []
        submit = database.access.submit

        def noting(*args: Any, **options: Any) -> Future[Any]:
            writes.append(args)
            return submit(*args, **options)

        monkeypatch.setattr(database.access, "submit", noting)
        for number in range(2500):
            log.append(OrderPlaced(order=str(number)))
        await log.flush()
        assert log.unwritten == 0
        assert len(writes) <= 10  # those that trim among them
        assert await orders(database) == [str(number) for number in range(2500)]

    async def test_events_are_written_without_anybody_waiting(self, database: Database, log: DatabaseEventLog) -> None:
        for number in range(3):
            log.append(OrderPlaced(order=str(number)))
            await asyncio.sleep(0.03)
        async with asyncio.timeout(10):
            while log.unwritten:
                await log._watch()
        assert await orders(database) == ["0", "1", "2"]

    async def test_an_idle_log_has_no_timer(self, log: DatabaseEventLog) -> None:
        for _ in range(2):
            log.append(OrderPlaced())
            await log.flush()
        await asyncio.sleep(0)
        assert log._timer is None

    async def test_a_broken_event_disturbs_nobody(
        self, database: Database, log: DatabaseEventLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: Event) -> SessionID:
            raise ValueError

        broken = type("Broken", (OrderPlaced,), {"session_id": property(fail, lambda *_: None)})  # pyright: ignore[reportUnknownLambdaType]
        log.append(broken())
        log.append(OrderPlaced(order="a"))
        await log.flush()
        assert "a" in await orders(database)
        assert "Broken is missing in the log" in caplog.text

    async def test_a_row_that_cannot_be_written_does_not_hold_up_the_others(
        self, database: Database, log: DatabaseEventLog, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(10):
            log.append(Unwritable() if number == 4 else OrderPlaced(order=str(number)))
        await log.flush()
        log.append(OrderPlaced(order="10"))
        await log.flush()
        assert await orders(database) == [str(number) for number in range(11) if number != 4]
        assert len([text for text in caplog.messages if "Unwritable cannot be written" in text]) == 1


class TestOutages:
    async def test_a_database_that_is_away_stops_nobody_and_gets_everything_later(
        self, file_log: DatabaseEventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(12):
            if file_log.is_full:
                began = time.monotonic()
                await file_log.wait_for_room()
                assert time.monotonic() - began < 0.5
            file_log.append(OrderPlaced(order=str(number)))
        await file_log.flush()
        assert file_log.unwritten == 12
        assert len([text for text in caplog.messages if "cannot be reached" in text]) == 1
        (tmp_path / "there").mkdir()
        async with asyncio.timeout(20):
            await file_log.wait_for_room()
            while file_log.unwritten:  # by itself
                await file_log._watch()
        database = Database(f"sqlite:///{tmp_path / 'there' / 'bus.db'}")
        assert await orders(database) == [str(number) for number in range(12)]
        await database.aclose()

    async def test_publishers_are_slowed_down_while_the_database_is_away(self, file_log: DatabaseEventLog) -> None:
        for number in range(5):
            file_log.append(OrderPlaced(order=str(number)))
        await file_log.flush()
        began = time.monotonic()
        for _ in range(4):
            await file_log.wait_for_room()
        assert 0.15 < time.monotonic() - began < 2

    async def test_a_write_that_hangs_holds_nobody_up_for_long(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = DatabaseEventLog(database.access, capacity=2)
        hanging: Future[None] = Future()

        def hang(*_: object, **__: object) -> Future[None]:
            return hanging

        monkeypatch.setattr(database.access, "submit", hang)
        for _ in range(3):
            log.append(OrderPlaced())
        await log.wait_for_room()  # patiently
        began = time.monotonic()
        await log.wait_for_room()
        assert time.monotonic() - began < 0.5
        monkeypatch.undo()
        hanging.set_exception(StoreError("away"))
        await log.flush()
        assert log.unwritten == 0

    async def test_a_write_whose_outcome_was_in_doubt_makes_no_second_row(
        self, database: Database, log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submit = database.access.submit

        def doubtful(*args: Any, **options: Any) -> Future[Any]:
            monkeypatch.undo()
            submit(*args, **options).result()
            lost: Future[Any] = Future()
            lost.set_exception(StoreError("The connection was lost."))
            return lost

        monkeypatch.setattr(database.access, "submit", doubtful)
        for number in range(3):
            log.append(OrderPlaced(order=str(number)))
        await log.flush()
        await log.flush()
        assert log.unwritten == 0
        assert await orders(database) == ["0", "1", "2"]

    async def test_waiting_for_room_keeps_the_buffer_within_its_bound(self, database: Database) -> None:
        log = DatabaseEventLog(database.access, capacity=50)
        most = 0

        async def publisher(number: int) -> None:
            nonlocal most
            for _ in range(20):
                if log.is_full:
                    await log.wait_for_room()
                log.append(OrderPlaced(order=str(number)))
                most = max(most, log.unwritten)

        await asyncio.gather(*(publisher(number) for number in range(30)))
        await log.flush()
        assert most <= 50
        assert len(await orders(database)) == 600

    async def test_stopping_with_a_database_that_is_away_ends_and_says_so(
        self, file_log: DatabaseEventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file_log.append(OrderPlaced())
        await file_log.aclose()
        assert "1 events have not been written" in caplog.text
        (tmp_path / "there").mkdir()
        await file_log.aclose()
        assert file_log.unwritten == 0

    def test_capacity_is_a_number(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="capacity"):
            DatabaseEventLog(Database(f"sqlite:///{tmp_path / 'x.db'}").access, capacity=0)


class TestProcesses:
    PROGRAM = """
import asyncio, os, signal, sys
from llmgine.database.event_log import DatabaseEventLog
from llmgine.database.stores import Database
from llmgine.messages import Event

database = Database(sys.argv[1])
log = DatabaseEventLog(database.access)

async def main():
    for _ in range(int(sys.argv[3])):
        log.append(Event())
    if sys.argv[2] == "kill":
        await log.flush()
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "fork":
    async def parent():
        for _ in range(int(sys.argv[3])):
            log.append(Event())
        if os.fork() == 0:
            assert log.unwritten == 0
            log.append(Event())
            database.close()
            os._exit(0)
        os.wait()
        await log.aclose()
    asyncio.run(parent())
elif sys.argv[2] == "no loop":
    log.append(Event())
else:
    asyncio.run(main())
"""

    @pytest.mark.parametrize(
        ("way", "count", "expected"), [("exit", 2500, 2500), ("kill", 100, 100), ("fork", 100, 101), ("no loop", 1, 1)]
    )
    async def test_what_a_process_has_published_is_there_once_when_it_is_gone(
        self, tmp_path: Path, way: str, count: int, expected: int
    ) -> None:
        url = f"sqlite:///{tmp_path / 'bus.db'}"
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", self.PROGRAM, url, way, str(count)]
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=False)
        assert ended.returncode == (-signal.SIGKILL if way == "kill" else 0), ended.stderr.decode()
        database = Database(url)
        assert len(await everything(database)) == expected
        await database.aclose()


class TestReading:
    @pytest.fixture
    async def filled(self, database: Database, log: DatabaseEventLog, clock: Clock) -> Database:
        for number in range(1200):
            kind = OrderShipped if number % 3 == 0 else OrderPlaced
            log.append(kind(order=str(number), session_id=SessionID(f"s{number % 2}")))
            clock.advance(1)
        await log.flush()
        return database

    async def test_events_come_back_in_the_order_of_publishing(self, filled: Database) -> None:
        events = [event async for event in filled.read_events()]
        assert [event.order for event in events if isinstance(event, OrderPlaced | OrderShipped)] == [
            str(number) for number in range(1200)
        ]

    async def test_events_are_chosen_by_session_time_and_type(self, filled: Database) -> None:
        since, until = NOON + timedelta(seconds=600), NOON + timedelta(seconds=620)
        events = [
            event
            async for event in filled.read_events(SessionID("s0"), since=since, until=until, types=["OrderShipped"])
        ]
        assert [event.order for event in events if isinstance(event, OrderShipped)] == ["600", "606", "612", "618"]

    async def test_records_are_read_from_either_end_and_no_more_than_asked_for(self, filled: Database) -> None:
        assert await orders(filled, newest_first=True, limit=3) == ["1199", "1198", "1197"]
        assert await orders(filled, limit=2) == ["0", "1"]
        assert len(await orders(filled, newest_first=True, limit=700)) == 700
        assert await orders(filled, limit=0) == []
        (first,) = await everything(filled, limit=1)
        assert await orders(filled, correlation_id=first.correlation_id) == ["0"]
        with pytest.raises(ConfigurationError, match="limit"):
            await orders(filled, limit=-1)

    async def test_what_is_published_while_somebody_reads_is_not_read(
        self, database: Database, log: DatabaseEventLog
    ) -> None:
        for number in range(600):
            log.append(OrderPlaced(order=str(number)))
        await log.flush()
        read = 0
        async for _ in database.event_records.events():
            read += 1
            log.append(OrderPlaced(order="new"))
            if read % 100 == 0:
                await log.flush()
        assert read == 600
        await log.aclose()

    async def test_what_cannot_be_decoded_is_left_out_in_one_line(
        self, place: Place, filled: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        place.execute("UPDATE {event_log} SET type_name = 'gone:Gone' WHERE event_type = 'OrderShipped'")
        place.execute("UPDATE {event_log} SET payload = 'no json' WHERE position = 2")
        events = [event async for event in filled.read_events()]
        assert len(events) == 799
        assert len([text for text in caplog.messages if "401 events of the log were left out" in text]) == 1
        assert len(await everything(filled)) == 1200

    async def test_reading_shows_what_this_process_has_not_written_yet(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLMGINE_PERSIST_EVENTS", "1")
        assert database.event_log is not None
        for number in range(3):
            database.event_log.append(OrderPlaced(order=str(number)))
        assert database.stats()["unwritten"] > 0
        assert len([event async for event in database.read_events()]) == 3
        assert database.stats()["unwritten"] == 0


class TestRetention:
    async def _fill(self, database: Database, clock: Clock, count: int) -> DatabaseEventLog:
        log = DatabaseEventLog(database.access)
        for number in range(count):
            log.append(OrderPlaced(order=f"{number:04}"))
            clock.advance(1)
        await log.flush()
        return log

    async def _trim(self, database: Database, **limits: Any) -> list[str]:
        await asyncio.wrap_future(Trimmer(database.access, Retention(**limits)).run())
        return await orders(database)

    async def test_the_oldest_go_until_the_limit_is_met(self, database: Database, clock: Clock) -> None:
        await self._fill(database, clock, 1600)
        everything = [f"{number:04}" for number in range(1600)]
        assert await self._trim(database) == everything
        assert await self._trim(database, max_events=1600) == everything
        assert await self._trim(database, max_events=400) == everything[-400:]
        assert await self._trim(database, max_age=100.5) == everything[-100:]
        sizes = [len(record.payload) async for record in database.event_records.records()]
        assert await self._trim(database, max_bytes=sum(sizes[-50:])) == everything[-50:]
        assert await self._trim(database, max_bytes=sum(sizes[-50:]) - 1) == everything[-49:]
        assert await self._trim(database, max_age=1e12) == everything[-49:]

    async def test_the_log_trims_itself_while_it_is_written_and_at_its_end(
        self, database: Database, clock: Clock
    ) -> None:
        log = DatabaseEventLog(database.access, retention=Retention(max_events=100))
        for number in range(3000):
            log.append(OrderPlaced(order=str(number)))
            if number % 500 == 499:
                await log.flush()
        assert len(await orders(database)) < 3000
        await log.aclose()
        assert await orders(database) == [str(number) for number in range(2900, 3000)]

    async def test_two_processes_that_trim_one_log_delete_no_more_than_one_would(
        self, opened: Callable[[], Database], clock: Clock
    ) -> None:
        one, other = opened(), opened()
        trimmers = [Trimmer(database.access, Retention(max_events=700)) for database in (one, other)]
        kept = 0
        for _ in range(4):
            kept += 300
            await self._fill(one, clock, 300)
            await asyncio.gather(*(asyncio.wrap_future(trimmer.run()) for trimmer in trimmers))
            for trimmer in trimmers:
                await asyncio.wrap_future(trimmer.run())
            kept = min(kept, 700)
            assert len(await orders(one)) == kept

    async def test_a_large_log_without_limits_is_worth_a_word_once(
        self, place: Place, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        await self._fill(database, clock, 2)
        trimmer = Trimmer(database.access, Retention())
        await asyncio.wrap_future(trimmer.run())
        assert "nothing limits it" not in caplog.text
        place.execute("UPDATE {event_log} SET size = 600000000")
        trimmer = Trimmer(database.access, Retention())
        for _ in range(2):
            await asyncio.wrap_future(trimmer.run())
        assert len([text for text in caplog.messages if "1200 MB, and nothing limits it" in text]) == 1

    async def test_a_database_that_is_away_does_not_stop_trimming_for_good(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path / 'there' / 'bus.db'}")
        trimmer = Trimmer(database.access, Retention(max_events=1))
        await asyncio.wrap_future(trimmer.run())
        (tmp_path / "there").mkdir()
        log = DatabaseEventLog(database.access)
        for number in range(3):
            log.append(OrderPlaced(order=str(number)))
        await log.flush()
        await asyncio.wrap_future(trimmer.run())
        assert await orders(database) == ["2"]
        await database.aclose()

    def test_limits_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Retention.from_environment() == Retention()
        for name, value in (("DAYS", "0.5"), ("EVENTS", "1000"), ("MB", " 2.5 ")):
            monkeypatch.setenv(f"LLMGINE_EVENT_LOG_MAX_{name}", value)
        assert Retention.from_environment() == Retention(max_age=43_200.0, max_events=1000, max_bytes=2_500_000)

    @pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "inf"])
    def test_limits_that_are_none_are_refused(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("LLMGINE_EVENT_LOG_MAX_EVENTS", value)
        with pytest.raises(ConfigurationError, match="LLMGINE_EVENT_LOG_MAX_EVENTS"):
            Retention.from_environment()

    @pytest.mark.parametrize("limits", [{"max_age": 0}, {"max_events": 0}, {"max_bytes": -1}, {"max_events": 1.5}])
    def test_limits_are_checked(self, limits: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            Retention(**limits)
