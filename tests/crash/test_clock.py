"""Somebody sets the clock under a running bus, back and forward: nothing comes early, and nothing is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from llmgine import MessageBus
from llmgine.bus import release
from llmgine.bus.scheduling import Scheduler
from llmgine.database.stores import Database
from llmgine.messages import SessionID

from .application import Reminder, until
from .conftest import Places

HOUR = timedelta(hours=1)


@dataclass
class Room:
    """A bus, with a clock on the wall that goes, and that may be set."""

    database: Database = field(init=False)
    bus: MessageBus = field(init=False)
    offset: timedelta = timedelta()
    handled: list[str] = field(default_factory=list[str])
    early: list[str] = field(default_factory=list[str])
    door: asyncio.Event = field(default_factory=asyncio.Event)

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.offset

    async def remind(self, name: str, wait: timedelta, every: timedelta | None = None) -> None:
        due = self.clock() + wait
        event = Reminder(name=name, session_id=SessionID(name), scheduled_time=due)
        await self.bus.schedule(event, at=due, every=every)

    async def look(self) -> None:
        """Wait until the store has certainly been asked once more what is due."""
        for _ in range(2):
            looked = self.handled.count("look")
            await self.remind("look", timedelta())
            await until(lambda: self.handled.count("look") > looked)  # noqa: B023  # which it is until then

    async def settled(self) -> None:
        """Wait until the database knows of everything that was delivered."""
        releases = self.bus._open_scheduler()._releases
        await until(lambda: not any(each.under_way or each.unsettled for each in releases))

    async def handle(self, event: Reminder) -> None:
        if self.clock() < event.scheduled_time:
            self.early.append(event.name)
        if event.name == "slow":
            await self.door.wait()
        self.handled.append(event.name)


@pytest.fixture
async def room(places: Places, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    room = Room()
    monkeypatch.setattr(release, "LOOK_EVERY", 0.05)
    defaults = Scheduler.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "clock", room.clock)
    url, schema = places()
    room.database = Database(url, schema, clock=room.clock)
    room.bus = MessageBus.isolated(database=room.database)
    room.bus.register_event_handler(Reminder, room.handle)
    await room.bus.start()
    yield room
    await room.bus.stop(timeout=5)
    assert room.early == []


async def test_a_clock_that_is_set_back_makes_nothing_early_and_one_set_forward_is_noticed(room: Room) -> None:
    await room.remind("soon", timedelta(seconds=0.2))
    await room.remind("later", 2 * HOUR)
    room.offset -= HOUR
    await room.remind("sooner", timedelta(seconds=0.4))
    await until(lambda: "sooner" in room.handled)
    await room.look()
    assert {*room.handled} == {"sooner", "look"}

    room.offset += HOUR
    await until(lambda: "soon" in room.handled)
    await room.look()
    assert "later" not in room.handled
    room.offset += 3 * HOUR
    await until(lambda: "later" in room.handled)
    room.offset -= 24 * HOUR
    await room.look()
    for name in ("soon", "sooner", "later"):
        assert room.handled.count(name) == 1
    await room.settled()
    assert await room.database.schedule.count() == 0


async def test_what_repeats_is_made_up_for_once_and_not_repeated_when_the_clock_is_set_back(room: Room) -> None:
    await room.remind("hourly", HOUR, every=HOUR)
    room.offset += 10 * HOUR
    await until(lambda: "hourly" in room.handled)
    await room.look()
    room.offset -= 10 * HOUR
    await room.look()
    assert room.handled.count("hourly") == 1
    room.offset += 10 * HOUR
    await room.look()
    assert room.handled.count("hourly") == 1
    room.offset += HOUR
    await until(lambda: room.handled.count("hourly") == 2)


async def test_a_lease_that_ends_because_the_clock_was_set_makes_no_second_delivery_of_the_first(room: Room) -> None:
    await room.remind("slow", timedelta())
    await until(lambda: room.bus._open_scheduler().under_way)
    for jump in (HOUR, -2 * HOUR, 24 * HOUR):
        room.offset += jump
        await room.look()
    room.door.set()
    await until(lambda: not room.bus._open_scheduler().under_way)
    await room.look()
    assert room.handled.count("slow") == 1
    await room.settled()
    assert await room.database.schedule.count() == 0
