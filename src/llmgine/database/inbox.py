"""Which messages have been dealt with, noted in the user's own transaction: a repetition is seen as one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Connection, Index, MetaData, String, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, scoped_session

from llmgine.bus.clocks import utc_now
from llmgine.bus.options import check_number
from llmgine.database.tables import microseconds
from llmgine.errors import ConfigurationError
from llmgine.messages.message import Message, id_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

__all__ = ["Inbox", "inbox_metadata"]

inbox_metadata = MetaData()
_table = Table(
    "llmgine_inbox",
    inbox_metadata,
    Column("consumer", String, primary_key=True),
    Column("message_id", String, primary_key=True),
    Column("accepted_at", BigInteger, nullable=False),
    Index("llmgine_inbox_accepted", "accepted_at"),
)

_TIDY_EVERY = 100
"""Messages accepted from one look at what has expired to the next."""
_ROWS = 200
"""How many rows are removed then: more than have come."""


class Inbox:
    """Makes a consumer idempotent: whatever it does in the transaction that accepts a message is done once.

    That holds for `keep` seconds, and for what is done in that transaction. What has effects elsewhere, such as sending
    an email, may be done more than once, if the transaction is rolled back afterwards.
    """

    def __init__(self, keep: float = 86_400.0, *, clock: Callable[[], datetime] = utc_now) -> None:
        """Remember messages for `keep` seconds.

        Raises:
            ConfigurationError: `keep` is no number, or below 1.
        """
        check_number("keep", keep, int | float, "a number of seconds, at least 1", least=1)
        self._keep = int(keep * 1_000_000)
        self._clock = clock
        self._accepted = count()

    @staticmethod
    def create_tables(connection: Connection) -> None:
        """Make the table if it is missing: `inbox.create_tables(connection)`, `await connection.run_sync(…)`."""
        inbox_metadata.create_all(connection)

    def accept(
        self, session: Session | scoped_session[Any] | Connection, message: Message | str, consumer: str = "default"
    ) -> bool:
        """Note a message in the session's transaction.

        Of two transactions that do this at once one waits for the other. Let it be the first statement: SQLite refuses
        to write in a transaction that has read what another has changed since.

        Args:
            session: of the user's database.
            message: the message or its id.
            consumer: who deals with it. Each deals with each message once.

        Returns:
            Whether to go on: False if a transaction that was committed has accepted the message in the time for which
            messages are remembered.
        """
        connection = session if isinstance(session, Connection) else session.connection()
        now = microseconds(self._clock())
        values = {
            "consumer": consumer,
            "message_id": id_of(message) if isinstance(message, Message) else message,
            "accepted_at": now,
        }
        added = _insert(connection).values(values)
        again = added.on_conflict_do_update(
            index_elements=["consumer", "message_id"],
            set_={"accepted_at": now},
            where=_table.c.accepted_at <= now - self._keep,
        )
        result = connection.execute(again, execution_options={"preserve_rowcount": True})
        accepted = result.rowcount > 0
        if accepted and next(self._accepted) % _TIDY_EVERY == 0:
            self._tidy(connection, now)
        return accepted

    async def accept_async(
        self, session: AsyncSession | AsyncConnection, message: Message | str, consumer: str = "default"
    ) -> bool:
        """Do as `accept` does, in an asynchronous session."""
        return await session.run_sync(self.accept, message, consumer)

    def _tidy(self, connection: Connection, now: int) -> None:
        """Forget messages whose time has passed, save those that another transaction is at."""
        expired = (
            select(_table.c.consumer, _table.c.message_id)
            .where(_table.c.accepted_at <= now - self._keep)
            .order_by(_table.c.accepted_at)
            .limit(_ROWS)
            .with_for_update(skip_locked=True)
        )
        for row in connection.execute(expired).all():
            mine = (_table.c.consumer == row.consumer) & (_table.c.message_id == row.message_id)
            connection.execute(delete(_table).where(mine))


def _insert(connection: Connection) -> Any:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(_table)
    if connection.dialect.name == "sqlite":
        return sqlite.insert(_table)
    msg = f"An inbox is kept in SQLite or PostgreSQL, not in {connection.dialect.name}."
    raise ConfigurationError(msg)
