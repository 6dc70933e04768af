"""Functions for programs without an event loop. They wait for the database, and never raise: what fails is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from typing import TypeVar

from sqlalchemy import insert

from llmgine.bus.clocks import utc_now
from llmgine.bus.stores import Held
from llmgine.database.engine import open_existing, transaction
from llmgine.database.log_row import log_row
from llmgine.database.migrations import version_of
from llmgine.database.settings import DatabaseSettings
from llmgine.database.stores import Database
from llmgine.database.worker import Insert
from llmgine.errors import LLMgineError
from llmgine.messages import Event
from llmgine.messages.scheduled_events import ScheduledEvent, due

__all__ = ["drop_all", "get_and_delete_unfinished_events", "persist_event", "reset_engine", "save_unfinished_events"]

T = TypeVar("T")

_log = logging.getLogger("llmgine.database")
_lock = Lock()
_current: tuple[DatabaseSettings, Database] | None = None
"""The database that was used last, and what the environment said then."""


def save_unfinished_events(events: Iterable[Event]) -> None:
    """Keep events until `get_and_delete_unfinished_events`, or a bus, fetches them."""

    def save() -> None:
        database = _database()
        jobs = [_or_else(partial(_addition, database, event), None) for event in events]  # one that cannot be stored
        for future in [database.access.submit(job) for job in jobs if job is not None]:  # does not hold up the others
            future.result()

    _or_else(save, None)


def get_and_delete_unfinished_events() -> list[Event]:
    """Return the events that wait for their time, by that time, and forget them.

    Those that come again and again, that are being delivered, or that cannot be decoded are left where they are.
    """
    return _or_else(_take_all, [])


def persist_event(event: Event) -> None:
    """Write an event to the log, if `LLMGINE_PERSIST_EVENTS` is 1."""
    if DatabaseSettings.from_environment().persist_events:
        _or_else(lambda: _persist(event), None)


def reset_engine() -> None:
    """Close the database that these functions have opened."""
    global _current  # there is one environment
    with _lock:
        current, _current = _current, None
    if current is not None:
        current[1].close()


def drop_all() -> None:
    """Drop the tables, and with them everything that is kept. Tables that are not ours are left alone."""
    reset_engine()
    _or_else(_drop, None)


def _database() -> Database:
    """Return the database that the environment names now."""
    global _current  # noqa: PLW0603  # there is one environment
    settings = DatabaseSettings.from_environment()
    with _lock:
        before = _current
        if before is not None and before[0] == settings:
            return before[1]
        database = Database(settings.url, settings.schema)
        _current = settings, database
    if before is not None:
        before[1].close()
    return database


def _addition(database: Database, event: Event) -> Insert | None:
    when = due(event) if isinstance(event, ScheduledEvent) else utc_now()
    return database.schedule.addition([Held.of(event, when)])


def _take_all() -> list[Event]:
    return _database().schedule.take_all()


def _persist(event: Event) -> None:
    access = _database().access
    row = log_row(event, utc_now())
    access.submit(lambda connection: connection.execute(insert(access.tables.event_log), row)).result()


def _drop() -> None:
    settings = DatabaseSettings.from_environment()
    tables = Database(settings.url, settings.schema).access.tables
    engine = open_existing(settings.url)
    if engine is not None:
        with engine.connect() as connection, transaction(connection):
            if version_of(connection, tables):
                tables.metadata.drop_all(connection)


def _or_else(function: Callable[[], T], otherwise: T) -> T:
    try:
        return function()
    except LLMgineError as error:
        _log.warning("%s", error)
    except Exception:  # noqa: BLE001  # the boundary: whatever is wrong with an event or a database is no reason to stop
        _log.exception("The database was not used as intended")
    return otherwise
