"""Everything that a bus keeps, in one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.exc import SQLAlchemyError

from llmgine.bus.clocks import utc_now
from llmgine.database.access import Access
from llmgine.database.approval_store import DatabaseApprovalStore
from llmgine.database.dead_letter_store import DatabaseDeadLetterStore
from llmgine.database.effect_ledger import DatabaseEffectLedger
from llmgine.database.engine import masked, open_existing, reason, transaction
from llmgine.database.event_log import DatabaseEventLog
from llmgine.database.event_records import EventRecords
from llmgine.database.retention import Retention
from llmgine.database.schedule_store import DatabaseScheduleStore
from llmgine.database.settings import DatabaseSettings
from llmgine.errors import ConfigurationError, StoreError
from llmgine.messages import Event, SessionID

__all__ = ["Database", "open_stores"]


class Database:
    """The `Stores` of a database. It is made, or brought up to date, when it is first needed.

    It may be used again after `aclose`.
    """

    def __init__(
        self,
        url: str | None = None,
        schema: str | None = None,
        *,
        lease: float = 60.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Take what is needed to open it later.

        Args:
            url: such as `sqlite:////home/me/bus.db` or `postgresql://me@host/bus`; what the environment says if it is
                left out.
            schema: of the tables; what the environment says if it is left out.
            lease: seconds after which a claimed event may be claimed by another process.
            clock: tells the date.

        Raises:
            ConfigurationError: the schema is no name, or the lease no number.
        """
        settings = DatabaseSettings.from_environment()
        self.access = Access(url or settings.url, schema or settings.schema, clock=clock)
        self._schedule = DatabaseScheduleStore(self.access, lease=lease)
        self._dead_letters = DatabaseDeadLetterStore(self.access)
        self.approvals = DatabaseApprovalStore(self.access)
        """Requests for approval of tool calls."""
        self.ledger = DatabaseEffectLedger(self.access)
        """What engines have begun, and what their tools may have done."""
        self._event_log: DatabaseEventLog | None = None
        self.event_records = EventRecords(self.access)
        """What the log of events holds, also where nothing is written to it now."""

    @property
    def schedule(self) -> DatabaseScheduleStore:
        """Scheduled events."""
        return self._schedule

    @property
    def dead_letters(self) -> DatabaseDeadLetterStore:
        """Commands that failed for good."""
        return self._dead_letters

    @property
    def event_log(self) -> DatabaseEventLog | None:
        """The log of events; None unless `LLMGINE_PERSIST_EVENTS` is 1.

        Raises:
            ConfigurationError: what the environment says of its retention makes no sense.
        """
        if self._event_log is None and DatabaseSettings.from_environment().persist_events:
            self._event_log = DatabaseEventLog(self.access, retention=Retention.from_environment())
        return self._event_log

    async def read_events(
        self,
        session_id: SessionID | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        types: Sequence[str] = (),
    ) -> AsyncIterator[Event]:
        """Yield events as they were published, also those that this process has not written yet.

        Raises:
            StoreError: the database cannot be reached.
        """
        if self._event_log is not None:
            await self._event_log.flush()
        async for event in self.event_records.events(session_id, since=since, until=until, types=types):
            yield event

    async def holds_schedule(self) -> bool:
        """Return whether anything is scheduled, without making a database that is not there.

        Raises:
            StoreError: that cannot be told.
        """
        return await asyncio.to_thread(self._peek)

    def stats(self) -> dict[str, Any]:
        """Return {"url", "available", "outages", "unwritten"}; no password in the url."""
        unwritten = 0 if self._event_log is None else self._event_log.unwritten
        return {**self.access.worker.health.stats(), "unwritten": unwritten}

    async def aclose(self) -> None:
        """Write what is to be written, and close the connection."""
        if self._event_log is not None:
            await self._event_log.aclose()
        await self.access.worker.aclose()

    def close(self) -> None:
        """Do as `aclose` does, without an event loop."""
        self.access.worker.close()

    def _peek(self) -> bool:
        url, tables = self.access.url, self.access.tables
        table = tables.scheduled_events
        try:
            engine = open_existing(url)
            if engine is None:
                return False
            with engine.connect() as connection, transaction(connection, reads=True):
                exists = inspect(connection).has_table(table.name, schema=tables.schema)
                return exists and connection.scalar(select(table.c.id).limit(1)) is not None
        except ConfigurationError as error:
            raise StoreError(str(error)) from error
        except (SQLAlchemyError, OSError) as error:
            msg = f"The database {masked(url)} cannot be reached: {reason(error, url)}"
            raise StoreError(msg) from error


def open_stores(url: str | None = None) -> Database:
    """Return the stores of a database; of the one that the environment names if there is no URL."""
    return Database(url)
