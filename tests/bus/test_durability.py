"""Scheduled events on a bus: held, released, restored, cancelled; with a database, without one, with a broken one."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import BackpressureStrategy, BoundedEventQueue, MessageBus
from llmgine.bus.backpressure import EventDroppedEvent
from llmgine.bus.stores import Misfire
from llmgine.database.stores import Database
from llmgine.errors import BusNotRunningError, CodecError, ConfigurationError
from llmgine.messages import Command, Event, ScheduledEvent, SessionID
from llmgine.messages.events import EventHandlerFailedEvent

SOON = timedelta(seconds=0.05)


@dataclass
class Reminder(ScheduledEvent):
    text: str = ""
    ends: datetime | None = None


@dataclass
class Ticked(Event):
    n: int = 0


class Inbox:
    """Hears events, and can be waited for."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.times: list[datetime] = []
        self._came = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.times.append(datetime.now(UTC))
        self._came.set()

    async def receive(self, count: int = 1) -> None:
        async with asyncio.timeout(20):
            while len(self.events) < count:
                self._came.clear()
                await self._came.wait()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'bus.db'}"


@pytest.fixture(params=["memory", "database"])
def bus(request: pytest.FixtureRequest, url: str) -> MessageBus:
    return MessageBus.isolated(database=url if request.param == "database" else None)


async def test_a_scheduled_event_is_delivered_when_its_time_has_come_and_not_before(bus: MessageBus) -> None:
    inbox = Inbox()
    bus.register_event_handler(Reminder, inbox)
    await bus.start()
    due = datetime.now(UTC) + SOON
    event = Reminder(text="tea", ends=due, scheduled_time=due, session_id=SessionID("kitchen"))
    await bus.publish(event)
    await bus.wait_for_events()  # what is not due does not count
    waiting = await bus.scheduled()
    early = list(inbox.events)
    await inbox.receive()
    await bus.stop()

    assert early == []
    assert [held.id for held in waiting] == [event.event_id]
    assert inbox.events == [event]
    assert inbox.times[0] >= due


async def test_one_whose_time_has_passed_is_an_event_like_any_other_and_not_waited_for(bus: MessageBus) -> None:
    inbox = Inbox()
    bus.register_event_handler(ScheduledEvent, inbox)
    await bus.start()
    await bus.publish(Reminder())
    at_once = list(inbox.events)
    await bus.wait_for_events()
    await bus.stop()

    assert at_once == []
    assert len(inbox.events) == 1


async def test_a_naive_time_is_local_time(bus: MessageBus) -> None:
    await bus.start()
    local = datetime.now() + timedelta(hours=1)  # noqa: DTZ005  # which is the point
    await bus.publish(Reminder(scheduled_time=local))
    (held,) = await bus.scheduled()
    await bus.stop()

    assert held.due == local.astimezone(UTC)


async def test_what_waits_is_there_for_the_next_start(url: str) -> None:
    before = MessageBus.isolated(database=url)
    await before.start()
    event = Reminder(text="after the restart", ends=datetime(2030, 5, 4, 3, 2, tzinfo=UTC), metadata={"of": (1, 2)})
    event.scheduled_time = datetime.now(UTC) + SOON
    await before.publish(event)
    report = await before.stop()

    after = MessageBus.isolated(database=url)
    inbox = Inbox()
    after.register_event_handler(Reminder, inbox)
    await after.start()
    await inbox.receive()
    await after.stop()

    assert report.persisted == 1
    assert inbox.events == [event]
    assert inbox.events[0].correlation_id == event.correlation_id
    assert inbox.times[0] >= event.scheduled_time


async def test_what_is_published_before_start_is_on_disk_at_once_and_waits_for_start(url: str) -> None:
    bus, inbox = MessageBus.isolated(database=url), Inbox()
    bus.register_event_handler(Reminder, inbox)
    await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON))
    other = MessageBus.isolated(database=url)
    assert len(await other.scheduled()) == 1
    await other.stop()
    await asyncio.sleep(2 * SOON.total_seconds())
    assert inbox.events == []
    await bus.start()
    await inbox.receive()
    await bus.stop()


async def test_one_that_is_cancelled_never_comes(bus: MessageBus) -> None:
    inbox = Inbox()
    bus.register_event_handler(Event, inbox)
    await bus.start()
    never = await bus.schedule(Ticked(n=1), after=0.02)
    await bus.schedule(Ticked(n=2), after=timedelta(seconds=0.04))
    cancelled = await bus.cancel_scheduled(never, "no such id")
    await inbox.receive()
    await bus.stop()

    assert cancelled == 1
    assert [event.n for event in inbox.events] == [2]


