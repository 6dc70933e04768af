"""Opening a database: SQLite, or PostgreSQL by way of psycopg 3. SQLAlchemy is imported with this package only."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from llmgine.errors import ConfigurationError, MissingExtraError

__all__ = ["file_of", "masked", "open_engine", "open_existing", "reason", "transaction"]

_BUSY_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 5
# A server that has vanished without a word is noticed after some 20 s, whether we wait for its answer or write to it.
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 20_000}
# Rather too much than too little: also of what is no URL.
_PASSWORD = re.compile(r"((?:^|://)[^:/@]*:)(?!//).*(?=@)|(?<=password=)[^&]*")


def open_engine(url: str) -> Engine:
    """Return an engine for a database URL, such as `sqlite:////home/me/chat.db` or `postgresql://me@host/chat`.

    SQLite databases use a write-ahead log, synced to disk at each commit, and wait up to 30 s for another writer
    (`?timeout=5` in the URL: 5 s). Their paths are taken from where the program is now, also if it goes elsewhere.
    Connections are closed when they are given back. Work is done in a `transaction`.

    Raises:
        ConfigurationError: the URL is not one.
        MissingExtraError: the driver is missing.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        engine = _create(parsed, {})
        if engine.dialect.driver == "psycopg":
            event.listen(engine, "connect", _prepare_postgres)
        return engine
    if path := file_of(parsed):
        parsed = parsed.set(database=str(path))
    engine = _create(parsed, {})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def open_existing(url: str) -> Engine | None:
    """Return an engine that makes no file and changes no setting of one; None if there is no such file."""
    parsed = _parse(url)
    path = file_of(parsed)
    if path is None:
        return open_engine(url)
    if not path.exists():
        return None
    # mode=rw, not ro: whoever is the last to read a database with a write-ahead log has to tidy up.
    uri = parsed.set(database=f"file:{quote(str(path))}").update_query_dict({"mode": "rw", "uri": "true"})
    return _create(uri, {"isolation_level": None})


def file_of(url: URL) -> Path | None:
    """Return the absolute path of an SQLite database; None for one in memory or on a server."""
    name = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name).absolute()


@contextmanager
def transaction(connection: Connection, *, reads: bool = False) -> Generator[None]:
    """Commit what is done inside, or roll it back if that raises. In SQLite only those that read run side by side."""
    with connection.begin():
        if connection.dialect.name == "sqlite":
            # Ours, because the driver's own begins too late: a reader that turns writer may find that it cannot.
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
        yield


def masked(url: str) -> str:
    """Return a URL without its password."""
    return _PASSWORD.sub(lambda found: f"{found[1] or ''}***", url)


def reason(error: BaseException, url: str) -> str:
    """Return what a driver said, without SQLAlchemy's frame around it, and without the password."""
    text = str(getattr(error, "orig", None) or error).strip()
    try:
        password = make_url(url).password
    except SQLAlchemyError:
        password = None
    return text.replace(str(password), "***") if password else text


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername in {"postgres", "postgresql"}:
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise _unusable(url, error) from error
    return parsed


def _create(url: URL, arguments: dict[str, Any]) -> Engine:
    """Make an engine. What the URL says goes before our defaults."""
    if url.get_backend_name() == "sqlite":
        defaults: dict[str, Any] = {"timeout": _BUSY_TIMEOUT_S}
    elif url.drivername == "postgresql+psycopg":
        defaults = {"connect_timeout": _CONNECT_TIMEOUT_S, **_KEEPALIVE}
    else:
        defaults = {}
    arguments |= {name: value for name, value in defaults.items() if name not in url.query}
    try:
        return create_engine(url, connect_args=arguments, poolclass=NullPool)
    except ImportError as error:
        if url.drivername == "postgresql+psycopg":
            raise MissingExtraError("postgres", "PostgreSQL") from error
        raise _unusable(str(url), error) from error
    except SQLAlchemyError as error:
        raise _unusable(str(url), error) from error


def _unusable(url: str, error: Exception) -> ConfigurationError:
    why = reason(error, url).replace(url, masked(url))
    msg = f"{masked(url)!r} is not a usable database URL: {why}. Expected something like sqlite:///./message_bus.db"
    return ConfigurationError(msg)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # `transaction` begins
    cursor = connection.cursor()
    gives_up = monotonic() + _BUSY_TIMEOUT_S
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except connection.OperationalError as error:
            # Where several open a new file at once, this alone does not wait for the others.
            if "locked" not in str(error) or monotonic() > gives_up:
                raise
            sleep(0.01)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _prepare_postgres(connection: Any, _: Any) -> None:
    connection.execute(f"SET lock_timeout = '{_BUSY_TIMEOUT_S}s'")
    connection.commit()
