"""Events that are published by the user's own transaction: delivered if it is committed, never seen otherwise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event, insert
from sqlalchemy.orm import Session, scoped_session

from llmgine.bus.causality import current, stamp
from llmgine.bus.clocks import utc_now
from llmgine.bus.options import check_number
from llmgine.database.outbox_relay import Relay
from llmgine.database.outbox_table import OutboxRow, OutboxTable, outbox_metadata
from llmgine.database.tables import clean, microseconds, stored_columns
from llmgine.database.user_engine import UserEngine
from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.messages.codec import encode
from llmgine.messages.ids import BUS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from llmgine.bus import MessageBus

__all__ = ["Outbox", "OutboxRow", "outbox_metadata"]

_KEY = "llmgine_outboxes"


class Outbox:
    """Publishes events by way of a table in the user's database, SQLite or PostgreSQL.

        outbox = Outbox(bus, engine)
        async with outbox:
            with Session(engine) as session, session.begin():
                session.add(order)
                outbox.publish(session, OrderPlaced(...))

    Each event is delivered at least once. It is delivered again, with the same id, if the process is killed after its
    handlers have run and before its row is gone, or if it stood still for longer than the lease; an `Inbox` tells.
    Events of one session are delivered in the order of their rows. Several processes may relay from one table.

    With SQLite, savepoints need the transactions that SQLAlchemy recommends for its driver: by itself that commits at
    the end of a savepoint, and so does the outbox.

    Nothing polls. What a process has committed without relaying it, because it was killed or never started an outbox,
    goes out when another one starts, commits something itself, or calls `look`.
    """

    def __init__(
        self,
        bus: MessageBus,
        engine: Engine | AsyncEngine | str,
        *,
        create_tables: bool = True,
        lease: float = 60.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Take a bus and the database of the user's transactions; nothing is opened yet.

        Args:
            bus: where events are published.
            engine: stays open when the outbox stops; or a URL.
            create_tables: make the table if it is missing. Otherwise make it from `outbox_metadata`.
            lease: seconds after which another process may relay what this one has claimed and not renewed: more than
                the clocks of those who share the table may differ by.
            clock: tells the date.

        Raises:
            ConfigurationError: the lease is no number or below 1, or the engine is none.
        """
        check_number("lease", lease, int | float, "a number of seconds, at least 1", least=1)
        self._bus = bus
        self._engine = UserEngine(engine)
        self._create_tables = create_tables
        self._lease = lease
        self._clock = clock
        self._relay: Relay | None = None

    async def start(self) -> None:
        """Relay from now on, first what is there already. Does nothing if that is so.

        Raises:
            StoreError: the database cannot be used.
        """
        if self._relay is None:
            if self._create_tables:
                await self._engine.run(OutboxTable.create)
            await self._engine.run(OutboxTable.revive)
            self._begin()

    async def stop(self, timeout: float = 10.0) -> None:
        """Relay no more. Stop the outbox before its bus, so that what is under way ends well.

        Args:
            timeout: seconds that events under way are waited for; after that they are left for the next start.
        """
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.stop(timeout)
        await self._engine.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def publish(self, session: Session | scoped_session[Any] | AsyncSession | Connection, message: Event) -> None:
        """Publish an event if, and when, the session's transaction is committed. What it is now, is what is published.

        Args:
            session: of the ORM, whether asynchronous or not; the row is written when it is flushed. Or a `Connection`,
                after whose commit `look` is to be called. For an `AsyncConnection` call this within its `run_sync`.
            message: the event.

        Raises:
            CodecError: the event holds something that cannot be stored.
            ConfigurationError: it is no event, or the session is none.
        """
        values = self._values(message)
        if isinstance(session, Connection):
            session.execute(insert(OutboxRow), values)
            return
        own: Any = session
        if hasattr(own, "registry"):  # a scoped one
            own = own()
        own = getattr(own, "sync_session", own)
        if not isinstance(own, Session):
            msg = (
                "An outbox publishes in a Session, an AsyncSession or a Connection of SQLAlchemy; "
                f"got {type(session).__name__}. In an AsyncConnection: await connection.run_sync(outbox.publish, event)"
            )
            raise ConfigurationError(msg)
        own.add(OutboxRow(**values))
        if _KEY not in own.info:
            own.info[_KEY] = WeakSet[Outbox]()
            event.listen(own, "after_commit", _committed)
        own.info[_KEY].add(self)

    def look(self) -> None:
        """Relay what has been committed in ways that the outbox does not see. From any thread."""
        if self._relay is not None:
            self._relay.look()

    def stats(self) -> dict[str, int]:
        """Return {"delivered", "unreadable"}: how many events since the start."""
        relay = self._relay
        return {
            "delivered": 0 if relay is None else relay.delivered,
            "unreadable": 0 if relay is None else relay.unreadable,
        }

    def _begin(self) -> None:
        if self._relay is None:
            self._relay = Relay(self._bus, self._engine, lease=self._lease, clock=self._clock)

    def _values(self, message: object) -> dict[str, Any]:
        if not isinstance(message, Event):
            msg = f"An outbox publishes events; got {message!r:.200}."
            raise ConfigurationError(msg)
        chain = current.get()
        if chain is not None:
            stamp(message, chain)
        return {
            **stored_columns(encode(message)),
            "event_id": clean(str(message.event_id)),
            "event_type": clean(type(message).__name__),
            "session_id": clean(str(message.session_id or BUS)),
            "created_at": microseconds(self._clock()),
            "claimable_at": 0,
        }


def _committed(session: Session) -> None:
    if not session.in_nested_transaction():  # which only ends a savepoint
        outboxes: WeakSet[Outbox] = session.info[_KEY]
        for outbox in list(outboxes):
            outbox.look()
        outboxes.clear()
