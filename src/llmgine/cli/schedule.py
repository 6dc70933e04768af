"""`llmgine schedule`: the events in a database that wait for their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.text import Text
from sqlalchemy import Connection, Row, select

from llmgine.cli.database import in_database, match_ids
from llmgine.cli.failure import ExitCode
from llmgine.cli.listing import Column, counted, iso, local, print_json, print_list, shortest_ids, until
from llmgine.cli.log_text import fields_of, one_line
from llmgine.cli.stderr import notice, warn
from llmgine.cli.stored_text import as_logged, data_of
from llmgine.database.stores import Database
from llmgine.database.tables import moment

__all__ = ["run_schedule_cancel", "run_schedule_list"]


@dataclass(frozen=True)
class _Scheduled:
    """A row of the schedule, whether or not the class of its event is there."""

    id: str
    event_type: str
    session_id: str
    data: dict[str, Any]
    due: datetime | None
    """None if what is stored is no date."""
    recurrence: str | None
    error: str | None
    """Why it cannot be read, as the application that has tried says."""

    @classmethod
    def of(cls, row: Row[Any]) -> _Scheduled:
        """Return a row as it is stored."""
        try:
            due = moment(row.due_at)
        except (OverflowError, TypeError):
            due = None
        data = data_of(row.payload)
        error = row.error or (None if data and due else "what is stored makes no sense")
        return cls(row.id, row.event_type, row.session_id, data, due, row.recurrence, error)

    def as_data(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "id": self.id,
            "event_type": self.event_type,
            "session_id": self.session_id,
            "due": self.due and iso(self.due),
            "recurrence": self.recurrence,
            "error": self.error,
            "event": self.data,
        }

    @property
    def said(self) -> Text:
        """What it says, or what is wrong with it."""
        if self.error is not None:
            return Text(one_line(self.error), "red")
        return Text(one_line(fields_of(as_logged(self.data))))


def run_schedule_list(*, session: str | None, limit: int | None, as_json: bool) -> int:
    """List the scheduled events, those first that are due first; return the exit code.

    Raises:
        ConfigurationError: there is no such database.
        StoreError: it cannot be reached.
    """
    scheduled = _read()
    wanted = [each for each in scheduled if session in {None, each.session_id}][:limit]
    if not wanted:
        notice("no scheduled event matches" if scheduled else "nothing is scheduled")
    _print(wanted, as_json=as_json)
    return ExitCode.OK


def run_schedule_cancel(ids: Sequence[str], *, dry_run: bool, as_json: bool) -> int:
    """Forget scheduled events; return the exit code.

    Args:
        ids: in full, or how they begin.
        dry_run: only list them.
        as_json: print JSON.

    Raises:
        ConfigurationError: there is no such database.
        LLMgineError: an id stands for no event, or for several.
    """
    scheduled = {each.id: each for each in _read()}
    chosen = match_ids(ids, scheduled, "scheduled event")
    if dry_run:
        _print([scheduled[identity] for identity in chosen], as_json=as_json)
        notice(f"{counted(len(chosen), 'scheduled event')} would be cancelled")
        return ExitCode.OK
    count = in_database(lambda database: database.schedule.cancel(chosen))
    if as_json:
        print_json({"cancelled": count})
    else:
        print(f"{counted(count, 'scheduled event')} cancelled")  # noqa: T201
    if count == len(chosen):
        return ExitCode.OK
    warn(f"{counted(len(chosen) - count, 'scheduled event')} not cancelled: delivered meanwhile, or just now")
    return ExitCode.FAILURE


def _read() -> list[_Scheduled]:
    return in_database(lambda database: database.access.run(partial(_rows, database), reads=True))


def _rows(database: Database, connection: Connection) -> list[_Scheduled]:
    table = database.access.tables.scheduled_events
    rows = connection.execute(select(table).order_by(table.c.due_at, table.c.created_at))
    return [_Scheduled.of(row) for row in rows]


def _print(scheduled: Sequence[_Scheduled], *, as_json: bool) -> None:
    now = datetime.now(UTC)
    short = shortest_ids(each.id for each in scheduled)
    repeats = any(each.recurrence for each in scheduled)
    columns = [
        Column[_Scheduled](
            title="DUE",
            plain=lambda each: each.due and iso(each.due),
            shown=lambda each: Text.assemble(local(each.due), (f" {until(each.due, now)}", "dim")) if each.due else "",
        ),
        Column[_Scheduled](
            title="EVENT",
            plain=lambda each: each.event_type,
            shown=lambda each: one_line(each.event_type).removesuffix("Event") or "Event",
            style="bold",
        ),
        Column[_Scheduled](title="SESSION", plain=lambda each: each.session_id, style="cyan"),
        Column[_Scheduled](
            title="REPEATS" if repeats else "",
            plain=lambda each: each.recurrence,
            shown=lambda each: (each.recurrence or "").partition(" from ")[0],
        ),
        Column[_Scheduled](title="ID", plain=lambda each: each.id, shown=lambda each: short(each.id), style="dim"),
        Column[_Scheduled](title="WHAT", plain=lambda each: each.said, shown=lambda each: each.said, gives_way=True),
    ]
    print_list(scheduled, columns, _Scheduled.as_data, as_json=as_json)
