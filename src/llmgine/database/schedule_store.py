"""Scheduled events in a table. A claim is a lease on a row, with a token that fences off whoever has lost it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, Row, Table, bindparam, delete, func, or_, select, update

from llmgine.bus.options import check_number
from llmgine.bus.recurrence import next_due
from llmgine.bus.stores import Claim, Held, Misfire
from llmgine.cron import parse_recurrence
from llmgine.database.access import Access
from llmgine.database.tables import clean, microseconds, moment, stored_columns, stored_message
from llmgine.database.worker import Insert
from llmgine.errors import CodecError, StoreError
from llmgine.messages import Event, SessionID
from llmgine.messages.codec import decode, encode

__all__ = ["DatabaseScheduleStore"]

_log = logging.getLogger("llmgine.database")

_SECOND = 1_000_000
_DAY_S = 86_400
_FAR = datetime.max.replace(tzinfo=UTC)
_CHUNK = 500
"""How many ids stand in one statement."""


class DatabaseScheduleStore:
    """A `ScheduleStore` that outlives the process, and that processes may share."""

    def __init__(self, access: Access, *, lease: float = 60.0) -> None:
        """Lease claims for so many seconds: more than the clocks of those who share the database may differ by.

        Raises:
            ConfigurationError: `lease` is no number, or below 1.
        """
        check_number("lease", lease, int | float, "a number of seconds, at least 1", least=1)
        self._access = access
        self.lease: float = lease
        self._lease = int(lease * _SECOND)
        self._table: Table = access.tables.scheduled_events
        self._added = 0
        """When an event was added last."""
        self._revived = False
        """Whether what could not be decoded has got its chance with the classes of this process."""
        self._reported: set[str] = set()
        added = access.tables.insert(self._table)
        columns = [column.name for column in self._table.c]
        again = {name: added.excluded[name] for name in columns if name not in {"id", "token"}}
        self._add = added.on_conflict_do_update(index_elements=["id"], set_={**again, "token": self._table.c.token + 1})
        claimed = (self._table.c.id == bindparam("row_id")) & (self._table.c.token == bindparam("row_token"))
        own = update(self._table).where(claimed)
        freed = {"token": self._table.c.token + 1, "owner": None}
        self._forget = delete(self._table).where(claimed)
        self._extend = own.values(claimable_at=bindparam("until"))
        self._hold = own.values(due_at=bindparam("due"), claimable_at=bindparam("due"), error=None, failures=0, **freed)
        self._push_back = own.values(
            claimable_at=bindparam("until"), error=bindparam("why"), failures=self._table.c.failures + 1, **freed
        )

    async def add(self, held: Sequence[Held]) -> None:
        """Keep events, all or none; they are on disk when this returns. One with the id of another takes its place.

        Raises:
            CodecError: an event holds something that cannot be stored.
        """
        if held:
            await self._access.run(self.addition(held))

    def addition(self, held: Sequence[Held]) -> Insert:
        """Return the job that keeps events.

        Raises:
            CodecError: an event holds something that cannot be stored.
        """
        rows = [self._row(each) for each in held]
        for row in rows:  # no two alike, so that those that are due together keep their order
            self._added = row["created_at"] = max(time.time_ns() // 1000, self._added + 1)
        return Insert(self._add, rows)

    async def claim(self, now: datetime, limit: int) -> list[Claim]:
        """Lease up to `limit` events that are due at `now`, the earliest first."""
        while rows := await self._access.run(partial(self._take, microseconds(now), limit)):
            held = [self._held(row) for row in rows]
            await self._set_aside([pair for pair in zip(rows, held, strict=True) if pair[1].event is None], now)
            claims = [
                Claim(each, row.token + 1) for row, each in zip(rows, held, strict=True) if each.event is not None
            ]
            if claims:
                return sorted(claims, key=lambda claim: claim.held.due)
        return []

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Begin the leases of claims anew, save those that others have taken over."""
        until = microseconds(self._access.clock()) + self._lease
        await self._execute((self._extend, [{**_key(claim), "until": until} for claim in claims]))

    async def settle(self, claims: Sequence[Claim], now: datetime) -> None:
        """Forget events that have been delivered; hold those that repeat until they are due next."""
        dues = [(claim, next_due(claim.held, now)) for claim in claims]
        done = [_key(claim) for claim, due in dues if due is None]
        again = [{**_key(claim), "due": microseconds(due)} for claim, due in dues if due is not None]
        await self._execute((self._forget, done), (self._hold, again))

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims back undelivered, so that they are due at once for whoever comes."""
        back = [{**_key(claim), "due": microseconds(claim.held.due)} for claim in claims]
        await self._execute((self._hold, back))

    async def next_time(self) -> datetime | None:
        """Return when `claim` next finds something: when an event is due or a lease ends; None if nothing is kept."""
        if not self._revived:
            await self._access.run(self._revive)
        query = select(func.min(self._table.c.claimable_at))
        when = await self._access.run(lambda connection: connection.scalar(query), reads=True)
        return moment(when) if isinstance(when, int) else None

    async def cancel(self, ids: Sequence[str]) -> int:
        """Forget events, of one that is being delivered only further occurrences. Return how many."""
        table, now = self._table, microseconds(self._access.clock())
        wanted = iter(dict.fromkeys(map(clean, ids)))
        statements = [
            delete(table).where(table.c.id.in_(chunk), or_(table.c.recurrence.is_not(None), self._is_free(now)))
            for chunk in iter(lambda: list(islice(wanted, _CHUNK)), [])
        ]
        return await self._access.run(lambda connection: sum(connection.execute(each).rowcount for each in statements))

    def take_all(self) -> list[Event]:
        """Remove the events that come once and are not being delivered, and return them by the time they are due.

        Blocks. What cannot be decoded stays.
        """
        table, now = self._table, microseconds(self._access.clock())
        free = select(table).where(table.c.recurrence.is_(None), self._is_free(now))
        free = free.order_by(table.c.due_at, table.c.created_at)
        rows = self._access.submit(lambda connection: connection.execute(free).all(), reads=True).result()
        read = [(row, self._held(row).event) for row in rows]

        def work(connection: Connection) -> list[Event]:
            return [
                event
                for row, event in read
                if event is not None
                and connection.execute(self._forget, {"row_id": row.id, "row_token": row.token}).rowcount
            ]

        return self._access.submit(work).result()

    async def list(self, *, session_id: SessionID | None = None, limit: int | None = None) -> list[Held]:
        """Return events by the time they are due, also those that cannot be decoded."""
        query = select(self._table).order_by(self._table.c.due_at, self._table.c.created_at).limit(limit)
        if session_id is not None:
            query = query.where(self._table.c.session_id == clean(session_id))
        rows = await self._access.run(lambda connection: connection.execute(query).all(), reads=True)
        return [self._held(row) for row in rows]

    async def count(self) -> int:
        """Return how many events are kept."""
        query = select(func.count()).select_from(self._table)
        return await self._access.run(lambda connection: connection.scalar(query) or 0, reads=True)

    async def _execute(self, *statements: tuple[Executable, Sequence[dict[str, Any]]]) -> None:
        """Execute statements, each for rows, all or none."""
        some = [(statement, rows) for statement, rows in statements if rows]

        def work(connection: Connection) -> None:
            for statement, rows in some:
                connection.execute(statement, rows)

        if some:
            await self._access.run(work)

    def _is_free(self, now: int) -> ColumnElement[bool]:
        return or_(self._table.c.owner.is_(None), self._table.c.claimable_at <= now)

    def _row(self, held: Held) -> dict[str, Any]:
        if held.event is None:
            msg = f"What is held under {held.id!r} has no event, so that there is nothing to store."
            raise ValueError(msg)
        due = microseconds(held.due)
        return {
            "id": clean(held.id),
            "event_type": held.event_type or type(held.event).__name__,
            "session_id": clean(str(held.session_id)),
            "due_at": due,
            "claimable_at": due,
            "recurrence": None if held.recurrence is None else held.recurrence.spec,
            "misfire": held.misfire.value,
            "owner": None,
            "token": 0,
            "error": None,
            "failures": 0,
            **stored_columns(encode(held.event)),
        }

    def _held(self, row: Row[Any]) -> Held:
        """Return what a row says, as far as it can be read. Runs code of the application's classes."""
        event, recurrence, misfire, error = None, None, Misfire.ONCE, None
        due = _FAR
        try:
            due = moment(row.due_at)
            misfire = Misfire(row.misfire)
            recurrence = None if row.recurrence is None else parse_recurrence(row.recurrence)
            message = decode(stored_message(row))
            if not isinstance(message, Event):
                msg = f"{row.type_name} is no event."
                raise CodecError(msg)  # noqa: TRY301  # one place says what becomes of it
            event = message
        except Exception as exc:  # noqa: BLE001  # classes may read what is stored in ways of their own
            error = f"{type(exc).__name__}: {exc}"
        return Held(
            row.id,
            event,
            due,
            recurrence,
            misfire,
            error,
            event_type=row.event_type,
            session_id=SessionID(row.session_id),
        )

    def _take(self, now: int, limit: int, connection: Connection) -> Sequence[Row[Any]]:
        """Lease rows. Return them as they were before."""
        if not self._revived:
            self._revive(connection)
        table = self._table
        query = (
            select(table)
            .where(table.c.claimable_at <= now)
            .order_by(table.c.claimable_at, table.c.created_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        rows = connection.execute(query).all()
        if rows:
            lease = update(table).where(table.c.id == bindparam("row_id"))
            lease = lease.values(claimable_at=now + self._lease, owner=self._access.owner, token=table.c.token + 1)
            connection.execute(lease, [{"row_id": row.id} for row in rows])
        return rows

    async def _set_aside(self, unreadable: Iterable[tuple[Row[Any], Held]], now: datetime) -> None:
        """Keep rows that cannot be decoded out of the way of the others, longer each time."""
        pushed: list[dict[str, Any]] = []
        for row, held in unreadable:
            wait = min(60 * 2 ** min(row.failures, 11), _DAY_S) * _SECOND
            pushed.append(
                {**_key(Claim(held, row.token + 1)), "until": microseconds(now) + wait, "why": clean(held.error or "")}
            )
            if row.id not in self._reported:
                self._reported.add(row.id)
                text = "The scheduled event %s of class %s cannot be read, and is kept until it can: %s"
                _log.error(text, row.id, row.event_type, held.error)
        # Where the database has gone away just now, the lease keeps them out of the way for as long as it lasts.
        with suppress(StoreError):
            await self._execute((self._push_back, pushed))

    def _revive(self, connection: Connection) -> None:
        """Let what could not be decoded be tried again: this may be a version of the program that can."""
        table = self._table
        stuck = (table.c.error.is_not(None), table.c.owner.is_(None), table.c.claimable_at > table.c.due_at)
        connection.execute(update(table).where(*stuck).values(claimable_at=table.c.due_at))
        self._revived = True


def _key(claim: Claim) -> dict[str, Any]:
    return {"row_id": claim.held.id, "row_token": claim.token}
