"""How much of the log of events is kept: the oldest goes first, a few rows at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zlib import crc32

from sqlalchemy import Connection, Table, delete, func, select

from llmgine.bus.options import check_number
from llmgine.database.access import Access
from llmgine.database.tables import microseconds
from llmgine.errors import ConfigurationError, StoreError

__all__ = ["Retention", "Trimmer"]

_log = logging.getLogger("llmgine.database")

_DAY_S = 86_400
_MEGABYTE = 1_000_000
_ROWS = 500
"""How many rows go in one transaction, so that nobody waits long for it."""
_STEPS = 20
"""How many such transactions make one run: more rows go than come, so that a log that is far too long gets shorter."""
_LARGE = 1_000_000_000
"""Bytes from which on a log that nothing limits is worth a word."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What the log of events may hold; None for no limit.

    There is none by default: what nobody asked to delete is not deleted.

    Raises:
        ConfigurationError: a limit is no number above 0.
    """

    max_age: float | None = None
    """Seconds since an event was published."""
    max_events: int | None = None
    max_bytes: int | None = None
    """Of the events as they are stored. A database adds its own, and a file that has grown does not shrink; the room
    is used again."""

    def __post_init__(self) -> None:
        if self.max_age is not None:
            check_number("max_age", self.max_age, int | float, "a number of seconds, at least 1", least=1)
        if self.max_events is not None:
            check_number("max_events", self.max_events, int, "a number of events, at least 1", least=1)
        if self.max_bytes is not None:
            check_number("max_bytes", self.max_bytes, int, "a number of bytes, at least 1", least=1)

    @classmethod
    def from_environment(cls) -> Retention:
        """Return what `LLMGINE_EVENT_LOG_MAX_DAYS`, `…_MAX_EVENTS` and `…_MAX_MB` (millions of bytes) say.

        Raises:
            ConfigurationError: one of them is no number above 0.
        """
        days, events, megabytes = (_number(f"LLMGINE_EVENT_LOG_MAX_{name}") for name in ("DAYS", "EVENTS", "MB"))
        return cls(
            None if days is None else days * _DAY_S,
            None if events is None else max(1, int(events)),
            None if megabytes is None else max(1, int(megabytes * _MEGABYTE)),
        )


def _number(variable: str) -> float | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        number = float(text)
        if 0 < number < 1e15:  # more than any clock or disk holds
            return number
    except ValueError:
        pass
    msg = f"{variable} must be a number above 0; got {text!r}. Leave it empty for no limit."
    raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True)
class _Totals:
    """What the log holds from one position to another."""

    first: int | None = None
    last: int = 0
    count: int = 0
    size: int = 0


class Trimmer:
    """Deletes what the log of events is not to keep.

    How much there is, is counted once and from then on kept up with; whenever another process has deleted something, it
    is counted anew, so that nothing goes that may stay.
    """

    def __init__(self, access: Access, retention: Retention) -> None:
        """Look after the log in a database."""
        self._access = access
        self._retention = retention
        self._table: Table = access.tables.event_log
        self._totals = _Totals()
        self._running: Future[None] | None = None
        self._told = False

    def run(self) -> Future[None]:
        """Begin to delete. Return what is done when that has ended, well or not; there is a next time."""
        if self._running is None or self._running.done():
            self._running = Future()
            self._submit(_STEPS, self._running)
        return self._running

    def _submit(self, steps: int, running: Future[None]) -> None:
        totals = self._totals
        try:
            job = self._access.submit(lambda connection: self._step(connection, totals))
        except StoreError:  # the program is about to end
            running.set_result(None)
            return
        job.add_done_callback(lambda done: self._stepped(done, steps - 1, running))

    def _stepped(self, done: Future[tuple[_Totals, bool]], steps: int, running: Future[None]) -> None:
        more = False
        if (error := done.exception()) is None:
            self._totals, more = done.result()
            self._hint()
        else:
            self._totals = _Totals()
            _log.info("The log of events was not trimmed: %s", error)
        if more and steps:
            self._submit(steps, running)
        else:
            running.set_result(None)

    def _hint(self) -> None:
        if self._retention == Retention() and self._totals.size >= _LARGE and not self._told:
            self._told = True
            _log.warning(
                "The log of events holds %d events, %d MB, and nothing limits it. LLMGINE_EVENT_LOG_MAX_DAYS, "
                "LLMGINE_EVENT_LOG_MAX_EVENTS or LLMGINE_EVENT_LOG_MAX_MB would.",
                self._totals.count,
                self._totals.size // _MEGABYTE,
            )

    def _step(self, connection: Connection, totals: _Totals) -> tuple[_Totals, bool]:
        """Delete some rows, in a transaction. Return what is left, and whether more is to go."""
        table = self._table
        if connection.dialect.name == "postgresql":  # in SQLite whoever writes is alone anyway
            key = crc32(f"llmgine retention {table.schema}".encode())
            connection.execute(select(func.pg_advisory_xact_lock(key)))
        first = self._first(connection)
        if first != totals.first:
            totals = _Totals(first)
        totals = self._count(connection, totals)
        query = select(table.c.position, table.c.size, table.c.published_at).order_by(table.c.position).limit(_ROWS)
        is_excess = self._excess()
        until, excess, left = 0, 0, totals
        for row in connection.execute(query) if self._retention != Retention() else ():
            if not is_excess(left, row.published_at):
                break
            until, excess = row.position, excess + 1
            left = replace(left, count=left.count - 1, size=left.size - row.size)
        if not excess:
            return totals, False
        connection.execute(delete(table).where(table.c.position <= until))
        return replace(left, first=self._first(connection)), excess == _ROWS

    def _first(self, connection: Connection) -> int | None:
        first: int | None = connection.scalar(select(func.min(self._table.c.position)))
        return first

    def _count(self, connection: Connection, totals: _Totals) -> _Totals:
        """Add what has come since."""
        table = self._table
        sums = select(func.count(), func.coalesce(func.sum(table.c.size), 0), func.max(table.c.position))
        count, size, last = connection.execute(sums.where(table.c.position > totals.last)).one()
        return _Totals(totals.first, last or totals.last, totals.count + count, totals.size + int(size))

    def _excess(self) -> Callable[[_Totals, int], bool]:
        """Return what tells whether the oldest row is to go, from what there is and the row's date."""
        age, events, size = self._retention.max_age, self._retention.max_events, self._retention.max_bytes
        oldest = None if age is None else _before(self._access.clock(), age)

        def is_excess(left: _Totals, published: int) -> bool:
            return (
                (oldest is not None and published < oldest)
                or (events is not None and left.count > events)
                or (size is not None and left.size > size)
            )

        return is_excess


def _before(now: datetime, seconds: float) -> int:
    """Return the date so long ago as it is stored; one before all others, if there is none so long ago."""
    try:
        return microseconds(now - timedelta(seconds=seconds))
    except OverflowError:
        return -(2**62)
