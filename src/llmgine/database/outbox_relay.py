"""From the outbox to the bus: rows are claimed, published in the order of their sessions, and forgotten afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llmgine.database.outbox_table import OutboxTable
from llmgine.database.tables import clean, microseconds, stored_message
from llmgine.database.user_engine import UserEngine
from llmgine.errors import BusNotRunningError, CodecError, QueueFullError
from llmgine.messages import Event
from llmgine.messages.codec import decode
from llmgine.messages.ids import new_id

if TYPE_CHECKING:
    from llmgine.bus import MessageBus

__all__ = ["Relay"]

_log = logging.getLogger("llmgine.database")

_SECOND = 1_000_000
_BATCH = 100
_MOST = 1000
"""How many events may be under way before no more are claimed."""
_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 30.0
"""From one attempt to reach a database that is away to the next: they double."""
_POSTPONED_S = 1.0
"""How long an event waits that the bus did not take."""
_PATIENCE_S = 5.0
"""How long the end waits for the database."""


@dataclass(frozen=True, slots=True)
class _Claimed:
    event: Event
    session: str
    key: tuple[int, str]


class Relay:
    """One task, which sleeps while there is nothing to relay; and one more for each session of which it has events."""

    def __init__(self, bus: MessageBus, engine: UserEngine, *, lease: float, clock: Callable[[], datetime]) -> None:
        """Relay from a database to a bus."""
        self.delivered = 0
        """How many events have been handled."""
        self.unreadable = 0
        """How many rows could not be decoded."""
        self._bus = bus
        self._engine = engine
        self._lease = lease
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._look = True
        """Whether there may be something to claim."""
        self._next: int | None = None
        """When there will be, if nothing else happens."""
        self._stopping = False
        self._under_way: dict[tuple[int, str], _Claimed] = {}
        self._done: list[tuple[int, str]] = []
        self._returned: list[tuple[int, str]] = []
        self._deliveries: set[asyncio.Task[None]] = set()
        self._renewed = 0.0
        self._failures = 0
        self._task = self._loop.create_task(self._run(), context=Context())  # whatever started it caused nothing here

    def look(self) -> None:
        """Look for what is to be relayed. From any thread."""
        with suppress(RuntimeError):  # the event loop is closed; whoever relays next looks anyway
            self._loop.call_soon_threadsafe(self._rouse)

    async def stop(self, timeout: float) -> None:
        """Claim nothing more, wait for what is under way, and give the rest back.

        Args:
            timeout: seconds after which events under way are given back, to be delivered once more.
        """
        self._stopping = True
        self._wake.set()
        await asyncio.wait((self._task,), timeout=timeout)
        for delivery in self._deliveries:
            delivery.cancel()
        self._wake.set()
        if not (await asyncio.wait((self._task,), timeout=_PATIENCE_S))[0]:
            self._task.cancel()
        await asyncio.wait((self._task, *self._deliveries))

    def _rouse(self) -> None:
        self._look = True
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._turn()
                self._failures = 0
                delay = self._delay()
            except Exception as error:  # noqa: BLE001  # whatever a driver raises, committed events are not given up
                delay = self._note_failure(error)
            if self._stopping and (self._failures or not (self._under_way or self._done or self._returned)):
                return
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                self._look = True
            self._wake.clear()

    async def _turn(self) -> None:
        """Forget what has been delivered, renew leases, and begin to deliver what may be delivered."""
        await self._settle()
        if self._under_way and self._loop.time() >= self._renewed + self._lease / 3:
            self._renewed = self._loop.time()
            await self._engine.run(
                partial(OutboxTable.lease, rows=list(self._under_way), until=self._later(self._lease))
            )
        asks = self._look and not self._stopping
        now = self._later(0)
        while self._look and not self._stopping and len(self._under_way) < _MOST:
            self._look = False
            claim = new_id()
            now, until = self._later(0), self._later(self._lease)
            rows = await self._engine.run(partial(OutboxTable.claim, claim=claim, now=now, until=until, limit=_BATCH))
            if rows and not self._under_way:
                self._renewed = self._loop.time()
            await self._begin([(row, (row.position, claim)) for row in rows])
            self._look = self._look or len(rows) == _BATCH
            await asyncio.sleep(0)
            await self._settle()
        if asks:
            # As of the last claim: a lease that has ended since is to be noticed, too.
            self._next = await self._engine.run(partial(OutboxTable.next_time, now=now))

    async def _settle(self) -> None:
        while self._done:
            done = self._done[:_BATCH]
            await self._engine.run(partial(OutboxTable.remove, rows=done))
            del self._done[: len(done)]
            self._look = True  # for others of their sessions
        while self._returned:
            returned = self._returned[:_BATCH]
            delay = 0.0 if self._stopping else _POSTPONED_S
            await self._engine.run(partial(OutboxTable.lease, rows=returned, until=self._later(delay)))
            del self._returned[: len(returned)]
            self._look = True

    async def _begin(self, rows: Sequence[tuple[Any, tuple[int, str]]]) -> None:
        claimed: list[_Claimed] = []
        for row, key in rows:
            try:
                event = decode(stored_message(row))
                if not isinstance(event, Event):
                    msg = f"{row.type_name} is no event."
                    raise CodecError(msg)  # noqa: TRY301  # seen to as the others
            except CodecError as error:
                self.unreadable += 1
                _log.error("Row %d of the outbox is kept, and cannot be published: %s", row.position, error)
                await self._engine.run(partial(OutboxTable.set_aside, row=key, error=clean(str(error))))
            else:
                claimed.append(_Claimed(event, row.session_id, key))
        self._under_way |= {each.key: each for each in claimed}
        for _, events in groupby(sorted(claimed, key=lambda each: each.session), key=lambda each: each.session):
            task = self._loop.create_task(self._deliver(deque(events)), context=Context())
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, events: deque[_Claimed]) -> None:
        """Publish events of one session, one after another."""
        try:
            while events:
                if not await self._publish(events[0].event):
                    return
                self._done.append(events[0].key)
                del self._under_way[events.popleft().key]
                self.delivered += 1
                self._wake.set()
        finally:
            for each in events:
                del self._under_way[each.key]
                self._returned.append(each.key)
            self._wake.set()

    async def _publish(self, event: Event) -> bool:
        """Publish an event and wait for its handlers. Return whether the bus took it."""
        if self._bus.loop is not self._loop:  # or else it would keep the event in memory
            return False
        try:
            await self._bus.publish(event)
        except (BusNotRunningError, QueueFullError) as error:
            _log.info(
                "A %s of the outbox was not taken by the bus, and is published again: %s", type(event).__name__, error
            )
            return False
        except Exception:  # noqa: BLE001, S110  # a handler's, of which the bus has told; the event was delivered
            pass
        return True

    def _note_failure(self, error: Exception) -> float:
        """Say once that the database is away. Return how long to wait."""
        self._look = True
        if not self._failures:
            _log.warning("The outbox cannot be relayed: %s. This is not logged again until it can.", error)
        self._failures += 1
        return min(_FIRST_RETRY_S * 2.0 ** (self._failures - 1), _LAST_RETRY_S)

    def _delay(self) -> float | None:
        """Return in how many seconds there is something to do if nothing happens; None for never."""
        delays: list[float] = []
        if self._next is not None and not self._stopping:
            delays.append(max(0.0, (self._next - self._later(0)) / _SECOND))
        if self._under_way:
            delays.append(max(0.0, self._renewed + self._lease / 3 - self._loop.time()))
        return min(delays, default=None)

    def _later(self, seconds: float) -> int:
        return microseconds(self._clock()) + int(seconds * _SECOND)