async def test_one_that_repeats_comes_again_as_an_event_of_its_own_until_it_is_cancelled(bus: MessageBus) -> None:
    inbox = Inbox()
    bus.register_event_handler(Ticked, inbox)
    await bus.start()
    event = Ticked(n=7)
    schedule = await bus.schedule(event, every=0.02)
    await inbox.receive(3)
    await bus.cancel_scheduled(schedule)
    left = await bus.scheduled()
    await bus.stop()

    assert left == []
    assert {each.n for each in inbox.events} == {7}
    assert len({each.event_id for each in inbox.events} | {event.event_id}) == len(inbox.events) + 1
    assert {each.correlation_id for each in inbox.events} == {event.event_id}


async def test_a_calendar_says_when(bus: MessageBus) -> None:
    await bus.start()
    await bus.schedule(Ticked(), cron="0 9 * * mon-fri", timezone="Europe/Berlin", misfire=Misfire.SKIP)
    (held,) = await bus.scheduled()
    await bus.stop()

    assert held.recurrence is not None
    assert held.recurrence.spec == "cron 0 9 * * mon-fri Europe/Berlin"
    assert held.due > datetime.now(UTC)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "at"),
        ({"after": -1}, "after"),
        ({"after": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "at"),
        ({"every": 0}, "every"),
        ({"cron": "61 * * * *"}, "minute"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
    ],
)
async def test_a_time_that_makes_no_sense_is_refused(bus: MessageBus, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        await bus.schedule(Ticked(), **wrong)


async def test_what_cannot_be_stored_is_refused_when_it_is_published(url: str) -> None:
    bus = MessageBus.isolated(database=url)
    with pytest.raises(CodecError, match="metadata"):
        await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON, metadata={"file": sys.stderr}))
    await bus.stop()


async def test_a_stopped_bus_takes_no_scheduled_event(bus: MessageBus) -> None:
    await bus.start()
    await bus.stop()
    with pytest.raises(BusNotRunningError):
        await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON))


async def test_a_released_event_is_part_of_the_chain_that_it_was_published_in(bus: MessageBus) -> None:
    inbox = Inbox()

    async def remind(command: Command[Any]) -> None:
        await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON))

    bus.register_command_handler(Command, remind)
    bus.register_event_handler(Reminder, inbox)
    await bus.start()
    command = Command[Any]()
    await bus.execute(command)
    await inbox.receive()
    await bus.stop()

    (event,) = inbox.events
    assert (event.correlation_id, event.causation_id) == (command.command_id, command.command_id)


async def test_a_pending_event_with_a_time_waits_for_both(bus: MessageBus) -> None:
    inbox = Inbox()

    def remind(message: Any) -> None:
        bus.add_pending_event(Reminder(text=type(message).__name__, scheduled_time=datetime.now(UTC) + SOON))

    bus.register_command_handler(Command, remind)
    bus.register_event_handler(Ticked, remind)
    bus.register_event_handler(Reminder, inbox)
    await bus.start()
    await bus.execute(Command[Any]())
    await bus.publish(Ticked())
    await inbox.receive(2)
    await bus.stop()

    assert sorted(event.text for event in inbox.events) == ["Command", "Ticked"]


async def test_a_handler_that_fails_on_one_is_told_of_and_the_event_is_done_with(bus: MessageBus) -> None:
    inbox = Inbox()

    def fail(event: Reminder) -> None:
        msg = "no"
        raise ValueError(msg)

    bus.register_event_handler(Reminder, fail)
    bus.register_event_handler(EventHandlerFailedEvent, inbox)
    await bus.start()
    await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON))
    await inbox.receive()
    await bus.stop()
    await bus.start()

    assert await bus.scheduled() == []
    await bus.stop()


async def test_one_whose_handler_is_cut_short_by_the_end_comes_again(url: str) -> None:
    bus, begun = MessageBus.isolated(database=url), asyncio.Event()

    async def never_end(event: Reminder) -> None:
        begun.set()
        await asyncio.Event().wait()

    bus.register_event_handler(Reminder, never_end)
    await bus.start()
    await bus.publish(Reminder(text="again", scheduled_time=datetime.now(UTC) + SOON))
    await begun.wait()
    report = await bus.stop(timeout=0.01)

    after, inbox = MessageBus.isolated(database=url), Inbox()
    after.register_event_handler(Reminder, inbox)
    await after.start()
    await inbox.receive()
    await after.stop()

    assert report.persisted == 1
    assert inbox.events[0].text == "again"


