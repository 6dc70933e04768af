"""Scheduled events in memory: for a bus without a database, and while a database is away."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count

from llmgine.bus.clocks import utc_now
from llmgine.bus.recurrence import next_due
from llmgine.bus.stores import Claim, Held
from llmgine.messages import SessionID

__all__ = ["MemoryScheduleStore"]


@dataclass(slots=True)
class _Row:
    held: Held
    when: datetime
    """When it can be claimed: when it is due, or when the lease ends."""
    number: int
    """That of its one valid entry in the heap."""
    token: int = 0
    """Of the claim; 0 if there is none."""


class MemoryScheduleStore:
    """A `ScheduleStore` that ends with the process."""

    def __init__(self, *, lease: float = 60.0, clock: Callable[[], datetime] = utc_now) -> None:
        """Lease claims for so many seconds of `clock`."""
        self.lease = lease
        self._lease = timedelta(seconds=lease)
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        # The earliest first, by number where they are due together. An entry with another number than its row is void.
        self._heap: list[tuple[datetime, int, str]] = []
        self._numbers = count(1)

    def __len__(self) -> int:
        """Return how many events are kept."""
        return len(self._rows)

    async def add(self, held: Sequence[Held]) -> None:
        """Keep events. One with the id of another takes its place."""
        for each in held:
            self._rows[each.id] = self._place(_Row(each, each.due, 0), each.due)

    async def claim(self, now: datetime, limit: int) -> list[Claim]:
        """Lease up to `limit` events that are due at `now`, the earliest first."""
        rows: list[_Row] = []
        while len(rows) < limit and (row := self._first()) is not None and row.when <= now:
            rows.append(row)
            row.token = next(self._numbers)
            self._place(row, now + self._lease)
        rows.sort(key=lambda row: row.held.due)  # a lease that has ended is of an event that was due before
        return [Claim(row.held, row.token) for row in rows]

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Begin leases anew."""
        for row in self._claimed(claims):
            self._place(row, self._clock() + self._lease)

    async def settle(self, claims: Sequence[Claim], now: datetime) -> None:
        """Forget events that have been delivered; hold those that repeat until they are due next."""
        for row in self._claimed(claims):
            due = next_due(row.held, now)
            if due is None:
                del self._rows[row.held.id]
            else:
                row.held, row.token = replace(row.held, due=due), 0
                self._place(row, due)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims back undelivered."""
        for row in self._claimed(claims):
            row.token = 0
            self._place(row, row.held.due)

    async def next_time(self) -> datetime | None:
        """Return when an event is due or a lease ends."""
        row = self._first()
        return None if row is None else row.when

    async def cancel(self, ids: Sequence[str]) -> int:
        """Forget events, of one that is being delivered only further occurrences. Return how many."""
        forgotten = [id_ for id_ in dict.fromkeys(ids) if id_ in self._rows and self._is_forgettable(self._rows[id_])]
        for id_ in forgotten:
            del self._rows[id_]
        return len(forgotten)

    def take(self, limit: int) -> list[Held]:
        """Remove up to `limit` of the earliest events that are not being delivered, and return them."""
        taken: list[Held] = []
        leased: list[_Row] = []
        while len(taken) < limit and (row := self._first()) is not None:
            heapq.heappop(self._heap)
            if row.token:
                leased.append(row)
            else:
                taken.append(row.held)
                del self._rows[row.held.id]
        for row in leased:
            self._place(row, row.when)
        return taken

    async def put_back(self, taken: Iterable[Held]) -> None:
        """Keep again what `take` removed, save what has been replaced since."""
        await self.add([each for each in taken if each.id not in self._rows])

    async def count(self) -> int:
        """Return how many events are kept."""
        return len(self._rows)

    # Behind the others, because it hides the type of its name.
    async def list(self, *, session_id: SessionID | None = None, limit: int | None = None) -> list[Held]:
        """Return events by the time they are due."""
        held = [row.held for row in self._rows.values() if session_id in {None, row.held.session_id}]
        return sorted(held, key=lambda each: each.due)[:limit]

    def _is_forgettable(self, row: _Row) -> bool:
        return not row.token or row.when <= self._clock() or row.held.recurrence is not None

    def _place(self, row: _Row, when: datetime) -> _Row:
        row.when, row.number = when, next(self._numbers)
        heapq.heappush(self._heap, (when, row.number, row.held.id))
        return row

    def _first(self) -> _Row | None:
        """Return the row that can be claimed first."""
        if len(self._heap) > 2 * len(self._rows) + 64:  # more than half is void
            self._heap = [(row.when, row.number, id_) for id_, row in self._rows.items()]
            heapq.heapify(self._heap)
        while self._heap:
            _, number, id_ = self._heap[0]
            row = self._rows.get(id_)
            if row is not None and row.number == number:
                return row
            heapq.heappop(self._heap)
        return None

    def _claimed(self, claims: Sequence[Claim]) -> Iterator[_Row]:
        """Yield the rows of claims that nobody has taken over."""
        for claim in claims:
            row = self._rows.get(claim.held.id)
            if row is not None and row.token == claim.token:
                yield row
