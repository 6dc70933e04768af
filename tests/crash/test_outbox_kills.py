"""Whoever takes orders and ships them is killed by the hundred: what was committed is shipped, once and in order."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from llmgine import MessageBus
from llmgine.database.inbox import inbox_metadata
from llmgine.database.outbox import Outbox, OutboxRow, outbox_metadata
from llmgine.database.outbox_table import OutboxTable
from llmgine.database.tables import microseconds

from .conftest import Places
from .journal import read
from .nursery import Nursery
from .outbox_shop import OrderPlaced, metadata, open_database, orders, shipments
from .steps import ASKED, BEFORE, TOLD, Step

KILLED = -signal.SIGKILL
STEPS: list[Step] = [
    ("commit", ASKED),
    ("commit", TOLD),
    *((operation, stage) for operation in ("claim", "handler", "remove") for stage in (ASKED, BEFORE, TOLD)),
]


def test_what_is_committed_is_shipped_once_and_in_order_whoever_is_killed(
    nursery: Nursery, places: Places, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = time.time_ns()
    print("seed", seed)  # noqa: T201  # for whoever wants the same again
    chance = random.Random(seed)  # noqa: S311  # a test's
    (url, schema), journal = places(), tmp_path / "journal"
    engine = open_database(url, schema)
    with engine.begin() as connection:
        if not url.startswith("sqlite"):
            connection.execute(text(f"CREATE SCHEMA {schema}"))
        for tables in (metadata, outbox_metadata, inbox_metadata):
            tables.create_all(connection)

    def start(child: int, step: Step | None, task: str = "run") -> int:
        told = {"journal": str(journal), "child": child, "url": url, "schema": schema, "seed": f"{seed} {child}"}
        return nursery.start("outbox_shop", task=task, step=step, nth=chance.randint(1, 3), **told)

    killed = 0
    for step in [*STEPS, *STEPS]:
        assert nursery.wait(start(killed, step)) == KILLED, f"{step} was not reached"
        killed += 1
    while killed < 60:
        together = chance.choice([2, 5])
        children = [start(killed + n, chance.choice([None, *STEPS])) for n in range(together)]
        for child in children:
            time.sleep(chance.uniform(0, 0.3 / together))
            assert nursery.kill(child) == KILLED
        killed += together
    assert nursery.wait(start(killed, None, "drain")) == 0

    with engine.connect() as connection:
        ordered = {row.id for row in connection.execute(select(orders))}
        shipped = connection.execute(select(shipments).order_by(shipments.c.position)).all()
    engine.dispose()
    told = [(record["what"], record["id"]) for record in read(journal) if record["what"] != "killed"]
    assert {order for what, order in told if what == "committed"} <= ordered, "what was committed was lost"
    assert not {order for what, order in told if what == "rolled back"} & ordered
    assert Counter(row.order_id for row in shipped) == Counter(ordered), "an order was not shipped, or twice"
    for customer in {row.customer for row in shipped}:
        numbers = [row.number for row in shipped if row.customer == customer]
        assert all(earlier < later for earlier, later in pairwise(numbers)), "the order of a session was lost"
    twice = Counter(order for what, order in told if what == "delivered").total() - len(ordered)
    print(killed, "killed,", len(ordered), "ordered,", twice, "delivered twice")  # noqa: T201  # how much was shown
    record_property("killed", killed)
    record_property("twice", twice)
    assert twice <= killed * 100  # what one process claims at once


async def test_a_lease_that_ends_while_the_relay_asks_what_is_left_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    engine = open_database(f"sqlite:///{tmp_path / 'shop.db'}", "")
    arrived = asyncio.Event()
    bus = MessageBus.isolated()
    bus.register_event_handler(OrderPlaced, lambda _: arrived.set())
    outbox = Outbox(bus, engine, clock=lambda: now)
    claim = OutboxTable.claim

    def claim_and_take_long(*args: Any, **more: Any) -> Any:
        nonlocal now
        claimed = claim(*args, **more)
        now += timedelta(seconds=20)
        return claimed

    monkeypatch.setattr(OutboxTable, "claim", claim_and_take_long)
    outbox_metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        outbox.publish(session, OrderPlaced(order_id="one"))
        session.flush()
        session.execute(update(OutboxRow).values(claim="a process that was killed", claimable_at=microseconds(now) + 1))
    await bus.start()
    async with outbox:
        await asyncio.wait_for(arrived.wait(), 5)
    await bus.stop()
    engine.dispose()
