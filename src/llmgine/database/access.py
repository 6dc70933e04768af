"""A database whose tables are as this version wants them: what every store is made of."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar, overload

from sqlalchemy import Connection

from llmgine.bus.clocks import utc_now
from llmgine.database.migrations import migrate
from llmgine.database.tables import Tables
from llmgine.database.worker import Insert, Work, Worker
from llmgine.errors import ConfigurationError, StoreError

__all__ = ["Access"]

T = TypeVar("T")


class Access:
    """The tables, and the thread that works on them. Made and migrated when first used."""

    def __init__(self, url: str, schema: str, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Take the database URL and the name of the schema; nothing is opened yet.

        Raises:
            ConfigurationError: the schema is no such name.
        """
        self.url = url
        self.clock = clock
        self.tables = Tables(schema, "sqlite" if url.startswith("sqlite") else "postgresql")
        self.worker = Worker(url, self._prepare)

    @property
    def owner(self) -> str:
        """Who we are, for whoever looks into the tables."""
        return f"{socket.gethostname()}:{os.getpid()}"

    @overload
    def submit(self, work: Insert) -> Future[None]: ...
    @overload
    def submit(self, work: Work[T], *, reads: bool = ...) -> Future[T]: ...
    def submit(self, work: Any, *, reads: bool = False) -> Future[Any]:
        """Have work done, as `Worker.submit` says."""
        return self.worker.submit(work, reads=reads)

    @overload
    async def run(self, work: Insert) -> None: ...
    @overload
    async def run(self, work: Work[T], *, reads: bool = ...) -> T: ...
    async def run(self, work: Any, *, reads: bool = False) -> Any:
        """Have work done and wait for it, as `Worker.run` says.

        Raises:
            StoreError: the database cannot be used.
        """
        try:
            return await self.worker.run(work, reads=reads)
        except ConfigurationError as error:
            raise StoreError(str(error)) from error

    def _prepare(self, connection: Connection) -> None:
        if connection.dialect.name not in {"sqlite", "postgresql"}:
            msg = f"Messages are kept in SQLite or PostgreSQL, not in {connection.dialect.name}."
            raise StoreError(msg)
        migrate(connection, self.tables)
