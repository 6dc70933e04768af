"""How the tables came to be what they are: steps, each applied once and all or nothing, whoever opens the database.

A step that has been released is never changed; what it made is changed by another step after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

from sqlalchemy import Connection, Table, func, insert, inspect, select, text
from sqlalchemy.schema import CreateSchema

from llmgine.database.engine import transaction
from llmgine.database.tables import Tables
from llmgine.errors import StoreError

__all__ = ["STEPS", "Step", "migrate", "version_of"]


@dataclass(frozen=True, slots=True)
class Step:
    """What leads from one version to the next."""

    creates: Callable[[Tables], Sequence[Table]]
    """The tables that it makes. Where there is one of that name already, it is not ours."""
    statements: Callable[[Tables, _Names], Sequence[str]]
    """What is executed."""


class _Names:
    """What statements call things."""

    def __init__(self, connection: Connection) -> None:
        self._preparer = connection.dialect.identifier_preparer
        self.position = (
            "INTEGER PRIMARY KEY AUTOINCREMENT"
            if connection.dialect.name == "sqlite"
            else "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
        )
        """The type of a primary key that counts up and never repeats."""

    def table(self, table: Table) -> str:
        """Return a table's name, with its schema, quoted."""
        return self._preparer.format_table(table)

    def index(self, table: Table, purpose: str) -> str:
        """Return the name of an index, quoted. On PostgreSQL it is in the schema of its table."""
        return self._preparer.quote(f"{table.name}_{purpose}")


def _schedule_and_log(tables: Tables, names: _Names) -> Sequence[str]:
    scheduled, log = names.table(tables.scheduled_events), names.table(tables.event_log)
    return [
        f"""CREATE TABLE {scheduled} (
            id TEXT PRIMARY KEY,
            event_type TEXT NOT NULL,
            type_name TEXT NOT NULL,
            version BIGINT NOT NULL,
            session_id TEXT NOT NULL,
            payload TEXT NOT NULL,
            due_at BIGINT NOT NULL,
            claimable_at BIGINT NOT NULL,
            created_at BIGINT NOT NULL,
            recurrence TEXT,
            misfire TEXT NOT NULL,
            owner TEXT,
            token BIGINT NOT NULL DEFAULT 0,
            error TEXT,
            failures BIGINT NOT NULL DEFAULT 0
        )""",
        f"CREATE INDEX {names.index(tables.scheduled_events, 'claimable')} ON {scheduled} (claimable_at, created_at)",
        f"""CREATE TABLE {log} (
            position {names.position},
            record_id TEXT NOT NULL UNIQUE,
            event_id TEXT NOT NULL,
            event_type TEXT NOT NULL,
            type_name TEXT NOT NULL,
            version BIGINT NOT NULL,
            session_id TEXT NOT NULL,
            correlation_id TEXT NOT NULL,
            causation_id TEXT,
            event_time TEXT NOT NULL,
            published_at BIGINT NOT NULL,
            size BIGINT NOT NULL,
            payload TEXT NOT NULL
        )""",
        f"CREATE INDEX {names.index(tables.event_log, 'session')} ON {log} (session_id, position)",
        f"CREATE INDEX {names.index(tables.event_log, 'published')} ON {log} (published_at, size)",
    ]


def _dead_letters(tables: Tables, names: _Names) -> Sequence[str]:
    letters = names.table(tables.dead_letters)
    return [
        f"""CREATE TABLE {letters} (
            position {names.position},
            command_id TEXT NOT NULL UNIQUE,
            command_type TEXT NOT NULL,
            type_name TEXT NOT NULL,
            version BIGINT NOT NULL,
            session_id TEXT NOT NULL,
            payload TEXT NOT NULL,
            error TEXT NOT NULL,
            attempts BIGINT NOT NULL,
            first_attempt BIGINT NOT NULL,
            last_attempt BIGINT NOT NULL,
            metadata TEXT NOT NULL,
            leased_until BIGINT NOT NULL DEFAULT 0,
            owner TEXT
        )"""
    ]


def _approvals(tables: Tables, names: _Names) -> Sequence[str]:
    approvals = names.table(tables.approvals)
    return [
        f"""CREATE TABLE {approvals} (
            position {names.position},
            id TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL,
            call_key TEXT NOT NULL,
            session_id TEXT NOT NULL,
            run_id TEXT NOT NULL,
            tool TEXT NOT NULL,
            arguments TEXT NOT NULL,
            approver TEXT,
            note TEXT NOT NULL,
            requested_at BIGINT NOT NULL,
            expires_at BIGINT,
            state TEXT NOT NULL,
            decided_at BIGINT,
            decided_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            used_at BIGINT
        )""",
        f"CREATE INDEX {names.index(tables.approvals, 'state')} ON {approvals} (state, position)",
        f"CREATE INDEX {names.index(tables.approvals, 'call')} ON {approvals} (call_key, position)",
    ]


