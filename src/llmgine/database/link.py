"""One connection, and transactions on it. It is opened when it is needed, and anew when it was lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError, SQLAlchemyError

from llmgine.database.engine import file_of, open_engine, transaction
from llmgine.errors import LLMgineError

__all__ = ["WRONGLY_ASKED", "Link", "UnreachableError"]

T = TypeVar("T")

WRONGLY_ASKED = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""What is the fault of whoever asks; any other error of a driver is the database's."""
_LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's name for having waited too long for somebody else."""


class UnreachableError(Exception):
    """There was no transaction to be had: whatever else is asked now would fare the same."""

    def __init__(self, error: BaseException, *, in_doubt: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.in_doubt = in_doubt
        """Whether the connection was lost during the commit, so that nobody knows whether it took place."""


class Link:
    """The connection. Used by one thread at a time.

    A file that somebody has taken away, or put another one in its place, is noticed: SQLite would go on to write into
    what nobody will ever read.
    """

    def __init__(self, url: str, prepare: Callable[[Connection], None]) -> None:
        """Take the database URL, and what is called with every new connection, outside of a transaction."""
        self._url = url
        self._prepare = prepare
        self._engine: Engine | None = None
        self._file: Path | None = None
        self._connection: Connection | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def in_memory(self) -> bool:
        """Whether everything is lost with the connection."""
        return self._engine is not None and self._engine.dialect.name == "sqlite" and self._file is None

    def transact(self, work: Callable[[Connection], T], *, reads: bool) -> T:
        """Do work in a transaction. It may be called twice.

        Raises:
            UnreachableError: there was no transaction to be had.
            SQLAlchemyError: what the work asked for was not possible.
        """
        is_new = self._renew()
        began = done = False
        try:
            with transaction(self._connected, reads=reads):
                began = True
                result = work(self._connected)
                done = True
        except DBAPIError as error:
            lost = error.connection_invalidated
            if not isinstance(error, WRONGLY_ASKED):
                self.close()
            if lost and not done and not is_new:  # such as a server that was started anew while nobody asked
                return self.transact(work, reads=reads)
            if lost or not began or getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                raise UnreachableError(error, in_doubt=lost and done) from error
            raise
        return result

    def close(self) -> None:
        """Close the connection. The next transaction opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):  # it is of no use any more
                connection.close()

    def abandon(self) -> object:
        """Forget the connection without closing it, in a process that has inherited it. Return it."""
        connection, self._connection = self._connection, None
        return connection

    @property
    def _connected(self) -> Connection:
        assert self._connection is not None  # noqa: S101  # `_renew` comes first
        return self._connection

    def _renew(self) -> bool:
        """See to it that there is a connection. Return whether it is a new one."""
        if self._connection is not None and self._inode == _inode(self._file):
            return False
        self.close()
        try:
            if self._engine is None:
                self._engine = open_engine(self._url)
                self._file = file_of(self._engine.url)
            connection = self._engine.connect()
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except (SQLAlchemyError, OSError, LLMgineError) as error:
            raise UnreachableError(error) from error
        self._connection, self._inode = connection, _inode(self._file)
        return True


def _inode(file: Path | None) -> tuple[int, int] | None:
    """Return what tells a file from another that takes its place; None if it is not there."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino)
