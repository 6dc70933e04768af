"""Work on a database that is the user's: an engine of either kind of SQLAlchemy, or a URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from llmgine.database.engine import masked, open_engine, reason
from llmgine.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["UserEngine"]

T = TypeVar("T")


class UserEngine:
    """Does work in transactions: in a thread, or on the event loop where the engine is made for that."""

    def __init__(self, engine: Engine | AsyncEngine | str) -> None:
        """Take an engine, which stays the user's, or a URL.

        Raises:
            ConfigurationError: it is neither, or the URL is not usable.
        """
        self._owned = isinstance(engine, str)
        opened = _open(engine) if isinstance(engine, str) else engine
        if not isinstance(opened, Engine) and not hasattr(opened, "sync_engine"):
            msg = f"An outbox takes an Engine or AsyncEngine of SQLAlchemy, or a URL; got {engine!r}."
            raise ConfigurationError(msg)
        self.url = opened.url.render_as_string(hide_password=False)
        self._engine = opened
        # Each statement is to see what others have committed, whatever the user's transactions see.
        if opened.dialect.name == "postgresql":
            self._engine = opened.execution_options(isolation_level="READ COMMITTED")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do work in a transaction.

        Raises:
            StoreError: the database cannot be used.
        """
        try:
            if isinstance(self._engine, Engine):
                return await asyncio.to_thread(self._transact, self._engine, work)
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        except (SQLAlchemyError, OSError) as error:
            msg = f"The database {masked(self.url)} cannot be used: {reason(error, self.url)}"
            raise StoreError(msg) from error

    async def aclose(self) -> None:
        """Close the connections, if the engine is ours."""
        if self._owned and isinstance(self._engine, Engine):
            self._engine.dispose()
        elif self._owned and not isinstance(self._engine, Engine):
            await self._engine.dispose()

    @staticmethod
    def _transact(engine: Engine, work: Callable[[Connection], T]) -> T:
        with engine.begin() as connection:
            return work(connection)


def _open(url: str) -> Engine | AsyncEngine:
    try:
        is_async = make_url(url).get_dialect().is_async
    except (SQLAlchemyError, ImportError, ValueError):
        is_async = False  # what is wrong is said below
    if is_async:
        from sqlalchemy.ext.asyncio import create_async_engine

        return create_async_engine(url)
    engine = open_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
