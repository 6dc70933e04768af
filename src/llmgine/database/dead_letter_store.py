"""Dead letters in a table: commands that failed for good, and who is trying one of them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, or_, select, update

from llmgine.bus.stores import Added, DeadLetterEntry
from llmgine.database.access import Access
from llmgine.database.tables import clean, microseconds, moment, stored_columns, stored_message
from llmgine.errors import CodecError
from llmgine.messages import Command
from llmgine.messages.codec import decode, encode
from llmgine.messages.ids import BUS

__all__ = ["DatabaseDeadLetterStore", "DeadLetterRecord"]

_LEASE_US = 300 * 1_000_000
"""How long a retry may take until another process may try as well; who has crashed does not give back."""
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A dead letter as it is stored, for programs that do not have the command's class."""

    position: int
    command_id: str
    command_type: str
    """The name of the command's class."""
    session_id: str
    payload: str
    """JSON: the command's fields."""
    error: str
    attempts: int
    first_attempt: datetime
    last_attempt: datetime
    metadata: dict[str, Any]


class DatabaseDeadLetterStore:
    """A `DeadLetterStore` that outlives the process, and that processes may share.

    A command that cannot be stored exactly is stored as far as it can be; `metadata["lossy"]` lists what is missing.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._table = access.tables.dead_letters
        added = access.tables.insert(self._table)
        columns = [column.name for column in self._table.c]
        again = {name: added.excluded[name] for name in columns if name not in {"position", "command_id"}}
        self._add = added.on_conflict_do_update(index_elements=["command_id"], set_=again)

    async def add(self, entry: DeadLetterEntry, limit: int | None = None) -> Added:
        """Keep an entry, in the place of one with the same command id."""
        row, table = _row(entry), self._table
        known = select(table.c.position).where(table.c.command_id == row["command_id"])

        def work(connection: Connection) -> Added:
            is_new = connection.scalar(known) is None
            connection.execute(self._add, row)
            return Added(is_new, [] if limit is None else evict(connection, limit))

        def evict(connection: Connection, limit: int) -> list[str]:
            excess = (connection.scalar(select(func.count(table.c.command_id))) or 0) - limit
            if excess <= 0:
                return []
            oldest = select(table.c.command_id).order_by(table.c.position).limit(excess)
            evicted = list(connection.scalars(oldest))
            connection.execute(delete(table).where(table.c.command_id.in_(evicted)))
            return evicted

        return await self._access.run(work)

    async def get(self, command_id: str) -> DeadLetterEntry | None:
        """Return one entry; None if there is no such."""
        rows = await self._rows(select(self._table).where(self._table.c.command_id == clean(command_id)))
        return _entry(rows[0]) if rows else None

    async def records(
        self, limit: int | None = None, *, command_type: str | None = None, since: int = 0
    ) -> list[DeadLetterRecord]:
        """Return entries as they are stored, without decoding any."""
        return [_record(row) for row in await self._rows(self._query(limit, command_type, since))]

    async def remove(self, command_ids: Iterable[str]) -> int:
        """Forget entries. Return how many there were."""
        wanted = iter(dict.fromkeys(map(clean, command_ids)))
        chunks = iter(lambda: list(islice(wanted, _CHUNK)), [])
        statements = [delete(self._table).where(self._table.c.command_id.in_(chunk)) for chunk in chunks]
        return await self._access.run(lambda connection: sum(connection.execute(each).rowcount for each in statements))

    async def lease(self, command_id: str) -> bool:
        """Take an entry to retry it, for 5 minutes. Return False while another process does, or if there is none."""
        now = microseconds(self._access.clock())
        free = or_(self._table.c.owner.is_(None), self._table.c.leased_until <= now)
        return await self._update(command_id, free, owner=self._access.owner, leased_until=now + _LEASE_US)

    async def unlease(self, command_id: str) -> None:
        """Give an entry back."""
        await self._update(command_id, self._table.c.owner == self._access.owner, owner=None, leased_until=0)

    async def count(self, *, since: int = 0) -> int:
        """Return how many are kept of those that were added after position `since`."""
        query = select(func.count()).select_from(self._table).where(self._table.c.position > since)
        return await self._access.run(lambda connection: connection.scalar(query) or 0, reads=True)

    async def position(self) -> int:
        """Return the position of the entry that was added last; 0 if there was none."""
        query = select(func.max(self._table.c.position))
        return await self._access.run(lambda connection: connection.scalar(query) or 0, reads=True)

    async def list(
        self, limit: int | None = None, *, command_type: str | None = None, since: int = 0
    ) -> list[DeadLetterEntry]:
        """Return entries, the oldest first: of a class by its name, and only those added after position `since`."""
        return [_entry(row) for row in await self._rows(self._query(limit, command_type, since))]

    def _query(self, limit: int | None, command_type: str | None, since: int) -> Select[Any]:
        query = select(self._table).where(self._table.c.position > since).order_by(self._table.c.position).limit(limit)
        return query if command_type is None else query.where(self._table.c.command_type == command_type)

    async def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return await self._access.run(lambda connection: connection.execute(query).all(), reads=True)

    async def _update(self, command_id: str, condition: ColumnElement[bool], **values: Any) -> bool:
        statement = update(self._table).where(self._table.c.command_id == clean(command_id), condition).values(**values)
        return await self._access.run(lambda connection: connection.execute(statement).rowcount == 1)


def _row(entry: DeadLetterEntry) -> dict[str, Any]:
    command = entry.command
    if command is None:
        msg = "A dead letter without its command cannot be stored."
        raise ValueError(msg)
    stored = encode(command, lossy=True)
    metadata = {**entry.metadata, "lossy": list(stored.lost)} if stored.lossy else entry.metadata
    return {
        "command_id": clean(str(entry.metadata.get("command_id") or command.command_id)),
        "command_type": type(command).__name__,
        "session_id": clean(str(command.session_id or BUS)),
        "error": clean(entry.error),
        "attempts": entry.attempts,
        "first_attempt": microseconds(entry.first_attempt),
        "last_attempt": microseconds(entry.last_attempt),
        "metadata": _json(metadata),
        "leased_until": 0,
        "owner": None,
        **stored_columns(stored),
    }


def _json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metadata, default=str, skipkeys=True)
    except (ValueError, RecursionError):  # it holds itself, and is not worth losing the command for
        return json.dumps({str(name): str(value) for name, value in metadata.items()})


def _entry(row: Row[Any]) -> DeadLetterEntry:
    record, command = _record(row), None
    try:
        message = decode(stored_message(row))
        if not isinstance(message, Command):
            msg = f"{row.type_name} is no command."
            raise CodecError(msg)  # noqa: TRY301  # one place says what becomes of it
        command = message
    except Exception as exc:  # noqa: BLE001  # classes may read what is stored in ways of their own
        record.metadata["unreadable"] = f"{type(exc).__name__}: {exc}"
    return DeadLetterEntry(
        command, record.error, record.attempts, record.first_attempt, record.last_attempt, record.metadata
    )


def _record(row: Row[Any]) -> DeadLetterRecord:
    return DeadLetterRecord(
        row.position,
        row.command_id,
        row.command_type,
        row.session_id,
        row.payload,
        row.error,
        row.attempts,
        _date(row.first_attempt),
        _date(row.last_attempt),
        _metadata(row.metadata),
    )


def _date(stored: int) -> datetime:
    try:
        return moment(stored)
    except (OverflowError, TypeError):  # somebody has been there; the rest may be worth reading
        return moment(0)


def _metadata(stored: str) -> dict[str, Any]:
    try:
        read = json.loads(stored)
    except (TypeError, ValueError, RecursionError) as error:
        return {"unreadable": f"Its metadata are no JSON: {error}"}
    return read if isinstance(read, dict) else {"unreadable": "Its metadata are no JSON object."}
