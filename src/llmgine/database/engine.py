"""Opening the database. SQLAlchemy is imported here, and so only once a database is needed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from llmgine.errors import ConfigurationError

__all__ = ["open_engine"]

_BUSY_TIMEOUT_S = 30


def open_engine(url: str) -> Engine:
    """Return an engine for a database URL, such as `sqlite:////home/me/chat.db`.

    SQLite databases use a write-ahead log, synced to disk at each commit, and wait up to 30 s for another writer.

    Raises:
        ConfigurationError: the URL is not one, or its driver is missing.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed)
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S})
    except (ArgumentError, ImportError) as error:
        msg = f"{url!r} is not a usable database URL: {error}. Expected something like sqlite:///./message_bus.db"
        raise ConfigurationError(msg) from error
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