def _effects(tables: Tables, names: _Names) -> Sequence[str]:
    runs, turns, effects = (names.table(table) for table in (tables.runs, tables.run_turns, tables.effects))
    return [
        f"""CREATE TABLE {runs} (
            run_id TEXT PRIMARY KEY,
            session_id TEXT NOT NULL,
            prompt TEXT NOT NULL,
            begun_at BIGINT NOT NULL,
            ended_at BIGINT
        )""",
        f"CREATE INDEX {names.index(tables.runs, 'session')} ON {runs} (session_id, ended_at)",
        f"CREATE INDEX {names.index(tables.runs, 'ended')} ON {runs} (ended_at)",
        f"""CREATE TABLE {turns} (
            run_id TEXT NOT NULL,
            step BIGINT NOT NULL,
            message TEXT NOT NULL,
            effect_keys TEXT NOT NULL,
            PRIMARY KEY (run_id, step)
        )""",
        f"""CREATE TABLE {effects} (
            key TEXT PRIMARY KEY,
            run_id TEXT NOT NULL,
            step BIGINT NOT NULL,
            tool TEXT NOT NULL,
            arguments TEXT NOT NULL,
            effect TEXT NOT NULL,
            intended_at BIGINT NOT NULL,
            content TEXT,
            succeeded BIGINT,
            finished_at BIGINT
        )""",
        f"CREATE INDEX {names.index(tables.effects, 'run')} ON {effects} (run_id, step)",
    ]


def _answers(tables: Tables, names: _Names) -> Sequence[str]:
    approvals = names.table(tables.approvals)
    return [f"ALTER TABLE {approvals} ADD COLUMN {name} TEXT" for name in ("url", "answer_schema", "answer")]


STEPS: Sequence[Step] = [
    Step(lambda tables: [tables.scheduled_events, tables.event_log], _schedule_and_log),
    Step(lambda tables: [tables.dead_letters], _dead_letters),
    Step(lambda tables: [tables.approvals], _approvals),
    Step(lambda tables: [tables.runs, tables.run_turns, tables.effects], _effects),
    Step(lambda _: [], _answers),
]


def version_of(connection: Connection, tables: Tables) -> int:
    """Return how many steps have been applied. Inside of a transaction."""
    table, inspector = tables.schema_version, inspect(connection)
    if not inspector.has_table(table.name, schema=tables.schema):
        return 0
    if {column["name"] for column in inspector.get_columns(table.name, schema=tables.schema)} != {*table.c.keys()}:
        raise _foreign(_Names(connection).table(table))
    return connection.scalar(select(func.coalesce(func.max(table.c.version), 0))) or 0


def migrate(connection: Connection, tables: Tables, steps: Sequence[Step] = STEPS) -> None:
    """Apply the steps that are missing, each in a transaction. Of those who do this at once, one does it.

    Raises:
        StoreError: a newer program has been here, or somebody else's table has a name of ours.
    """
    with transaction(connection, reads=True):
        version = version_of(connection, tables)
    while version < len(steps):
        with transaction(connection):
            _lock(connection, tables)
            version = version_of(connection, tables)
            if version < len(steps):
                _apply(connection, tables, steps[version], version + 1)
                version += 1
    if version > len(steps):
        msg = (
            f"The database has been changed by a newer llmgine: its tables are of version {version}, and this one "
            f"knows those up to {len(steps)}. Update llmgine, or use another LLMGINE_DB_URL or LLMGINE_DB_SCHEMA."
        )
        raise StoreError(msg)


def _lock(connection: Connection, tables: Tables) -> None:
    """Keep others from migrating until the transaction ends. In SQLite the transaction itself does."""
    if connection.dialect.name == "postgresql":
        key = crc32(f"llmgine {tables.schema}".encode())
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _apply(connection: Connection, tables: Tables, step: Step, version: int) -> None:
    names, inspector = _Names(connection), inspect(connection)
    if tables.schema is not None and tables.schema not in inspector.get_schema_names():
        connection.execute(CreateSchema(tables.schema))
    for table in [*([tables.schema_version] if version == 1 else []), *step.creates(tables)]:
        if inspector.has_table(table.name, schema=tables.schema):
            raise _foreign(names.table(table))
    if version == 1:
        tables.schema_version.create(connection)
    for statement in step.statements(tables, names):
        connection.exec_driver_sql(statement)
    connection.execute(insert(tables.schema_version).values(version=version, applied_at=time.time_ns() // 1000))


def _foreign(name: str) -> StoreError:
    return StoreError(
        f"The database has a table {name} that is not from this version of llmgine. Nothing has been changed. "
        "Rename or drop that table, or use another LLMGINE_DB_URL or LLMGINE_DB_SCHEMA."
    )
