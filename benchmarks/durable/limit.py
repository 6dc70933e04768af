"""The limit: the standard library's sqlite3, and no library around it."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import orjson
from contestants.contestant import left_out
from contestants.counter import counting_handler
from contestants.message import Message
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from durable import sqlite
from durable.contestant import Durable

_BATCH = 1000
"""Rows per transaction, where nothing else says how many."""


class Base(DeclarativeBase):
    pass


class Order(Base):
    """What the user's own transactions write."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


class Row(Base):
    __tablename__ = "outbox"
    position: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str]
    payload: Mapped[str]
    claimed: Mapped[int] = mapped_column(default=0)


class Limit(Durable):
    """The same work by hand."""

    cannot = left_out("by hand there are no layers", "policies")
    connection: sqlite3.Connection
    log: sqlite3.Connection | None = None

    async def open_schedule(self, folder: Path) -> None:
        self.path = folder / "limit.db"
        self.connection = sqlite.connect(self.path)
        self.connection.execute("CREATE TABLE scheduled (id TEXT PRIMARY KEY, due TEXT, payload TEXT)")
        self.connection.execute("CREATE INDEX due ON scheduled (due)")

    async def store(self, count: int, tasks: int) -> None:
        due = (datetime.now() + timedelta(days=1)).isoformat()  # noqa: DTZ005  # as people write it
        rows = ((message.id, due, payload(message)) for message in messages(count))
        insert(self.connection, "INSERT INTO scheduled VALUES (?, ?, ?)", rows, min(tasks, _BATCH))

    def stored(self) -> int:
        return sqlite.count(self.path, "scheduled")

    async def fill(self, folder: Path, count: int) -> None:
        await self.open_schedule(folder)
        await self.store(1, 1)
        sqlite.copy(self.path, "scheduled", count - 1)
        self.connection.execute("INSERT INTO scheduled VALUES ('due', '2000-01-01', ?)", (payload(Message(n=0)),))
        self.connection.close()

    async def start_filled(self) -> None:
        connection = self.connection = sqlite.connect(self.path)
        now = datetime.now().isoformat()  # noqa: DTZ005  # as people write it
        due = connection.execute("SELECT id, payload FROM scheduled WHERE due <= ? ORDER BY due LIMIT 100", (now,))
        for identity, text in due.fetchall():
            await counting_handler()(Message(**orjson.loads(text)))
            connection.execute("DELETE FROM scheduled WHERE id = ?", (identity,))
        connection.execute("SELECT min(due) FROM scheduled").fetchone()

    async def start(self, log: Path | None) -> None:
        self.handler = counting_handler()
        if log is not None:
            self.path = log / "limit.db"
            self.log = sqlite.connect(self.path)
            self.log.execute("CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, payload TEXT)")
            self.waiting: list[Message] = []

    async def publish(self, count: int) -> None:
        for n in range(count):
            message = Message(n=n)
            if self.log is not None:
                self.waiting.append(message)
                if len(self.waiting) == _BATCH:
                    self.write_log(self.log)
            await self.handler(message)

    async def close_log(self) -> int:
        assert self.log is not None
        self.write_log(self.log)
        return sqlite.count(self.path, "log")

    def write_log(self, log: sqlite3.Connection) -> None:
        rows = ((message.id, payload(message)) for message in self.waiting)
        insert(log, "INSERT INTO log (id, payload) VALUES (?, ?)", rows, _BATCH)
        self.waiting.clear()

    async def open_letters(self, folder: Path) -> None:
        self.path = folder / "limit.db"
        self.connection = sqlite.connect(self.path)
        self.connection.execute("CREATE TABLE letters (id TEXT PRIMARY KEY, error TEXT, payload TEXT)")

    async def fail(self) -> None:
        message = Message(n=0)
        self.connection.execute("INSERT INTO letters VALUES (?, ?, ?)", (message.id, "it failed", payload(message)))

    async def close_letters(self) -> int:
        return sqlite.count(self.path, "letters")

    async def open_outbox(self, folder: Path) -> None:
        self.path = folder / "limit.db"
        self.engine = sqlite.engine(self.path)
        Base.metadata.create_all(self.engine)

    def order(self, events: int) -> None:
        with Session(self.engine) as session, session.begin():
            session.add(Order(amount=1))
            for message in messages(events):
                session.add(Row(id=message.id, payload=payload(message)))

    async def relay(self, count: int) -> None:
        handler = counting_handler()
        connection = sqlite.connect(self.path)
        for _ in range(0, count, 100):
            rows = connection.execute("SELECT position, payload FROM outbox ORDER BY position LIMIT 100").fetchall()
            positions = [row[:1] for row in rows]
            change(connection, "UPDATE outbox SET claimed = 1 WHERE position = ?", positions)
            for _, text in rows:
                await handler(Message(**orjson.loads(text)))
            change(connection, "DELETE FROM outbox WHERE position = ?", positions)
        assert sqlite.count(self.path, "outbox") == 0


def messages(count: int) -> Iterator[Message]:
    return (Message(n=n) for n in range(count))


def payload(message: Message) -> str:
    return orjson.dumps(message).decode()


def insert(connection: sqlite3.Connection, statement: str, rows: Iterator[tuple[object, ...]], batch: int) -> None:
    while values := list(islice(rows, batch)):
        change(connection, statement, values)


def change(connection: sqlite3.Connection, statement: str, values: list[tuple[object, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(statement, values)
    connection.execute("COMMIT")


contestant = Limit
