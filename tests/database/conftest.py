"""Databases for tests: SQLite in a file, and PostgreSQL in a schema of the test's own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from llmgine.database.engine import open_engine, transaction
from llmgine.database.stores import Database

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands still unless it is set."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@dataclass
class Place:
    """Where a test keeps its messages."""

    url: str
    schema: str
    clock: Clock = field(default_factory=Clock)

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def name(self, table: str) -> str:
        """The name of a table, for statements."""
        return f"{self.schema}_{table}" if self.is_sqlite else f"{self.schema}.{table}"

    def open(self) -> Database:
        return Database(self.url, self.schema, clock=self.clock)

    def execute(self, *parts: str, **values: Any) -> list[Any]:
        """Execute a statement as somebody else would. It is in parts, and `{dead_letters}` stands for that table."""
        statement = re.sub(r"\{(\w+)\}", lambda found: self.name(found[1]), " ".join(parts))

        def work(connection: Connection) -> list[Any]:
            result = connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

        rows: list[Any] = self.do(work)
        return rows

    def do(self, work: Callable[[Connection], Any]) -> Any:
        """Do work in a transaction."""
        with open_engine(self.url).connect() as connection, transaction(connection):
            return work(connection)

    def connect(self, work: Callable[[Connection], Any]) -> Any:
        """Do work with a connection."""
        with open_engine(self.url).connect() as connection:
            return work(connection)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def made(kind: str, request: pytest.FixtureRequest, clock: Clock) -> Iterator[Place]:
    """A place of a kind, with nothing in it."""
    schema = f"test_{uuid4().hex}"
    if kind == "sqlite":
        yield Place(f"sqlite:///{request.getfixturevalue('tmp_path') / 'bus.db'}", schema, clock)
        return
    place = Place(request.getfixturevalue("postgres_url"), schema, clock)
    yield place
    place.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Place]:
    with made(request.param, request, clock) as place:
        yield place


@pytest.fixture
async def opened(place: Place) -> AsyncIterator[Callable[[], Database]]:
    """Opens the database, once more with each call, as another process would."""
    databases: list[Database] = []

    def again() -> Database:
        databases.append(place.open())
        return databases[-1]

    yield again
    for database in databases:
        await database.aclose()


@pytest.fixture
def database(opened: Callable[[], Database]) -> Database:
    return opened()
