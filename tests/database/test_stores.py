"""A database as a whole: made when needed, away and back, and shared by processes that may be killed."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from postgres_server import PostgresServer

from llmgine.bus.stores import Held, Stores
from llmgine.database.stores import Database, open_stores
from llmgine.errors import ConfigurationError, StoreError
from llmgine.messages.scheduled_events import ScheduledEvent

from .conftest import NOON, Place

PIPE = asyncio.subprocess.PIPE


@dataclass
class Ring(ScheduledEvent):
    n: int = 0


def ring(n: int = 0, due: datetime = NOON) -> Held:
    return Held.of(Ring(n=n, event_id=f"{n}", scheduled_time=due), due)


async def test_whether_anything_is_scheduled_can_be_told_without_making_anything(
    place: Place, database: Database, tmp_path: Path
) -> None:
    assert await database.holds_schedule() is False
    assert list(tmp_path.iterdir()) == []
    if not place.is_sqlite:
        assert place.execute("SELECT 1 FROM pg_namespace WHERE nspname = :name", name=place.schema) == []

    assert await database.dead_letters.count() == 0
    assert await database.holds_schedule() is False
    await database.schedule.add([ring()])
    assert await database.holds_schedule() is True
    await database.aclose()
    assert await database.holds_schedule() is True


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("invalid://invalid", "not a usable database URL"),
        ("sqlite:///{folder}/notes.txt", "not a database"),
        ("postgresql://me:hush@127.0.0.1:1/none", "cannot be reached"),
        ("mysql://me:hush@127.0.0.1:1/none", "not a usable database URL"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_clear_error(url: str, what: str, tmp_path: Path) -> None:
    tmp_path.joinpath("notes.txt").write_text("my notes, and rather a lot of them" * 100)
    database = Database(url.format(folder=tmp_path), "test")
    with pytest.raises(StoreError, match=what):
        await database.holds_schedule()
    for _ in range(2):
        with pytest.raises(StoreError, match=what) as caught:
            await database.schedule.add([ring()])
        assert "hush" not in str(caught.value)
    stats = database.stats()
    assert (stats["available"], stats["outages"], stats["unwritten"]) == (False, 1, 0)
    assert "hush" not in stats["url"]
    await database.aclose()


async def test_a_database_goes_on_after_it_was_closed(database: Database) -> None:
    await database.aclose()
    await database.schedule.add([ring()])
    await database.aclose()
    assert await database.schedule.count() == 1


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_DB_URL", "postgresql://me:hush@host/db")
    monkeypatch.setenv("LLMGINE_DB_SCHEMA", "a.b")
    stores: Stores = open_stores(None)
    assert stores.stats()["url"] == "postgresql://me:***@host/db"
    assert open_stores("sqlite:///x.db").access.tables.scheduled_events.name == "a_b_scheduled_events"
    monkeypatch.delenv("LLMGINE_DB_URL")
    assert open_stores().stats()["url"] == "sqlite:///./message_bus.db"


@pytest.mark.parametrize("schema", ["a b", "a;b", "a-b", 'a"', "a" * 64, "."])
def test_a_schema_is_a_name(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        Database("sqlite://", schema)


@pytest.mark.parametrize("schema", ["odd.Name_2", "2nd", "select"])
async def test_whatever_a_schema_is_called_it_works(place: Place, schema: str) -> None:
    database = Database(place.url, schema, clock=place.clock)
    try:
        await database.schedule.add([ring()])
        assert len(await database.schedule.claim(NOON, 1)) == 1
        assert await database.dead_letters.count() == 0
    finally:
        await database.aclose()
        if not place.is_sqlite:
            place.execute(f'DROP SCHEMA "{schema}" CASCADE')


async def test_a_server_that_goes_and_comes_back_is_one_outage(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(postgres.url, f"test_{uuid4().hex}")
    database = place.open()
    await database.schedule.add([ring(1)])
    postgres.stop()
    try:
        with caplog.at_level(logging.WARNING, "llmgine.database"):
            for n in (2, 3):
                with pytest.raises(StoreError, match="cannot be reached"):
                    await asyncio.wait_for(database.schedule.add([ring(n)]), 10)
            assert database.stats()["available"] is False
            assert database.stats()["outages"] == 1
    finally:
        postgres.start()
    with caplog.at_level(logging.WARNING, "llmgine.database"):
        await database.schedule.add([ring(4)])
    assert len(caplog.records) == 2
    assert database.stats()["available"] is True
    assert [each.id for each in await database.schedule.list()] == ["1", "4"]
    await database.aclose()
    place.execute(f"DROP SCHEMA {place.schema} CASCADE")


async def test_a_connection_that_was_cut_while_idle_is_nobodys_concern(postgres_url: str) -> None:
    place = Place(postgres_url, f"test_{uuid4().hex}")
    database = place.open()
    await database.schedule.add([ring(1)])
    place.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    await database.schedule.add([ring(2)])

    assert database.stats()["outages"] == 0
    assert await database.schedule.count() == 2
    await database.aclose()
    place.execute(f"DROP SCHEMA {place.schema} CASCADE")


COMMON = """
import asyncio, sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from llmgine.bus.stores import Held
from llmgine.database.stores import Database
from llmgine.messages.scheduled_events import ScheduledEvent, register_scheduled_event_class

