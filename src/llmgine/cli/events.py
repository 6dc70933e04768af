"""`llmgine events`: the log of events in a database, shown as `llmgine logs` shows one in files, and made shorter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, select

from llmgine.cli.database import in_database
from llmgine.cli.failure import ExitCode
from llmgine.cli.listing import counted, print_json
from llmgine.cli.log_text import Summaries
from llmgine.cli.logs import view_of
from llmgine.cli.question import confirmed
from llmgine.cli.stderr import notice, say, warn
from llmgine.cli.stored_text import as_logged, data_of
from llmgine.database.event_records import EventRecord
from llmgine.database.retention import Retention, Trimmer
from llmgine.database.settings import DatabaseSettings
from llmgine.database.stores import Database
from llmgine.database.tables import microseconds
from llmgine.errors import ConfigurationError
from llmgine.messages import SessionID
from llmgine.observability.log_filter import LogFilter, parse_time
from llmgine.observability.log_reader import LogLine

__all__ = ["EventsOptions", "class_names", "run_events", "run_events_prune"]

_BATCH = 200
_WHOLE = 32
"""The length of the bus's own ids."""


@dataclass(frozen=True, kw_only=True)
class EventsOptions:
    """What the command line asks for; times are texts."""

    session: str | None = None
    types: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    correlation_id: str | None = None
    last: int | None = None
    json: bool = False


def run_events(options: EventsOptions) -> int:
    """Print the wanted events of the log in the database; return the exit code.

    Raises:
        ConfigurationError: there is no such database, or the options make no sense.
        StoreError: it cannot be reached.
    """
    now = datetime.now().astimezone()
    wanted = LogFilter(
        session=options.session,
        types=options.types,
        correlation_id=options.correlation_id,
        since=None if options.since is None else parse_time(options.since, now),
        until=None if options.until is None else parse_time(options.until, now),
    )
    shown = in_database(lambda database: _show(database, wanted, options))
    if not shown:
        _explain(wanted)
    return ExitCode.OK


async def _show(database: Database, wanted: LogFilter, options: EventsOptions) -> int:
    """Write events. Return how many there were."""
    view = view_of(Summaries(), as_json=options.json)
    if options.last is not None:
        lines: list[LogLine] = []
        if options.last:
            async for line in _lines(database, wanted, newest_first=True):
                lines.append(line)
                if len(lines) == options.last:
                    break
        view.show(reversed(lines))
        return len(lines)
    count = 0
    batch: list[LogLine] = []
    async for line in _lines(database, wanted, newest_first=False):
        batch.append(line)
        if len(batch) == _BATCH:
            view.show(batch)
            count, batch = count + len(batch), []
    if batch:
        view.show(batch)
    return count + len(batch)


async def _lines(database: Database, wanted: LogFilter, *, newest_first: bool) -> AsyncIterator[LogLine]:
    """Give events as they would stand in a log's files. What the database can tell, it is asked."""
    correlation = wanted.correlation_id
    records = database.event_records.records(
        None if wanted.session is None else SessionID(wanted.session),
        since=wanted.since,
        until=wanted.until,
        types=class_names(wanted.types),
        correlation_id=correlation if correlation and len(correlation) == _WHOLE else None,
        newest_first=newest_first,
    )
    rest = LogFilter(types=wanted.types, correlation_id=correlation)
    async for record in records:
        data = _as_logged(record)
        if rest.matches(data):
            yield LogLine(orjson.dumps(data), data)


def class_names(types: Sequence[str]) -> list[str]:
    """Return the names of the classes that are meant; none if there are patterns among them."""
    if all(name.isidentifier() and name[0].isupper() for name in types):
        return [full for name in types for full in (name, f"{name}Event")]
    return []


def _as_logged(record: EventRecord) -> dict[str, Any]:
    stored = data_of(record.payload)
    base = stored.get("$base")
    own = as_logged(stored)
    return {
        "event_type": record.event_type,
        "event_id": record.event_id,
        "timestamp": record.event_time,
        "session_id": record.session_id,
        "correlation_id": record.correlation_id,
        "causation_id": record.causation_id,
        **(as_logged(base) if isinstance(base, dict) else {}),
        **(own if isinstance(own, dict) else {}),
    }


def _explain(wanted: LogFilter) -> None:
    """Say why there is nothing to see."""
    if in_database(_count):
        notice("no event matches" if wanted != LogFilter() else "there are no events")
    elif DatabaseSettings.from_environment().persist_events:
        say("the log of events is empty")
    else:
        say("the log of events is empty; an application writes it if LLMGINE_PERSIST_EVENTS=1 is in its environment")


# Prune


def run_events_prune(*, older_than: str | None, keep: int | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Delete the oldest events of the log; return the exit code.

    Args:
        older_than: such as "30d", or a date: what was published before.
        keep: how many of the latest are kept.
        dry_run: only say how many would go.
        yes: do not ask.
        as_json: print one JSON object.

    Raises:
        ConfigurationError: there is no such database, or nobody can be asked, or it is not said which events.
        StoreError: it cannot be reached.
    """
    if (older_than is None) == (keep is None):
        msg = "Say which events are to go, in one of these ways: --older-than 30d, or --keep NUMBER."
        raise ConfigurationError(msg)
    now = datetime.now().astimezone()
    before = None if older_than is None else parse_time(older_than, now)
    if before is not None and (now - before).total_seconds() < 1:
        msg = f"--older-than {older_than} is not over yet; expected a time in the past, such as 30d or 2026-05-04."
        raise ConfigurationError(msg)
    total, excess = in_database(lambda database: _excess(database, before, keep))
    what = f"{counted(excess, 'event')} of {total:,}"
    if not dry_run and excess:
        if not confirmed(f"Delete {what} for good?", yes=yes):
            say("nothing was deleted")
            return ExitCode.FAILURE
        left, rest = in_database(lambda database: _trim(database, before, keep))
        if rest:
            warn(f"{counted(rest, 'event')} could not be deleted; LLMGINE_DEBUG=1 shows why")
            return ExitCode.FAILURE
        excess = total - left
    if as_json:
        print_json({"would_delete" if dry_run else "deleted": excess, "of": total})
    else:
        print(f"{counted(excess, 'event')} of {total:,} {'would be ' if dry_run else ''}deleted")  # noqa: T201
    return ExitCode.OK


async def _excess(database: Database, before: datetime | None, keep: int | None) -> tuple[int, int]:
    """Return how many events there are, and how many of them are to go."""
    total = await _count(database)
    if keep is not None:
        return total, max(0, total - keep)
    return total, await _count(database, before)


async def _trim(database: Database, before: datetime | None, keep: int | None) -> tuple[int, int]:
    """Delete events. Return how many are left, and how many of them should have gone."""
    age = None if before is None else (database.access.clock() - before).total_seconds()
    trimmer = Trimmer(database.access, Retention(max_age=age, max_events=keep))
    left = await _count(database)
    while True:
        await asyncio.wrap_future(trimmer.run())  # which leaves something where there is much
        previous, left = left, await _count(database)
        if left == previous:
            return await _excess(database, before, keep)


async def _count(database: Database, before: datetime | None = None) -> int:
    """Return how many events there are, or how many that were published before a date."""
    table = database.access.tables.event_log
    query = select(func.count()).select_from(table)
    if before is not None:
        query = query.where(table.c.published_at < microseconds(before))
    return await database.access.run(lambda connection: connection.scalar(query) or 0, reads=True)
