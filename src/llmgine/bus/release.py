"""From a store to delivery: events are claimed when they are due, delivered in that order, and settled afterwards."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from time import time_ns
from typing import Any, TypeAlias

from llmgine.bus.stores import Claim, Held, Misfire, ScheduleStore
from llmgine.messages import Event
from llmgine.messages.ids import next_number
from llmgine.messages.message import id_of, origin_of
from llmgine.messages.scheduled_events import ScheduledEvent

__all__ = ["LATE", "LOOK_EVERY", "Deliver", "Release"]

Deliver: TypeAlias = "Callable[[Event], asyncio.Future[Any] | None]"
"""Puts an event into the lane of its session. Returns what is done when its handlers have finished, cancelled when the
bus gave it up, and failed where it could not be delivered; None if it was handled at once."""

LATE = timedelta(seconds=5)
"""After so long an occurrence counts as missed, where missed ones are left out (`Misfire.SKIP`)."""
LOOK_EVERY = 60.0
"""Seconds after which a store that keeps events is asked again: the wall clock may have been set, and another process
may have put something into the same database, and died."""

_BATCH = 100
_A_MOMENT = timedelta(seconds=1)
"""How soon to come back where a store says that something is due and then, twice, hands out nothing."""
_ALWAYS = datetime.min.replace(tzinfo=UTC)

_Key: TypeAlias = tuple[str, datetime]
_log = logging.getLogger("llmgine.bus.scheduling")


class Release:
    """Takes what is due out of one store. One task calls `turn`, and `end` after it; errors of the store are for it."""

    def __init__(
        self,
        store: ScheduleStore,
        deliver: Deliver,
        *,
        clock: Callable[[], datetime],
        lease: float,
        rouse: Callable[[], None],
    ) -> None:
        """Deliver what a store holds.

        Args:
            store: where from.
            deliver: where to.
            clock: the date.
            lease: for how many seconds the store gives its claims.
            rouse: called when there is something for `turn` to do.
        """
        self.paused = False
        """Nothing more is claimed."""
        self._store = store
        self._deliver = deliver
        self._clock = clock
        self._renew_every = lease / 3
        self._rouse = rouse
        self._next: datetime | None = _ALWAYS  # when to claim; None if nothing is kept
        self._news: datetime | None = None  # the earliest that was added while the store was asked when that is
        self._asked = -math.inf  # by the loop's clock, like the others
        self._renewed = 0.0
        # By event and occurrence, so that a lease that ended meanwhile does not make it two deliveries.
        self._under_way: dict[_Key, Claim] = {}
        self._delivered: dict[_Key, Claim] = {}
        self._returned: list[Claim] = []

    @property
    def under_way(self) -> int:
        """How many events are being delivered."""
        return len(self._under_way)

    @property
    def released(self) -> set[str]:
        """The ids of the events that have been taken out of the store, which does not know yet what came of them."""
        return {id_ for id_, _ in (*self._under_way, *self._delivered)}

    @property
    def unsettled(self) -> int:
        """How many events have been delivered of which the store does not know it yet."""
        return len(self._delivered)

    def expect(self, due: datetime) -> None:
        """Note that an event has been added to the store."""
        self._news = _earlier(self._news, due)
        if self._next is None or due < self._next:
            self._next = due
            self._rouse()
        elif self._next <= self._clock():  # the clock has been set, and the timer is late
            self._rouse()

    def restart(self) -> None:
        """Begin anew, on another event loop: what was under way on the former will not end any more."""
        self.paused = False
        self._next, self._asked = _ALWAYS, -math.inf
        self._returned += self._under_way.values()
        self._under_way.clear()

    def ask_again(self) -> None:
        """Do not rely on what the store has said before."""
        self._asked = -math.inf

    async def turn(self, *, claiming: bool = True) -> None:
        """Settle what has been delivered, renew leases, and deliver what is due.

        Raises:
            StoreError: the store cannot be reached; nothing is lost or delivered twice if this is called again.
        """
        time = asyncio.get_running_loop().time
        in_vain = 0
        while True:
            await self._settle()
            await self._give_back()
            if self._under_way and time() >= self._renewed + self._renew_every:
                await self._renew(time)
            if not claiming or self.paused:
                return
            if time() >= self._asked + LOOK_EVERY:
                await self._ask(time, self._clock() + _A_MOMENT if in_vain > 1 else _ALWAYS)
            now = self._clock()
            if self._next is None or now < self._next:
                return
            claims = await self._store.claim(now, _BATCH)
            if claims and not self._under_way:
                self._renewed = time()
            for claim in claims:
                self._begin(claim, now)
            if len(claims) < _BATCH:
                self.ask_again()
            in_vain = 0 if claims else in_vain + 1
            await asyncio.sleep(0)  # the lanes get their turn

    async def end(self) -> None:
        """Settle what has been delivered; give back the rest.

        Raises:
            StoreError: the store cannot be reached. The leases end by themselves.
        """
        self._returned += self._under_way.values()
        self._under_way.clear()
        await self._settle()
        await self._give_back()

    def delay(self, *, claiming: bool = True) -> float | None:
        """Return in how many seconds `turn` has something to do, if nothing changes; None for never."""
        delays: list[float] = []
        if claiming and not self.paused and self._next is not None:
            delays.append(LOOK_EVERY)
            # An earliest date may be too far away for a difference.
            if self._next - self._clock() < timedelta(seconds=LOOK_EVERY):
                delays.append(max(0.0, (self._next - self._clock()).total_seconds()))
        if self._under_way:
            delays.append(max(0.0, self._renewed + self._renew_every - asyncio.get_running_loop().time()))
        return min(delays, default=None)

    def _begin(self, claim: Claim, now: datetime) -> None:
        held = claim.held
        key = held.id, held.due
        for known in (self._under_way, self._delivered):
            if key in known:  # our own lease had ended; from now on the new token counts
                known[key] = claim
                return
        if self.paused or held.event is None:
            self._returned.append(claim)
            return
        if held.recurrence is not None and held.misfire is Misfire.SKIP and now - held.due > LATE:
            self._delivered[key] = claim
            return
        event = held.event if held.recurrence is None else _occurrence(held, held.event)
        try:
            delivery = self._deliver(event)
        except Exception:  # noqa: BLE001  # logged, and tried again
            # Whatever it is, the events behind this one are not to blame. When the lease ends, it is tried again.
            _log.exception("A scheduled %s could not be delivered", held.event_type)
            return
        if delivery is None:
            self._delivered[key] = claim
        else:
            self._under_way[key] = claim
            delivery.add_done_callback(partial(self._ended, key))

    def _ended(self, key: _Key, delivery: asyncio.Future[Any]) -> None:
        if self.paused and delivery.cancelled():
            return  # given up at the end of the bus; otherwise a handler cancelled itself, and would so again
        claim = self._under_way.pop(key, None)
        if claim is None or (not delivery.cancelled() and delivery.exception() is not None):
            return  # what was not delivered is due again when its lease ends
        self._delivered[key] = claim
        self._rouse()

    async def _settle(self) -> None:
        while self._delivered:
            batch = dict(islice(self._delivered.items(), _BATCH))
            await self._store.settle(list(batch.values()), self._clock())
            for key in batch:
                del self._delivered[key]
            # What repeats is due again; and the ends of our own leases are nothing to wake up for.
            if not self._under_way or any(claim.held.recurrence is not None for claim in batch.values()):
                self.ask_again()

    async def _give_back(self) -> None:
        while batch := self._returned[:_BATCH]:
            await self._store.release(batch)
            del self._returned[: len(batch)]
            self.ask_again()

    async def _renew(self, time: Callable[[], float]) -> None:
        for batch in _batches(list(self._under_way.values())):
            await self._store.renew(batch)
        self._renewed = time()
        self.ask_again()

    async def _ask(self, time: Callable[[], float], not_before: datetime) -> None:
        self._news = None
        asked = time()
        found = await self._store.next_time()
        self._next = _earlier(self._news, None if found is None else max(found, not_before))
        self._asked = asked


def _occurrence(held: Held, event: Event) -> Event:
    """Return an event of its own for an occurrence of one that repeats, caused by that and in the same chain."""
    own = id_of(event)
    _, correlation, _, traceparent = origin_of(event)
    occurrence = copy(event)
    occurrence.metadata = dict(event.metadata or {})
    made = time_ns()
    occurrence._timestamp = made
    occurrence._identity = (made, next_number()), correlation or own, own, traceparent
    if isinstance(occurrence, ScheduledEvent):
        occurrence.scheduled_time = held.due
    return occurrence


def _batches(claims: Sequence[Claim]) -> list[Sequence[Claim]]:
    return [claims[first : first + _BATCH] for first in range(0, len(claims), _BATCH)]


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
