"""An application in the test's own process, with a bus whose database gets into trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from llmgine import Command, CommandResult, Event, MessageBus
from llmgine.bus.resilience import Policy
from llmgine.database.stores import Database
from llmgine.messages import SessionID
from llmgine.messages.scheduled_events import ScheduledEvent

FAR = timedelta(hours=1)
BALLAST = "x" * 10_000
"""So that each row needs room of its own."""


@dataclass
class Reminder(ScheduledEvent):
    """Comes at its time."""

    name: str = ""
    ballast: str = BALLAST


@dataclass
class Noted(Event):
    """Is delivered at once."""

    name: str = ""


@dataclass
class Charge(Command[None]):
    """Fails."""

    ballast: str = BALLAST


@dataclass
class Application:
    """A bus, and what it has delivered."""

    database: Database
    bus: MessageBus
    handled: list[str] = field(default_factory=list[str])
    early: list[str] = field(default_factory=list[str])
    doors: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    """Before which events of these names wait."""

    async def remind(self, name: str, wait: timedelta | float = 0.0, session: str = "one") -> None:
        """Have an event delivered in so many seconds."""
        due = datetime.now(UTC) + (wait if isinstance(wait, timedelta) else timedelta(seconds=wait))
        event = Reminder(name=name, session_id=SessionID(session), scheduled_time=due)
        await asyncio.wait_for(self.bus.schedule(event, at=due), 10)

    async def fail(self) -> CommandResult[None]:
        """Make a dead letter."""
        return await asyncio.wait_for(self.bus.execute(Charge()), 10)

    async def stats(self) -> dict[str, Any]:
        """Return how the bus says that the database is."""
        stats: dict[str, Any] = (await self.bus.get_stats())["database"]
        return stats

    async def held(self) -> list[str]:
        """Return the names of the events that are kept, by their times."""
        return [each.event.name for each in await self.bus.scheduled() if isinstance(each.event, Reminder)]

    async def handle(self, event: Reminder) -> None:
        """Note an event."""
        if event.name in self.doors:
            await self.doors[event.name].wait()
        if datetime.now(UTC) < event.scheduled_time:
            self.early.append(event.name)
        self.handled.append(event.name)


@asynccontextmanager
async def running(url: str, schema: str = "crash") -> AsyncGenerator[Application]:
    """Run an application, and stop it in the end."""
    database = Database(url, schema)
    bus = MessageBus.isolated(database=database, policy=Policy(dead_letters=True))
    application = Application(database, bus)
    bus.register_event_handler(Reminder, application.handle)
    bus.register_event_handler(Noted, lambda event: application.handled.append(event.name))
    bus.register_command_handler(Charge, _decline)
    await bus.start()
    try:
        yield application
    finally:
        await bus.stop(timeout=5)
    assert application.early == []


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds, which nobody tells of."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


def _decline(_: Charge) -> None:
    msg = "the bank does not answer"
    raise ConnectionError(msg)
