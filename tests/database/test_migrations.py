"""The tables of every earlier version become today's, whoever is killed or first, and nobody else's are touched."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import pytest

from llmgine.bus.stores import Held
from llmgine.database.migrations import STEPS, Step, migrate
from llmgine.database.stores import Database
from llmgine.database.tables import Tables
from llmgine.errors import StoreError
from llmgine.messages.scheduled_events import ScheduledEvent

from .conftest import NOON, Place


def bring_to(place: Place, version: int) -> None:
    """Make the tables as they were in a version."""
    tables = Tables(place.schema, "sqlite" if place.is_sqlite else "postgresql")
    place.connect(lambda connection: migrate(connection, tables, STEPS[:version]))


def versions(place: Place) -> list[int]:
    return [row.version for row in place.execute("SELECT version FROM {schema_version} ORDER BY 1")]


ALL = list(range(1, len(STEPS) + 1))
EVENT_OF_VERSION_1 = """
    INSERT INTO {scheduled_events}
        (id, event_type, type_name, version, session_id, payload, due_at, claimable_at, created_at, misfire)
    VALUES ('old', 'ScheduledEvent', 'llmgine.messages.scheduled_events:ScheduledEvent', 1, 'BUS',
        '{"event_id":"old"}', 0, 0, 0, 'once')
"""


@pytest.mark.parametrize("version", range(len(STEPS) + 1))
async def test_every_earlier_version_becomes_this_one_with_what_is_in_it(
    place: Place, opened: Callable[[], Database], version: int
) -> None:
    bring_to(place, version)
    if version:
        place.execute(EVENT_OF_VERSION_1)
    database = opened()

    assert [each.id for each in await database.schedule.list()] == (["old"] if version else [])
    assert await database.dead_letters.count() == 0
    assert versions(place) == ALL
    if version:
        (claim,) = await database.schedule.claim(NOON, 1)
        assert isinstance(claim.held.event, ScheduledEvent)
        await database.schedule.settle([claim], NOON)
        assert await database.schedule.count() == 0


async def test_a_newer_version_is_left_alone(place: Place, database: Database) -> None:
    bring_to(place, len(STEPS))
    place.execute("INSERT INTO {schema_version} (version, applied_at) VALUES (99, 0)")

    with pytest.raises(StoreError, match=r"newer llmgine.*version 99.*Update llmgine"):
        await database.schedule.count()
    assert database.stats()["available"] is False


@pytest.mark.parametrize("table", ["scheduled_events", "dead_letters", "schema_version"])
async def test_a_table_that_is_not_ours_is_named_and_left_alone(place: Place, database: Database, table: str) -> None:
    if not place.is_sqlite:
        place.execute(f"CREATE SCHEMA {place.schema}")
    place.execute("CREATE TABLE", place.name(table), "(mine TEXT)")
    place.execute("INSERT INTO", place.name(table), "VALUES ('precious')")

    with pytest.raises(StoreError, match=rf"{table}.*(Rename|rename)"):
        await database.schedule.add([Held.of(ScheduledEvent(), NOON)])
    assert place.execute("SELECT * FROM", place.name(table)) == [("precious",)]


def test_a_step_that_fails_leaves_nothing_behind(place: Place) -> None:
    bring_to(place, 1)
    tables = Tables(place.schema, "sqlite" if place.is_sqlite else "postgresql")
    broken = Step(lambda _: [], lambda _, names: [f"CREATE TABLE {place.name('half')} (a TEXT)", "NONSENSE"])

    with pytest.raises(Exception, match=r"NONSENSE|syntax"):
        place.connect(lambda connection: migrate(connection, tables, [STEPS[0], broken]))
    assert versions(place) == [1]
    with pytest.raises(Exception, match="half"):
        place.execute("SELECT * FROM {half}")


KILLED = """
import asyncio, os, signal, sys
from llmgine.database import access, migrations

def stumble(statements, at):
    def and_die(tables, names):
        for statement in statements(tables, names):
            yield statement
            if at:
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return and_die

step, within = int(sys.argv[3]), int(sys.argv[4])
steps = list(migrations.STEPS)
steps[step] = migrations.Step(steps[step].creates, stumble(steps[step].statements, within))
migrations.migrate.__defaults__ = (steps,)
from llmgine.database.stores import Database
asyncio.run(Database(sys.argv[1], sys.argv[2]).schedule.count())
"""


@pytest.mark.parametrize(("step", "within"), [(0, 1), (len(STEPS) - 1, 0)])
async def test_whoever_is_killed_in_a_step_has_done_all_of_it_or_nothing(
    place: Place, database: Database, step: int, within: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, place.url, place.schema, str(step), str(within)
    )
    assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL

    assert await database.schedule.count() == 0
    assert await database.dead_letters.count() == 0
    assert versions(place) == ALL


OPENER = """
import asyncio, sys
from llmgine.database.stores import Database
print("ready", flush=True)
sys.stdin.readline()

async def main():
    database = Database(sys.argv[1], sys.argv[2])
    print(await database.schedule.count() + await database.dead_letters.count())
    await database.aclose()

asyncio.run(main())
"""


async def test_five_may_open_it_at_once(place: Place) -> None:
    pipe = asyncio.subprocess.PIPE
    openers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPENER, place.url, place.schema, stdin=pipe, stdout=pipe
        )
        for _ in range(5)
    ]
    for opener in openers:
        assert opener.stdout is not None
        await opener.stdout.readline()
    said = await asyncio.wait_for(asyncio.gather(*(opener.communicate(b"go\n") for opener in openers)), 60)

    assert [out for out, _ in said] == [b"0\n"] * 5
    assert versions(place) == ALL