@register_scheduled_event_class
@dataclass
class Ring(ScheduledEvent):
    n: int = 0

now = datetime.now(UTC)
"""
CLAIMER = (
    COMMON
    + """
async def main():
    store = Database(sys.argv[1], sys.argv[2]).schedule
    await store.count()
    print("ready", flush=True)
    sys.stdin.readline()
    mine = []
    while claims := await store.claim(datetime.now(UTC), 7):
        mine += [claim.held.event.n for claim in claims]
        if len(sys.argv) > 3:  # to be killed
            print(*mine, flush=True)
            await asyncio.sleep(100)
        await store.settle(claims, datetime.now(UTC))
    print(*mine, flush=True)

asyncio.run(main())
"""
)
WRITER = (
    COMMON
    + """
async def main():
    store = Database(sys.argv[1], sys.argv[2]).schedule
    for n in range(10_000):
        await store.add([Held.of(Ring(n=n, event_id=f"{n}"), now)])
        print(n, flush=True)

asyncio.run(main())
"""
)


@pytest.mark.parametrize("processes", [2, 5])
async def test_processes_that_share_a_database_claim_each_event_once(
    place: Place, database: Database, processes: int
) -> None:
    await database.schedule.add([ring(n, datetime(2020, 1, 1, tzinfo=UTC)) for n in range(300)])
    command = (sys.executable, "-c", CLAIMER, place.url, place.schema)
    claimers = [await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE) for _ in range(processes)]
    for claimer in claimers:
        assert claimer.stdout is not None
        await claimer.stdout.readline()
    said = await asyncio.wait_for(asyncio.gather(*(claimer.communicate(b"go\n") for claimer in claimers)), 60)

    assert [claimer.returncode for claimer in claimers] == [0] * processes
    assert sorted(int(n) for out, _ in said for n in out.split()) == list(range(300))
    assert await database.schedule.count() == 0


async def test_what_a_killed_process_had_claimed_goes_to_another(place: Place, database: Database) -> None:
    await database.schedule.add([ring(n, datetime(2020, 1, 1, tzinfo=UTC)) for n in range(10)])
    claimer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLAIMER, place.url, place.schema, "hold", stdin=PIPE, stdout=PIPE
    )
    assert claimer.stdout is not None
    assert claimer.stdin is not None
    await claimer.stdout.readline()
    claimer.stdin.write(b"go\n")
    claimed = {line.decode() for line in (await asyncio.wait_for(claimer.stdout.readline(), 30)).split()}
    claimer.kill()
    await claimer.communicate()

    now = datetime.now(UTC)
    assert {claim.held.id for claim in await database.schedule.claim(now, 100)} == {f"{n}" for n in range(10)} - claimed
    after = await database.schedule.claim(now + timedelta(seconds=61), 7)
    assert {claim.held.id for claim in after} >= claimed


@pytest.mark.parametrize("written", [1, 20])
async def test_what_a_killed_process_was_told_is_kept_is_kept(
    place: Place, opened: Callable[[], Database], written: int
) -> None:
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, place.url, place.schema, stdout=PIPE)
    assert writer.stdout is not None
    told = [int(await asyncio.wait_for(writer.stdout.readline(), 30)) for _ in range(written)]
    writer.kill()
    told += [int(n) for n in (await writer.communicate())[0].split()]

    assert {f"{n}" for n in told} <= {each.id for each in await opened().schedule.list()}
