"""Whatever becomes of the database's writes, every event has exactly one row, in the order of publishing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from llmgine.database import event_log
from llmgine.database.access import Access
from llmgine.database.event_log import DatabaseEventLog
from llmgine.database.event_records import EventRecords
from llmgine.errors import StoreError
from llmgine.messages import Event

pytestmark = pytest.mark.usefixtures("quiet")


class Fate(Enum):
    """What becomes of a write."""

    DONE = 1
    REFUSED = 2
    """The database is away."""
    IN_DOUBT = 3
    """It was committed, and the answer was lost."""
    BLAMED = 4
    """It was refused because of its rows, and is not if there is but one."""


@dataclass
class Counted(Event):
    number: int = 0


class Fickle(Access):
    """A database whose writes have fates."""

    fates: Iterator[Fate] = iter(())

    def submit(self, work: Any, *, reads: bool = False) -> Future[Any]:
        batch = work.args[0] if isinstance(work, partial) and not reads else ()
        fate = next(self.fates, Fate.DONE) if batch else Fate.DONE
        if fate is Fate.DONE or (fate is Fate.BLAMED and len(batch) == 1):
            return super().submit(work, reads=reads)
        if fate is Fate.IN_DOUBT:
            super().submit(work, reads=reads).result()
        error = StoreError("away")
        if fate is Fate.BLAMED:
            error.__cause__ = IntegrityError("insert", None, Exception())
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


STEPS = st.lists(
    st.one_of(
        st.integers(1, 8).map(lambda count: ("append", count)),
        st.sampled_from([("flush", 0), ("wait", 0), ("turn", 0)]),
    ),
    max_size=15,
)


@given(steps=STEPS, fates=st.lists(st.sampled_from(Fate), max_size=15))
@settings(max_examples=60)
def test_every_event_has_one_row_in_order(steps: list[tuple[str, int]], fates: list[Fate]) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_log, "_BATCH", 4)
        patch.setattr(event_log, "_MOMENT_S", 0.001)
        asyncio.run(_one_row_each(Path(folder), steps, fates))


async def _one_row_each(folder: Path, steps: list[tuple[str, int]], fates: list[Fate]) -> None:
    access = Fickle(f"sqlite:///{folder / 'bus.db'}?timeout=1", "message_bus")
    access.fates = iter(fates)
    log = DatabaseEventLog(access, capacity=10)
    appended = 0
    for step, count in steps:
        if step == "append":
            for _ in range(count):
                if log.is_full:
                    await log.wait_for_room()
                log.append(Counted(number=appended))
                appended += 1
        else:
            waits: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {"flush": log.flush, "wait": log.wait_for_room}
            await waits.get(step, lambda: asyncio.sleep(0))()
    for _ in range(len(fates) + 1):  # each flush meets one fate at least
        await log.flush()
    await log.aclose()
    assert log.unwritten == 0
    events = [event async for event in EventRecords(access).events()]
    assert [event.number for event in events if isinstance(event, Counted)] == list(range(appended))
    await access.worker.aclose()