@pytest.mark.parametrize("strategy", [BackpressureStrategy.REJECT_NEW, BackpressureStrategy.DROP_OLDEST])
async def test_one_for_which_there_is_no_room_comes_when_there_is(url: str, strategy: BackpressureStrategy) -> None:
    queue: BoundedEventQueue[Event] = BoundedEventQueue(1, strategy=strategy)
    bus = MessageBus.isolated(database=Database(url, lease=1), event_queue=queue)
    inbox, release, lost = Inbox(), asyncio.Event(), Inbox()

    async def wait(event: Ticked) -> None:
        await release.wait()

    bus.register_event_handler(Ticked, wait)
    bus.register_event_handler(Reminder, inbox)
    bus.add_observer(lambda event: lost(event) if isinstance(event, EventDroppedEvent) else None)
    await bus.start()
    for n in range(2):  # one is handled, one waits
        await bus.publish(Ticked(n), await_processing=False)
        await asyncio.sleep(0)
    await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON))
    await lost.receive()  # it could not be queued, or took the place of another
    if strategy is BackpressureStrategy.DROP_OLDEST:
        await bus.publish(Ticked(3), await_processing=False)
        await lost.receive(2)  # now it has given way itself
    release.set()
    await inbox.receive()
    await bus.stop()

    assert len(inbox.events) == 1


@pytest.mark.parametrize("url", ["invalid://invalid", "sqlite:////no/such/folder/bus.db", "no url at all"])
async def test_a_bus_with_a_broken_database_runs_and_holds_events_in_memory(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus, inbox = MessageBus.isolated(database=url), Inbox()
    bus.register_event_handler(Event, inbox)
    with caplog.at_level(logging.WARNING):
        await bus.start()
        for n in range(3):
            await bus.publish(Ticked(n=n))
            await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + SOON))
        await inbox.receive(6)
        await bus.publish(Reminder(scheduled_time=datetime.now(UTC) + timedelta(hours=1)))
        stats = await bus.get_stats()
        report = await bus.stop()

    assert stats["database"]["available"] is False
    assert (report.persisted, report.abandoned) == (0, 1)
    assert [record.message for record in caplog.records if "cannot be reached" in record.message][1:] == []
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "1 scheduled events could not be written, and end with this process"
    ]


FORKING = """
import asyncio, os, sys
from datetime import UTC, datetime, timedelta
from llmgine.bus import MessageBus
from llmgine.messages import Event, ScheduledEvent
bus = MessageBus()
async def schedule(seconds):
    await bus.start()
    await bus.publish(Event())
    await bus.publish(ScheduledEvent(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds)))
    return len(await bus.scheduled())
async def child():
    print("child", await schedule(3600), flush=True)
    await bus.stop()
async def parent():
    await schedule(3600)
    if os.fork() == 0:
        try:
            asyncio._set_running_loop(None)
            asyncio.new_event_loop().run_until_complete(child())
        finally:
            sys.stdout.flush()
            os._exit(0)
    await asyncio.to_thread(os.wait)
    print("parent", len(await bus.scheduled()))
    await bus.stop()
    print("log", (await bus.replay()).events)
    await bus.stop()
asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_process_has_a_bus_of_its_own_on_the_same_database(tmp_path: Path) -> None:
    environment = {**os.environ, "LLMGINE_PERSIST_EVENTS": "1", "LLMGINE_DB_URL": f"sqlite:///{tmp_path / 'b.db'}"}
    done = subprocess.run(
        [sys.executable, "-c", FORKING], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["child", "2", "parent", "2", "log", "4"]


PROGRAM = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from llmgine.bus import BackpressureStrategy, BoundedEventQueue, MessageBus
from llmgine.bus.backpressure import EventDroppedEvent
from llmgine.messages import Event, ScheduledEvent
async def main():
    bus = MessageBus()
    await bus.start()
    await bus.publish(Event())
    if "schedule" in sys.argv:
        await bus.publish(ScheduledEvent(scheduled_time=datetime.now(UTC) + timedelta(hours=1)))
    print(len(await bus.scheduled()) if "look" in sys.argv else await bus.stop())
    await bus.stop()
asyncio.run(main())
print("sqlalchemy" in sys.modules)
"""


def _run(folder: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_applications_bus_makes_a_database_when_it_needs_one_and_not_before(tmp_path: Path) -> None:
    assert _run(tmp_path)[-1] == "False"
    assert list(tmp_path.iterdir()) == []
    assert "persisted=1" in _run(tmp_path, "schedule")[0]
    assert [file.name for file in tmp_path.iterdir()] == ["message_bus.db"]
    assert _run(tmp_path, "look")[0] == "1"
