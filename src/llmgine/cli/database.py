"""The database that a command line is about: the one it names, or the one that the environment does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from llmgine.cli.log_text import one_line
from llmgine.database.engine import masked, open_existing, reason, transaction
from llmgine.database.settings import DatabaseSettings
from llmgine.database.stores import Database
from llmgine.database.tables import Tables
from llmgine.errors import ConfigurationError, LLMgineError, StoreError

__all__ = ["check_there", "in_database", "match_ids", "use_database"]

T = TypeVar("T")

_CANDIDATES = 10


def use_database(url: str | None, schema: str | None) -> None:
    """Have this process, and an application that it imports, use a database as if the environment named it.

    Args:
        url: as the command line has it.
        schema: likewise.
    """
    for name, value in (("LLMGINE_DB_URL", url), ("LLMGINE_DB_SCHEMA", schema)):
        if value is not None:
            os.environ[name] = value


def in_database(work: Callable[[Database], Awaitable[T]]) -> T:
    """Do work with the database, and return what it returns.

    Raises:
        ConfigurationError: there is no such database, or none of our tables in it. Nothing has been made.
        StoreError: it cannot be reached.
    """
    check_there()
    return asyncio.run(_work(work))


async def _work(work: Callable[[Database], Awaitable[T]]) -> T:
    database = Database()
    try:
        return await work(database)
    finally:
        await database.aclose()


def match_ids(asked: Sequence[str], known: Iterable[str], what: str) -> list[str]:
    """Return the ids that are meant: in full, or as much of one as no other begins with.

    Args:
        asked: each once or more often.
        known: those there are.
        what: an id stands for, for error messages.

    Raises:
        LLMgineError: an id stands for none, or for several.
    """
    ids = list(known)
    found: dict[str, None] = {}
    for start in asked:
        matching = [start] if start in ids else [each for each in ids if each.startswith(start)]
        if not matching:
            msg = f"there is no {what} whose id begins with {start!r}"
            raise LLMgineError(msg)
        if len(matching) > 1:
            shown = ", ".join(matching[:_CANDIDATES]) + (", …" if matching[_CANDIDATES:] else "")
            msg = f"{len(matching)} ids begin with {start!r}; give more of the one that is meant: {one_line(shown)}"
            raise LLMgineError(msg)
        found[matching[0]] = None
    return list(found)


def check_there() -> None:
    """See that the database that the environment names is there, without making anything.

    Raises:
        ConfigurationError: there is no such database, or none of our tables in it.
        StoreError: it cannot be reached.
    """
    settings = DatabaseSettings.from_environment()
    engine = open_existing(settings.url)
    shown = masked(settings.url)
    if engine is None:
        msg = f"There is no database {shown}. Name the application's with --db or LLMGINE_DB_URL, or go to its folder."
        raise ConfigurationError(msg)
    tables = Tables(settings.schema, engine.dialect.name)
    table = tables.schema_version
    try:
        with engine.connect() as connection, transaction(connection, reads=True):
            is_ours = inspect(connection).has_table(table.name, schema=tables.schema)
    except (SQLAlchemyError, OSError) as error:
        msg = f"The database {shown} cannot be reached: {reason(error, settings.url)}"
        raise StoreError(msg) from error
    if not is_ours:
        msg = (
            f"Nothing has been kept in the database {shown} under the schema {settings.schema!r} so far. If that is "
            "not where the application keeps things, name its database with --db and its schema with --schema."
        )
        raise ConfigurationError(msg)
