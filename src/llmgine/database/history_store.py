"""Conversations in a database."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    text,
    update,
)

from llmgine.database.engine import transaction
from llmgine.database.worker import Insert, Worker
from llmgine.errors import ResourceConflictError, ResourceNotFoundError

__all__ = ["Conversation", "DatabaseHistoryStore"]

_metadata = MetaData()
_messages = Table(
    "chat_messages",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation", String, nullable=False, index=True),
    Column("created_at", String, nullable=False),
    Column("message", JSON, nullable=False),
)
# A fork has the messages of its source up to one of them, which is the source's own, and after them its own.
_forks = Table(
    "chat_forks",
    _metadata,
    Column("conversation", String, primary_key=True),
    Column("source", String, index=True),  # none, once what they shared has become the fork's own
    Column("through", Integer),
    Column("shared", Integer, nullable=False),
    Column("created_at", String, nullable=False),
)
_summaries = Table(
    "chat_summaries",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("conversation", String, nullable=False, index=True),
    Column("created_at", String, nullable=False),
    Column("summary", JSON, nullable=False),
)
_append = insert(_messages)
_append_summary = insert(_summaries)
_LOCK = 0x6C6C6D63
"""Of PostgreSQL's advisory locks, the one for making the tables, and for what forks share."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation in the database."""

    name: str
    created: datetime
    last_used: datetime
    """When something was added."""
    messages: int
    """How many there are, with those that it shares with others."""


class DatabaseHistoryStore:
    """Keeps conversations in one table, a row a message. The database is made on first use; a thread does the work.

    A fork shares the rows of the conversation that it comes from: nothing is copied, neither then nor when that one is
    cleared.
    """

    def __init__(self, url: str) -> None:
        """Take the database URL; nothing is opened yet."""
        self._worker = Worker(url, _prepare, level=logging.DEBUG)  # whoever asks is told by the error

    async def load(self, conversation: str) -> list[dict[str, Any]]:
        """Return a conversation's messages in order; none if there is no such conversation."""
        query = _rows(conversation, _messages.c.message)
        return await self._worker.run(lambda connection: list(connection.scalars(query)), reads=True)

    async def append(self, conversation: str, messages: Sequence[dict[str, Any]]) -> None:
        """Add messages to the end of a conversation, all or none; also if the caller is cancelled."""
        now = _now()
        await self._worker.run(
            Insert(_append, [{"conversation": conversation, "created_at": now, "message": each} for each in messages])
        )

    async def clear(self, conversation: str) -> None:
        """Forget a conversation. What it shares with others stays theirs."""
        await self._worker.run(lambda connection: _clear(connection, conversation))

    async def fork(self, source: str, target: str, *, at: str | int | None = None) -> None:
        """Begin a conversation that has been the same as another one up to a message.

        Args:
            source: the other one.
            target: the new one's name.
            at: the last message that they share: its id, or its place, from 0; by default the last one. The tool
                results that follow it are shared too. A message without an id goes by its place: `"#0"`, `"#1"`.

        Raises:
            ResourceNotFoundError: there is no such message.
            ResourceConflictError: there is a conversation of that name.
            StoreError: it could not be written.
        """
        now = _now()
        fault = await self._worker.run(lambda connection: _fork(connection, source, target, at, now))
        if fault == "taken":
            msg = f"There is a conversation {target!r} already. Choose another name, or clear it first."
            raise ResourceConflictError(msg, resource_id=target)
        if fault == "missing":
            what = "no messages" if at is None else f"no message {at!r} to be forked at; places are counted from 0"
            msg = f"The conversation {source!r} has {what}."
            raise ResourceNotFoundError(msg, resource_id=source if at is None else str(at))

    async def conversations(self, *, limit: int = 100) -> list[Conversation]:
        """Return the conversations that were used last, the newest first."""
        return await self._worker.run(lambda connection: _list(connection, limit), reads=True)

    async def load_summaries(self, conversation: str) -> list[dict[str, Any]]:
        """Return the summaries of a conversation and of those that it was forked from, newest first."""
        line = _line(conversation)
        query = select(_summaries.c.summary).join(line, _summaries.c.conversation == line.c.conversation)
        query = query.order_by(_summaries.c.id.desc())
        return await self._worker.run(lambda connection: list(connection.scalars(query)), reads=True)

    async def append_summary(self, conversation: str, summary: dict[str, Any]) -> None:
        """Add a summary; also if the caller is cancelled."""
        row = {"conversation": conversation, "created_at": _now(), "summary": summary}
        await self._worker.run(Insert(_append_summary, [row]))

    async def aclose(self) -> None:
        """Do what is under way, and close the connection."""
        await self._worker.aclose()


