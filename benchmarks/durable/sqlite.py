"""SQLite, alike for all: a write-ahead log, synced at each commit."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event


def prepare(connection: Any, _: Any = None) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection on which transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None)
    prepare(connection)
    return connection


def engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", prepare)
    return engine


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  # our own


def copy(path: Path, table: str, copies: int) -> None:
    """Copy the only row so many times, with ids of their own."""
    with closing(connect(path)) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        values = ", ".join("id || '-' || number" if name == "id" else name for name in names)
        numbers = "WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers LIMIT ?)"
        statement = f"INSERT INTO {table} {numbers} SELECT {values} FROM {table}, numbers"  # noqa: S608  # our own
        connection.execute(statement, (copies,))
