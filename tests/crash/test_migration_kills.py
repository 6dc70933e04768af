"""Making the tables is killed at each of its statements and commits: whoever comes next finishes it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, inspect

from llmgine.bus.stores import Held
from llmgine.database.engine import open_engine, transaction
from llmgine.database.migrations import STEPS, migrate, version_of
from llmgine.database.stores import Database
from llmgine.database.tables import Tables, stored_columns
from llmgine.messages.codec import encode

from .conftest import Places
from .nursery import Nursery
from .shop import Due

KILLED = -signal.SIGKILL
MOMENT = datetime(2030, 1, 1, tzinfo=UTC)


def state(url: str, tables: Tables) -> tuple[int, set[str]]:
    """Return the version of a database, and which of the tables there are."""
    with open_engine(url).connect() as connection, transaction(connection, reads=True):
        names = {table.name for table in tables.metadata.tables.values()}
        return version_of(connection, tables), names & {*inspect(connection).get_table_names(schema=tables.schema)}


def make_earlier(url: str, tables: Tables) -> None:
    """Make a database as the version before the last made it, with an event in it."""
    with open_engine(url).connect() as connection:
        migrate(connection, tables, STEPS[:-1])
        with transaction(connection):
            stored = encode(Due(event_id="old", text="kept"))
            connection.execute(
                insert(tables.scheduled_events).values(
                    **stored_columns(stored), id="old", event_type="Due", session_id="BUS", due_at=0, claimable_at=0,
                    created_at=0, misfire="once",
                )
            )  # fmt: skip


@pytest.mark.parametrize(
    ("existing", "stage"), [(False, "statement"), (False, "before the commit"), (True, "statement")]
)
async def test_a_migration_that_is_killed_is_whole_steps_and_is_finished_by_the_next(
    *,
    existing: bool,
    stage: str,
    nursery: Nursery,
    places: Places,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    kills = 0
    while True:
        url, schema = places()
        several = [Database(url, schema) for _ in range(2)]
        tables = several[0].access.tables
        if existing:
            make_earlier(url, tables)
        child = nursery.start(
            "shop", task="open", journal=str(tmp_path / "journal"), child=1, url=url, schema=schema, lease=1.0,
            seed="", step=["migration", stage], nth=kills + 1,
        )  # fmt: skip
        ended = nursery.wait(child)
        version, there = state(url, tables)
        made = {table.name for step in STEPS[:version] for table in step.creates(tables)}
        assert there - {tables.schema_version.name} == made

        await asyncio.gather(
            *(each.schedule.add([Held.of(Due(event_id=f"{n}"), MOMENT)]) for n, each in enumerate(several))
        )
        assert [each.id for each in await several[0].schedule.list()] == [*(["old"] if existing else []), "0", "1"]
        await asyncio.gather(*(each.aclose() for each in several))
        assert state(url, tables)[0] == len(STEPS)
        if ended != KILLED:
            assert ended == 0
            break
        kills += 1
    record_property("killed", kills)
    assert kills >= 1
