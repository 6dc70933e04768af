"""Reading the log of events, page by page: as events, or as what is written there."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, Row, Select, Table, func, select

from llmgine.bus.options import check_number
from llmgine.bus.recurrence import to_utc
from llmgine.database.access import Access
from llmgine.database.tables import microseconds, moment, stored_message
from llmgine.errors import CodecError
from llmgine.messages import Event, SessionID
from llmgine.messages.codec import decode

__all__ = ["EventRecord", "EventRecords"]

_log = logging.getLogger("llmgine.database")

_PAGE = 500


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One row of the log, for programs that need not have the classes of the events."""

    position: int
    """Counts up, with gaps, in the order of publishing."""
    event_id: str
    event_type: str
    """The name of the class."""
    type_name: str
    """ "package.module:Qualified.Name" of the class."""
    version: int
    """Of its fields."""
    session_id: SessionID
    correlation_id: str
    causation_id: str | None
    event_time: str
    """When the event was made, as it says itself."""
    published: datetime
    payload: str
    """The fields, as JSON."""

    @classmethod
    def of(cls, row: Row[tuple[object, ...]]) -> EventRecord:
        """Return a row of the table."""
        return cls(
            row.position,
            row.event_id,
            row.event_type,
            row.type_name,
            row.version,
            SessionID(row.session_id),
            row.correlation_id,
            row.causation_id,
            row.event_time,
            moment(row.published_at),
            row.payload,
        )


class EventRecords:
    """What the log of events holds. What is written while somebody reads is not part of what is read."""

    def __init__(self, access: Access) -> None:
        """Read the log in a database."""
        self._access = access
        self._table: Table = access.tables.event_log

    async def events(
        self,
        session_id: SessionID | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        types: Sequence[str] = (),
    ) -> AsyncIterator[Event]:
        """Yield events as they were published, as `Stores.read_events` says.

        Left out, and logged in one line, is what this program has no class for, and what could not be stored whole.

        Raises:
            StoreError: the database cannot be reached.
        """
        left_out, why = 0, ""
        try:
            query = self._query(session_id, since=since, until=until, types=types)
            async for row in self._rows(query, newest_first=False, limit=None):
                try:
                    yield _event(row)
                except CodecError as error:
                    left_out, why = left_out + 1, why or str(error)
        finally:
            if left_out:
                _log.warning("%d events of the log were left out. The first: %s", left_out, why)

    async def records(
        self,
        session_id: SessionID | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        types: Sequence[str] = (),
        correlation_id: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[EventRecord]:
        """Yield rows of the log.

        Args:
            session_id: only its events.
            since: only what was published from then on.
            until: only what was published before then.
            types: only of classes with these names.
            correlation_id: only of this chain.
            newest_first: what was published last comes first.
            limit: how many at most.

        Raises:
            ConfigurationError: the limit is no number, or a date is none.
            StoreError: the database cannot be reached.
        """
        if limit is not None:
            check_number("limit", limit, int, "a number of events")
        query = self._query(session_id, since=since, until=until, types=types)
        if correlation_id is not None:
            query = query.where(self._table.c.correlation_id == correlation_id)
        async for row in self._rows(query, newest_first=newest_first, limit=limit):
            yield EventRecord.of(row)

    def _query(
        self,
        session_id: SessionID | None,
        *,
        since: datetime | None,
        until: datetime | None,
        types: Sequence[str],
    ) -> Select[tuple[object, ...]]:
        columns = self._table.c
        query: Select[tuple[object, ...]] = select(self._table)
        if session_id is not None:
            query = query.where(columns.session_id == session_id)
        if since is not None:
            query = query.where(columns.published_at >= microseconds(to_utc("since", since)))
        if until is not None:
            query = query.where(columns.published_at < microseconds(to_utc("until", until)))
        if types:
            query = query.where(columns.event_type.in_(types))
        return query

    async def _rows(
        self, query: Select[tuple[object, ...]], *, newest_first: bool, limit: int | None
    ) -> AsyncIterator[Row[tuple[object, ...]]]:
        position = self._table.c.position
        end = await self._access.run(lambda connection: connection.scalar(select(func.max(position))), reads=True)
        query = query.where(position <= (end or 0)).order_by(position.desc() if newest_first else position)
        rest = query
        while limit is None or limit > 0:
            size = _PAGE if limit is None else min(_PAGE, limit)
            rows = await self._access.run(partial(_all, rest.limit(size)), reads=True)
            for row in rows:
                yield row
            if len(rows) < size:
                return
            limit = None if limit is None else limit - size
            last = rows[-1].position
            rest = query.where(position < last if newest_first else position > last)


def _all(query: Select[tuple[object, ...]], connection: Connection) -> Sequence[Row[tuple[object, ...]]]:
    return connection.execute(query).all()


def _event(row: Row[tuple[object, ...]]) -> Event:
    stored = stored_message(row)
    if stored.lossy:
        msg = f"{stored.type_name} could not be stored whole: {', '.join(stored.lost)}"
        raise CodecError(msg)
    event = decode(stored)
    if not isinstance(event, Event):
        msg = f"{stored.type_name} is no event."
        raise CodecError(msg)
    return event
