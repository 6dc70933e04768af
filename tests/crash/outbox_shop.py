"""An application with a database of its own, that is killed: it takes orders, and ships each of them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.orm import Session

from llmgine import Event, MessageBus
from llmgine.database.inbox import Inbox
from llmgine.database.outbox import Outbox, OutboxRow
from llmgine.messages import SessionID

from .journal import Journal
from .steps import ASKED, BEFORE, TOLD, Step, Steps

metadata = MetaData()
orders = Table(
    "orders", metadata, Column("id", String, primary_key=True), Column("customer", String), Column("number", Integer)
)
shipments = Table(
    "shipments",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String),
    Column("customer", String),
    Column("number", Integer),
)


@dataclass
class OrderPlaced(Event):
    """An order that has been taken."""

    order_id: str = ""
    number: int = 0


def open_database(url: str, schema: str) -> Engine:
    """Return an engine as an application makes it."""
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": 30, "isolation_level": None})
        event.listen(engine, "begin", _begin)
        event.listen(engine, "connect", _prepare)
        return engine
    options = {"options": f"-csearch_path={schema}"}
    return create_engine(url.replace("postgresql:", "postgresql+psycopg:"), connect_args=options)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _prepare(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")


class OutboxShop:
    """One process of the application."""

    def __init__(self, journal: Journal, steps: Steps, engine: Engine, name: str, chance: random.Random) -> None:
        """Take what `main` is told."""
        self._journal = journal
        self._steps = steps
        self._engine = engine
        self._name = name
        self._random = chance
        self._number = 0
        self._inbox = Inbox()
        self._bus = MessageBus.isolated()
        self._bus.register_event_handler(OrderPlaced, self._ship)
        self._outbox = Outbox(self._bus, engine, lease=1.0)

    async def run(self) -> None:
        """Take orders until somebody kills us."""
        await self._bus.start()
        await self._outbox.start()
        while True:
            for _ in range(3):
                self._take_order()
            await asyncio.sleep(0.02)

    async def drain(self) -> None:
        """Ship what there is."""
        await self._bus.start()
        await self._outbox.start()
        while self._left():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)
        await self._outbox.stop()
        await self._bus.stop()

    def _left(self) -> Any:
        with self._engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(OutboxRow))

    def _take_order(self) -> None:
        self._number += 1
        customer = f"{self._name}-{self._random.randrange(3)}"
        order_id = f"{customer}-{self._number}"
        commits = self._random.random() < 0.8
        with Session(self._engine) as session:
            session.execute(insert(orders).values(id=order_id, customer=customer, number=self._number))
            placed = OrderPlaced(order_id=order_id, number=self._number, session_id=SessionID(customer))
            self._outbox.publish(session, placed)
            session.flush()
            self._steps.at("commit", ASKED)
            if commits:
                session.commit()
                self._steps.at("commit", TOLD)
            else:
                session.rollback()
        self._journal.write("committed" if commits else "rolled back", id=order_id)

    async def _ship(self, event: OrderPlaced) -> None:
        self._steps.at("handler", ASKED)
        await asyncio.sleep(0.01)  # others have their turns
        with Session(self._engine) as session:
            if self._inbox.accept(session, event):
                values = {"order_id": event.order_id, "customer": event.session_id, "number": event.number}
                session.execute(insert(shipments).values(values))
            self._steps.at("handler", BEFORE)
            session.commit()
        self._journal.write("delivered", id=event.order_id)
        self._steps.at("handler", TOLD)


def main(
    task: str, *, journal: str, child: int, url: str, schema: str, seed: str, step: Step | None = None, nth: int = 1
) -> None:
    """Do a task: "run" until we are killed, or "drain" what there is."""
    log = Journal(Path(journal), child)
    steps = Steps(log, step and (step[0], step[1]), nth)
    steps.install_outbox()
    shop = OutboxShop(log, steps, open_database(url, schema), str(child), random.Random(seed))  # noqa: S311  # a test's
    asyncio.run(getattr(shop, task)())
