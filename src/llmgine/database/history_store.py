"""Conversations in a database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import JSON, Column, Connection, Engine, Integer, MetaData, String, Table, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from llmgine.database.engine import open_engine
from llmgine.errors import StoreError

__all__ = ["DatabaseHistoryStore"]

T = TypeVar("T")

_metadata = MetaData()
_messages = Table(
    "chat_messages",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation", String, nullable=False, index=True),
    Column("created_at", String, nullable=False),
    Column("message", JSON, nullable=False),
)


class DatabaseHistoryStore:
    """Keeps conversations in one table, a row a message. The database is made on first use; work runs in threads."""

    def __init__(self, url: str) -> None:
        """Take the database URL; nothing is opened yet."""
        self._url = url
        self._engine: Engine | None = None
        self._opening = Lock()

    async def load(self, conversation: str) -> list[dict[str, Any]]:
        """Return a conversation's messages in order; none if there is no such conversation."""
        query = select(_messages.c.message).where(_messages.c.conversation == conversation).order_by(_messages.c.id)
        return await self._run(lambda connection: list(connection.scalars(query)))

    async def append(self, conversation: str, messages: Sequence[dict[str, Any]]) -> None:
        """Add messages to the end of a conversation, all or none. Being cancelled, it finishes first."""
        now = datetime.now(UTC).isoformat()
        rows = [{"conversation": conversation, "created_at": now, "message": message} for message in messages]
        await self._run(lambda connection: connection.execute(insert(_messages), rows))

    async def clear(self, conversation: str) -> None:
        """Forget a conversation."""
        statement = delete(_messages).where(_messages.c.conversation == conversation)
        await self._run(lambda connection: connection.execute(statement))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.dispose)

    async def _run(self, work: Callable[[Connection], T]) -> T:
        task = asyncio.ensure_future(asyncio.to_thread(self._transact, work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,))
            raise

    def _transact(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._opening:
                if self._engine is None:
                    engine = open_engine(self._url)
                    _metadata.create_all(engine)
                    self._engine = engine
            with self._engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            msg = f"The conversations in {self._url} cannot be reached: {getattr(error, 'orig', None) or error}"
            raise StoreError(msg) from error