def _prepare(connection: Connection) -> None:
    with transaction(connection):
        _lock(connection)
        _metadata.create_all(connection)


def _lock(connection: Connection) -> None:
    """Keep others out until the transaction ends. In SQLite the transaction itself does."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _line(conversation: str) -> Any:
    """Return a conversation and those that it comes from, each with the last row that it has of them."""
    itself = select(literal(conversation).label("conversation"), cast(null(), Integer).label("through"))
    line = itself.cte("line", recursive=True)
    source = select(_forks.c.source, _forks.c.through).join(line, _forks.c.conversation == line.c.conversation)
    return line.union_all(source.where(_forks.c.source.is_not(None)))


def _rows(conversation: str, *columns: Column[Any]) -> Select[Any]:
    """Select columns of a conversation's messages, in order: what is shared is older than what is its own."""
    line = _line(conversation)
    is_theirs = and_(
        _messages.c.conversation == line.c.conversation,
        or_(line.c.through.is_(None), _messages.c.id <= line.c.through),
    )
    return select(*columns).join(line, is_theirs).order_by(_messages.c.id)


def _fork(
    connection: Connection, source: str, target: str, at: str | int | None, now: str
) -> Literal["", "taken", "missing"]:
    _lock(connection)
    if connection.scalar(_rows(target, _messages.c.id).limit(1)) or connection.scalar(
        select(_forks.c.conversation).where(_forks.c.conversation == target)
    ):
        return "taken"
    found = None
    query = _rows(source, _messages.c.id, _messages.c.conversation, _messages.c.message)
    with connection.execute(query.execution_options(yield_per=100)) as rows:
        for place, row in enumerate(rows):
            message = row.message
            if found is not None and at is not None and message.get("role") != "tool":
                break
            if found is not None or at in {None, place, message.get("id") or f"#{place}"}:
                found = (row.id, row.conversation, place + 1)
    if found is None:
        return "missing"
    through, owner, shared = found
    connection.execute(
        insert(_forks).values(conversation=target, source=owner, through=through, shared=shared, created_at=now)
    )
    return ""


def _clear(connection: Connection, name: str) -> None:
    _lock(connection)
    own = connection.execute(select(_forks).where(_forks.c.conversation == name)).one_or_none()
    heirs = select(_forks.c.conversation, _forks.c.through).where(_forks.c.source == name)
    heir = connection.execute(heirs.order_by(_forks.c.through.desc()).limit(1)).one_or_none()
    if heir is not None:
        # Whoever shares most takes it over; the others share it with the heir from now on.
        shared = and_(_messages.c.conversation == name, _messages.c.id <= heir.through)
        connection.execute(update(_messages).where(shared).values(conversation=heir.conversation))
        connection.execute(
            update(_summaries).where(_summaries.c.conversation == name).values(conversation=heir.conversation)
        )
        before = {"source": None, "through": None, "shared": 0}
        if own is not None:
            before = {"source": own.source, "through": own.through, "shared": own.shared}
        connection.execute(update(_forks).where(_forks.c.conversation == heir.conversation).values(**before))
        connection.execute(update(_forks).where(_forks.c.source == name).values(source=heir.conversation))
    for table in (_messages, _forks, _summaries):
        connection.execute(delete(table).where(table.c.conversation == name))


def _list(connection: Connection, limit: int) -> list[Conversation]:
    own = select(
        _messages.c.conversation.label("name"),
        func.count().label("count"),
        func.min(_messages.c.created_at).label("created"),
        func.max(_messages.c.created_at).label("last_used"),
    ).group_by(_messages.c.conversation)
    rows = own.subquery()
    forks = _forks.outerjoin(rows, rows.c.name == _forks.c.conversation)
    last_used = case((rows.c.last_used > _forks.c.created_at, rows.c.last_used), else_=_forks.c.created_at)
    forked = select(
        _forks.c.conversation,
        _forks.c.shared + func.coalesce(rows.c.count, 0),
        _forks.c.created_at,
        last_used,
    ).select_from(forks)
    plain = select(rows).where(rows.c.name.not_in(select(_forks.c.conversation)))
    query = plain.union_all(forked).order_by(text("last_used DESC")).limit(limit)
    return [
        Conversation(
            name=name,
            messages=count,
            created=datetime.fromisoformat(created),
            last_used=datetime.fromisoformat(last_used),
        )
        for name, count, created, last_used in connection.execute(query)
    ]
