"""Laws 2, 4, 11, 13: whenever a caller is cancelled, nothing that was accepted is lost and nothing is left behind.

Each scenario is run once to count the turns of the loop that it takes, and then once for each of them, cancelled there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import pytest

from llmgine.bus import MessageBus, StopReport
from llmgine.bus.causality import current
from llmgine.bus.session import SessionEndEvent, SessionStartEvent
from llmgine.errors import BusNotRunningError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandResultEvent, CommandStartedEvent

Work: TypeAlias = Callable[[], Awaitable[object]]
TURNS = 500
"""What has not ended after so many turns of the loop hangs."""


async def turns(n: int = 1) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@dataclass
class Happened(Event):
    name: str = ""
    work: Work = turns


@dataclass
class Perform(Command[None]):
    name: str = ""
    work: Work = turns


class World:
    """A bus, and who saw what on it."""

    def __init__(self) -> None:
        self.bus = MessageBus.isolated()
        self.accepted: list[str] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.last: list[str] = []
        self.started: Counter[str] = Counter()
        self.concluded: Counter[str] = Counter()
        self.sessions: Counter[type[Event]] = Counter()
        self.others: list[asyncio.Task[None]] = []
        self.bus.register_event_handler(Happened, self._handle)
        self.bus.register_event_handler(Happened, self._handle_last, priority=90)
        self.bus.register_command_handler(Perform, self._perform)
        self.bus.register_event_handler(CommandStartedEvent, self._note_start)
        self.bus.register_event_handler(CommandResultEvent, self._note_end)
        self.bus.register_event_handler(SessionStartEvent, self._note_session)
        self.bus.register_event_handler(SessionEndEvent, self._note_session)

    async def publish(self, name: str, session: str, work: Work = turns, wait: bool = True) -> None:
        name = self._accept(name)
        await self.bus.publish(Happened(name=name, session_id=SessionID(session), work=work), await_processing=wait)

    def pend(self, name: str, session: str, work: Work = turns) -> None:
        """Have an event published when the handler ends, which it does without another suspension."""
        name = self._accept(name)
        self.bus.add_pending_event(Happened(name=name, session_id=SessionID(session), work=work))

    def _accept(self, name: str) -> str:
        self.accepted.append(f"{name} {len(self.accepted)}")
        return self.accepted[-1]

    async def execute(self, name: str, work: Work = turns) -> None:
        await self.bus.execute(Perform(name=name, work=work))

    async def _handle(self, event: Happened) -> None:
        self.begun.append(event.name)
        await event.work()
        self.ended.append(event.name)

    async def _handle_last(self, event: Happened) -> None:
        await turns()
        self.last.append(event.name)

    async def _perform(self, command: Perform) -> None:
        await command.work()

    async def _note_start(self, event: CommandStartedEvent) -> None:
        assert event.command is not None
        self.started[event.command.command_id] += 1

    async def _note_end(self, event: CommandResultEvent) -> None:
        assert event.command_result is not None
        self.concluded[event.command_result.command_id] += 1

    async def _note_session(self, event: Event) -> None:
        await turns()
        self.sessions[type(event)] += 1


Scenario: TypeAlias = Callable[[World], Awaitable[object]]


async def commands_in_commands(world: World) -> None:
    async def inner() -> None:
        await turns()
        await world.publish("inner", "a", partial(turns, 2))

    async def outer() -> None:
        await world.publish("first", "a")
        await world.execute("inner", inner)
        await world.publish("queued", "a", wait=False)
        await asyncio.gather(world.execute("left"), world.execute("right", inner))
        await world.publish("second", "b")

    await world.execute("outer", outer)


async def a_free_lane(world: World) -> None:
    await world.publish("only", "a", partial(turns, 3))


async def a_lane_that_others_use(world: World) -> None:
    for name in ("one", "two"):
        await world.publish(name, "a", partial(turns, 2), wait=False)
    world.others.append(asyncio.create_task(world.publish("three", "a")))
    await turns()
    await world.publish("mine", "a")
    await world.publish("mine again", "a")


async def publishing_in_handlers(world: World) -> None:
    async def deep() -> None:
        await turns()
        await world.publish("deepest", "a")

    async def work() -> None:
        await world.publish("within", "a", partial(turns, 2))
        await world.publish("beside", "b", deep)
        await asyncio.gather(world.publish("left", "a", wait=False), world.publish("right", "c"))

    await world.publish("outer", "a", work)


async def commands_of_handlers(world: World) -> None:
    async def work() -> None:
        await world.execute("within", partial(world.publish, "from within", "a"))

    await world.publish("outer", "a", work)


async def a_session(world: World) -> None:
    async with world.bus.create_session("s") as session:
        session.register_command_handler(Perform, world._perform)
        session.create_task(turns(100))
        await session.execute_with_session(Perform(work=partial(world.publish, "from a command", "s")))
        await world.publish("in the session", "s")


async def a_stream(world: World) -> None:
    async def work() -> None:
        for name in ("one", "two"):
            await world.publish(name, "a")

    async with world.bus.stream(Perform(work=work)) as stream:
        async for _ in stream:
            await turns()


async def an_awaited_stream(world: World) -> None:
    await world.bus.stream(Perform(work=partial(world.publish, "one", "a")))


async def pending_events(world: World) -> None:
    async def nested() -> None:
        await turns()
        world.pend("nested", "b")

    async def work() -> None:
        await world.execute("nested", nested)
        world.pend("first", "a", partial(turns, 2))
        world.pend("second", "a")
        world.pend("third", "b")

    await world.execute("pending", work)


async def waiting_for_events(world: World) -> None:
    for session in "aab":
        await world.publish(f"in {session}", session, partial(turns, 2), wait=False)
    await world.bus.wait_for_events()


async def stopping(world: World) -> None:
    for session in "aab":
        await world.publish(f"in {session}", session, partial(turns, 2), wait=False)
    world.others.append(asyncio.create_task(world.publish("waiting", "b")))
    await turns()
    await world.bus.stop()


SCENARIOS: list[Scenario] = [
    commands_in_commands,
    a_free_lane,
    a_lane_that_others_use,
    publishing_in_handlers,
    commands_of_handlers,
    a_session,
    a_stream,
    an_awaited_stream,
    pending_events,
    waiting_for_events,
    stopping,
]


async def within_budget(work: Awaitable[object]) -> None:
    task = asyncio.ensure_future(work)
    for _ in range(TURNS):
        if task.done():
            await task
            return
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    pytest.fail("it hangs")


def age(task: asyncio.Task[Any]) -> tuple[int, str]:
    name = task.get_name()  # Task-9, Task-10
    return len(name), name


async def perform(scenario: Scenario, cancel_at: int, *, everybody: str = "") -> tuple[World, int]:
    """Run a scenario, cancel it at a turn, and wait for what it left behind. Return how many turns it took."""
    world = World()
    await world.bus.start()

    async def call() -> None:
        try:
            await scenario(world)
        finally:
            assert current.get() is None

    caller = asyncio.create_task(call())
    me = asyncio.current_task()
    turn = 0
    while not caller.done():
        if turn == cancel_at:
            tasks = asyncio.all_tasks() - {me} if everybody else {caller}
            for task in sorted(tasks, key=age, reverse=everybody == "newest first"):
                task.cancel()
        turn += 1
        assert turn < TURNS, "it hangs"
        await asyncio.sleep(0)
    assert caller.cancelled() or caller.exception() is None
    await within_budget(asyncio.wait((caller, *world.others)))
    await within_budget(world.bus.wait_for_events())
    return world, turn


async def nothing_is_left(world: World) -> None:
    bus = world.bus
    assert bus.unfinished == 0
    assert bus.metrics.gauges["queue_size"].value == 0
    await turns(3)  # for the ends of tasks that have nothing left to do
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert current.get() is None
    if (await bus.get_stats())["running"]:
        await within_budget(world.execute("again", partial(world.publish, "and again", "a")))
        assert world.ended[-1].startswith("and again")
        await within_budget(world.bus.wait_for_events())
    assert await bus.stop() == StopReport()


def turns_of(scenario: Scenario) -> int:
    return asyncio.run(perform(scenario, -1))[1]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_whenever_the_caller_is_cancelled_nothing_accepted_is_lost(scenario: Scenario) -> None:
    async def check(cancel_at: int) -> None:
        world, _ = await perform(scenario, cancel_at)
        await nothing_is_left(world)
        assert world.bus.event_handler_errors == []
        assert sorted(world.accepted) == sorted(world.begun) == sorted(world.ended) == sorted(world.last)
        assert set(world.started.values()) <= {1}
        assert world.concluded == world.started
        counters = world.bus.metrics.counters
        commands = [counters[f"commands_{what}_total"].value for what in ("sent", "processed", "failed")]
        assert commands[0] == commands[1] + commands[2] == len(world.started)

    for turn in range(-1, turns_of(scenario)):
        asyncio.run(check(turn))


def test_a_session_that_began_ends_whenever_it_is_cancelled() -> None:
    async def check(cancel_at: int) -> None:
        world, _ = await perform(a_session, cancel_at)
        await turns(3)  # for the ends of tasks that have nothing left to do
        assert world.sessions[SessionEndEvent] == world.sessions[SessionStartEvent]
        assert (await world.bus.get_stats())["total_sessions"] == 1
        await world.bus.stop()

    for turn in range(-1, turns_of(a_session)):
        asyncio.run(check(turn))


@pytest.mark.parametrize("order", ["oldest first", "newest first"])
@pytest.mark.parametrize(
    "scenario", [a_lane_that_others_use, waiting_for_events, publishing_in_handlers, stopping], ids=lambda s: s.__name__
)
def test_when_every_task_is_cancelled_what_was_queued_is_still_delivered(scenario: Scenario, order: str) -> None:
    """As a program does that ends all that runs: the bus's tasks are among them."""

    async def check(cancel_at: int) -> None:
        world, _ = await perform(scenario, cancel_at, everybody=order)
        await nothing_is_left(world)
        assert sorted(world.begun) == sorted(world.accepted)

    for turn in range(-1, turns_of(scenario)):
        asyncio.run(check(turn))


def test_a_stop_that_is_cancelled_can_be_repeated() -> None:
    """Until the bus has stopped it runs, and does not refuse what is published."""

    async def check(cancel_at: int) -> None:
        world, _ = await perform(stopping, cancel_at)
        if (await world.bus.get_stats())["running"]:
            await world.publish("afterwards", "a")
            assert world.ended[-1].startswith("afterwards")
        await world.bus.stop()
        with pytest.raises(BusNotRunningError):
            await world.publish("too late", "a")

    for turn in range(-1, turns_of(stopping)):
        asyncio.run(check(turn))
