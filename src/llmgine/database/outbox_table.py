"""The table of the outbox, in the user's own database: who may relay what, and what is left to relay.

Rows of one session go out in their order. So none is claimed while an earlier one of its session is somebody's, and
claims come one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from zlib import crc32

from sqlalchemy import (
    BigInteger,
    Connection,
    Index,
    Integer,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["OutboxRow", "OutboxTable", "outbox_metadata"]


class _Base(DeclarativeBase):
    """Keeps the table apart from those of the application."""


class OutboxRow(_Base):
    """One event that is to be published. Times are whole microseconds since 1970, UTC."""

    __tablename__ = "llmgine_outbox"

    position: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    event_id: Mapped[str] = mapped_column(Text)
    event_type: Mapped[str] = mapped_column(Text)
    type_name: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BigInteger)
    session_id: Mapped[str] = mapped_column(Text)
    payload: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    claimable_at: Mapped[int] = mapped_column(BigInteger)
    """When the lease ends."""
    claim: Mapped[str | None] = mapped_column(Text)
    """The fencing token: each claim has one of its own."""
    error: Mapped[str | None] = mapped_column(Text)
    """Why it cannot be decoded."""

    __table_args__ = (Index("llmgine_outbox_session", session_id, position), {"sqlite_autoincrement": True})


outbox_metadata = _Base.metadata

_table = cast("Table", OutboxRow.__table__)
_columns = _table.c
_LOCK = crc32(b"llmgine_outbox")
_mine = (_columns.position == bindparam("row_position")) & (_columns.claim == bindparam("row_claim"))


class OutboxTable:
    """What a relay does to the table, in one transaction each."""

    @staticmethod
    def create(connection: Connection) -> None:
        """Make the table if it is missing. Of those who do this at once, one does it."""
        _lock(connection)
        outbox_metadata.create_all(connection)

    @staticmethod
    def revive(connection: Connection) -> None:
        """Give what could not be decoded another chance, with the classes that are there now."""
        connection.execute(update(OutboxRow).where(_columns.error.is_not(None)).values(error=None))

    @staticmethod
    def claim(
        connection: Connection, claim: str, now: int, until: int, limit: int
    ) -> Sequence[Row[tuple[object, ...]]]:
        """Lease the first rows that may go out, until a date. Return them in their order."""
        _lock(connection)
        row, earlier = _table.alias("candidate"), _table.alias("earlier")
        held_up = (
            select(earlier.c.position)
            .where(earlier.c.session_id == row.c.session_id, earlier.c.position < row.c.position)
            .where(earlier.c.claimable_at > now, earlier.c.error.is_(None))
            .correlate(row)
        )
        free = (
            select(row.c.position)
            .where(row.c.claimable_at <= now, row.c.error.is_(None), ~held_up.exists())
            .order_by(row.c.position)
            .limit(limit)
        )
        taken = update(OutboxRow).where(_columns.position.in_(free.scalar_subquery()))
        connection.execute(taken.values(claim=claim, claimable_at=until))
        return connection.execute(select(_table).where(_columns.claim == claim).order_by(_columns.position)).all()

    @staticmethod
    def remove(connection: Connection, rows: Sequence[tuple[int, str]]) -> None:
        """Forget rows, by their positions and claims, save those that others have taken over."""
        connection.execute(delete(_table).where(_mine), _keys(rows))

    @staticmethod
    def lease(connection: Connection, rows: Sequence[tuple[int, str]], until: int) -> None:
        """Let leases end at a date, save those that others have taken over."""
        connection.execute(update(_table).where(_mine).values(claimable_at=until), _keys(rows))

    @staticmethod
    def set_aside(connection: Connection, row: tuple[int, str], error: str) -> None:
        """Keep a row out of the way of the others."""
        connection.execute(update(_table).where(_mine).values(error=error, claimable_at=0), _keys([row]))

    @staticmethod
    def next_time(connection: Connection, now: int) -> int | None:
        """Return when the next lease ends; None if nothing is leased."""
        leased = (_columns.claimable_at > now) & _columns.error.is_(None)
        ends: int | None = connection.scalar(select(func.min(_columns.claimable_at)).where(leased))
        return ends


def _keys(rows: Sequence[tuple[int, str]]) -> list[dict[str, object]]:
    return [{"row_position": position, "row_claim": claim} for position, claim in rows]


def _lock(connection: Connection) -> None:
    """Let others wait until the transaction ends. In SQLite whoever writes does."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
