"""The tables, as they are after the last migration. Times are whole microseconds since 1970, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table
from sqlalchemy.dialects import postgresql, sqlite

from llmgine.errors import ConfigurationError
from llmgine.messages.codec import StoredMessage

__all__ = ["Tables", "clean", "microseconds", "moment", "stored_columns", "stored_message"]

_SCHEMA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,62}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITION = BigInteger().with_variant(Integer, "sqlite")


class Tables:
    """The tables of one schema.

    On PostgreSQL the schema is one; in SQLite, which has none, it is how the names begin.
    """

    def __init__(self, schema: str, backend: str) -> None:
        """Name the tables.

        Args:
            schema: letters, digits, _ and dots; at most 63.
            backend: "sqlite" or "postgresql".

        Raises:
            ConfigurationError: the schema is no such name.
        """
        if not _SCHEMA.fullmatch(schema):
            msg = f"The database schema is a name of letters, digits, _ and dots, at most 63; got {schema!r}."
            raise ConfigurationError(msg)
        self.schema = None if backend == "sqlite" else schema
        self._prefix = schema.replace(".", "_") + "_" if backend == "sqlite" else ""
        self.metadata = MetaData(schema=self.schema)
        self.schema_version = self._table(
            "schema_version",
            Column("version", Integer, primary_key=True),
            Column("applied_at", BigInteger),
        )
        self.scheduled_events = self._table(
            "scheduled_events",
            Column("id", String, primary_key=True),
            Column("event_type", String),
            *_message(),
            Column("session_id", String),
            Column("due_at", BigInteger),
            Column("claimable_at", BigInteger),
            Column("created_at", BigInteger),
            Column("recurrence", String),
            Column("misfire", String),
            Column("owner", String),
            Column("token", BigInteger),
            Column("error", String),
            Column("failures", BigInteger),
        )
        self.event_log = self._table(
            "event_log",
            Column("position", _POSITION, primary_key=True),
            Column("record_id", String),
            Column("event_id", String),
            Column("event_type", String),
            *_message(),
            Column("session_id", String),
            Column("correlation_id", String),
            Column("causation_id", String),
            Column("event_time", String),
            Column("published_at", BigInteger),
            Column("size", BigInteger),
        )
        self.dead_letters = self._table(
            "dead_letters",
            Column("position", _POSITION, primary_key=True),
            Column("command_id", String),
            Column("command_type", String),
            *_message(),
            Column("session_id", String),
            Column("error", String),
            Column("attempts", BigInteger),
            Column("first_attempt", BigInteger),
            Column("last_attempt", BigInteger),
            Column("metadata", String),
            Column("leased_until", BigInteger),
            Column("owner", String),
        )

        self.approvals = self._table(
            "approvals",
            Column("position", _POSITION, primary_key=True),
            Column("id", String),
            Column("digest", String),
            Column("call_key", String),
            Column("session_id", String),
            Column("run_id", String),
            Column("tool", String),
            Column("arguments", String),
            Column("approver", String),
            Column("note", String),
            Column("requested_at", BigInteger),
            Column("expires_at", BigInteger),
            Column("state", String),
            Column("decided_at", BigInteger),
            Column("decided_by", String),
            Column("reason", String),
            Column("used_at", BigInteger),
            Column("url", String),
            Column("answer_schema", String),
            Column("answer", String),
        )
        self.runs = self._table(
            "runs",
            Column("run_id", String, primary_key=True),
            Column("session_id", String),
            Column("prompt", String),
            Column("begun_at", BigInteger),
            Column("ended_at", BigInteger),
        )
        self.run_turns = self._table(
            "run_turns",
            Column("run_id", String, primary_key=True),
            Column("step", BigInteger, primary_key=True),
            Column("message", String),
            Column("effect_keys", String),
        )
        self.effects = self._table(
            "effects",
            Column("key", String, primary_key=True),
            Column("run_id", String),
            Column("step", BigInteger),
            Column("tool", String),
            Column("arguments", String),
            Column("effect", String),
            Column("intended_at", BigInteger),
            Column("content", String),
            Column("succeeded", BigInteger),
            Column("finished_at", BigInteger),
        )

    def insert(self, table: Table) -> Any:
        """Return an insert that can say what to do where there is such a row already."""
        return postgresql.insert(table) if self.schema else sqlite.insert(table)

    def _table(self, name: str, *columns: Column[Any]) -> Table:
        return Table(self._prefix + name, self.metadata, *columns)


def _message() -> tuple[Column[Any], ...]:
    """Return the columns of a `StoredMessage`."""
    return Column("type_name", String), Column("version", BigInteger), Column("payload", String)


def stored_columns(stored: StoredMessage) -> dict[str, Any]:
    """Return a stored message as values of its columns."""
    return {"type_name": stored.type_name, "version": stored.version, "payload": stored.payload}


def stored_message(row: Any) -> StoredMessage:
    """Return the stored message of a row.

    Raises:
        CodecError: it is none.
    """
    return StoredMessage.from_payload(row.type_name, row.version, row.payload)


def microseconds(date: datetime) -> int:
    """Return an aware date as it is stored."""
    return (date - _EPOCH) // timedelta(microseconds=1)


def moment(stored: int) -> datetime:
    """Return the date that is stored.

    Raises:
        OverflowError: there is no such date.
        TypeError: it is no number, which SQLite does not prevent.
    """
    return _EPOCH + timedelta(microseconds=stored)


def clean(text: str) -> str:
    """Return a text that every database can store: without the zero character, and without half characters."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
