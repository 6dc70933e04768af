"""Conversations in a database."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, Integer, MetaData, String, Table, delete, insert, select

from llmgine.database.engine import transaction
from llmgine.database.worker import Insert, Worker

__all__ = ["DatabaseHistoryStore"]

_metadata = MetaData()
_messages = Table(
    "chat_messages",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation", String, nullable=False, index=True),
    Column("created_at", String, nullable=False),
    Column("message", JSON, nullable=False),
)
_append = insert(_messages)


class DatabaseHistoryStore:
    """Keeps conversations in one table, a row a message. The database is made on first use; a thread does the work."""

    def __init__(self, url: str) -> None:
        """Take the database URL; nothing is opened yet."""
        self._worker = Worker(url, _prepare, level=logging.DEBUG)  # whoever asks is told by the error

    async def load(self, conversation: str) -> list[dict[str, Any]]:
        """Return a conversation's messages in order; none if there is no such conversation."""
        query = select(_messages.c.message).where(_messages.c.conversation == conversation).order_by(_messages.c.id)
        return await self._worker.run(lambda connection: list(connection.scalars(query)), reads=True)

    async def append(self, conversation: str, messages: Sequence[dict[str, Any]]) -> None:
        """Add messages to the end of a conversation, all or none; also if the caller is cancelled."""
        now = datetime.now(UTC).isoformat()
        await self._worker.run(
            Insert(_append, [{"conversation": conversation, "created_at": now, "message": each} for each in messages])
        )

    async def clear(self, conversation: str) -> None:
        """Forget a conversation."""
        statement = delete(_messages).where(_messages.c.conversation == conversation)
        await self._worker.run(lambda connection: connection.execute(statement))

    async def aclose(self) -> None:
        """Do what is under way, and close the connection."""
        await self._worker.aclose()


def _prepare(connection: Connection) -> None:
    with transaction(connection):
        _metadata.create_all(connection)
