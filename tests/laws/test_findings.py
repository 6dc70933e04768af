"""Small courses of events in which a law was broken once, each by an accident of timing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.middleware import RetryMiddleware
from llmgine.bus.session import SessionEndEvent, SessionStartEvent
from llmgine.errors import BusError, BusNotRunningError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.message import Message

A, B, C = SessionID("a"), SessionID("b"), SessionID("c")


@dataclass
class Step(Event):
    name: str = ""


@dataclass
class Do(Command[None]):
    pass


@pytest.fixture
async def bus() -> AsyncIterator[MessageBus]:
    """A bus of the test's own, which does not wait for what hangs."""
    bus = MessageBus.isolated()
    await bus.start()
    yield bus
    await bus.stop(timeout=0)


class Script:
    """What the handler of each step does, by the step's name; and in which order they began and ended."""

    def __init__(self, bus: MessageBus, **does: Callable[[], Awaitable[object]]) -> None:
        self.bus, self.does = bus, does
        self.log: list[str] = []
        bus.register_event_handler(Step, self._handle)

    async def _handle(self, event: Step) -> None:
        self.log.append(f"{event.name} begins")
        if event.name in self.does:
            await self.does[event.name]()
        self.log.append(f"{event.name} ends")

    async def publish(self, name: str, session: SessionID) -> None:
        await self.bus.publish(Step(name=name, session_id=session))

    async def queue(self, name: str, session: SessionID) -> None:
        await self.bus.publish(Step(name=name, session_id=session), await_processing=False)


async def turns(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def ended(work: Awaitable[object], within: int = 100) -> bool:
    """Whether work ends within some turns of the loop; if not, it is cancelled."""
    task = asyncio.ensure_future(work)
    for _ in range(within):
        if task.done():
            await task
            return True
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    return False


# Waiting


async def test_a_wait_that_is_over_is_no_part_of_a_cycle(bus: MessageBus) -> None:
    """The next event of a lane begins before the publisher of the last one has been woken."""
    entered = asyncio.Event()

    async def first() -> None:
        entered.set()
        await script.publish("from a", B)

    async def into_a() -> None:
        await script.publish("from b", A)

    script = Script(bus, busy=entered.wait, first=first, next=into_a)
    publishing = [asyncio.create_task(script.publish("busy", B))]
    await turns(1)
    publishing.append(asyncio.create_task(script.publish("first", A)))
    await turns(1)
    await script.queue("next", B)

    assert await ended(asyncio.gather(*publishing))
    await bus.wait_for_events()
    assert bus.event_handler_errors == []
    assert "from b ends" in script.log


async def test_a_publisher_that_has_given_up_no_longer_holds_its_session_for_what_was_queued(bus: MessageBus) -> None:
    """Otherwise two events of one session are delivered at a time."""
    may_go_on = asyncio.Event()

    async def give_up() -> None:
        waiting = asyncio.create_task(script.publish("queued", B))
        await turns(1)
        waiting.cancel()
        await asyncio.wait((waiting,))
        may_go_on.set()
        await turns(20)

    script = Script(bus, busy=may_go_on.wait, impatient=give_up, queued=lambda: script.publish("back", A))
    await script.queue("busy", B)
    await turns(1)
    assert await ended(script.publish("impatient", A))
    await bus.wait_for_events()

    assert script.log.index("impatient ends") < script.log.index("back begins")


async def test_a_publisher_that_has_given_up_no_longer_holds_its_session_for_what_has_begun(bus: MessageBus) -> None:
    async def give_up() -> None:
        waiting = asyncio.create_task(script.publish("under way", B))
        await turns(1)
        waiting.cancel()
        await asyncio.wait((waiting,))
        await turns(20)

    async def under_way() -> None:
        await turns(5)
        await script.publish("back", A)

    script = Script(bus, **{"impatient": give_up, "under way": under_way})
    assert await ended(script.publish("impatient", A))
    await bus.wait_for_events()

    assert script.log.index("impatient ends") < script.log.index("back begins")


async def test_a_lane_that_is_used_again_waits_for_nobody(bus: MessageBus) -> None:
    """Its last handler was cancelled with its lane's task, and left a child behind that waits."""
    gate, crossing = asyncio.Event(), asyncio.Event()
    children: list[asyncio.Task[None]] = []

    async def leave_a_child() -> None:
        children.append(asyncio.create_task(script.publish("from the child", B)))
        await asyncio.Event().wait()

    script = Script(bus, busy=gate.wait, leaves=leave_a_child, other=crossing.wait)
    busy = asyncio.create_task(script.publish("busy", B))
    await turns(1)
    before = asyncio.all_tasks()
    await script.queue("leaves", A)
    await turns(3)
    for task in asyncio.all_tasks() - before - {*children}:
        task.cancel()
    await turns(5)
    # The lane of a is free, and c gets it.
    other = asyncio.create_task(script.publish("other", C))
    await turns(1)
    script.does["crosses"] = lambda: script.publish("into c", C)
    crosses = asyncio.create_task(script.publish("crosses", B))
    await turns(1)
    gate.set()
    await turns(10)
    crossing.set()

    assert await ended(asyncio.gather(busy, other, crosses, *children))
    assert bus.event_handler_errors == []
    assert "into c ends" in script.log


# Ends


async def test_waiting_for_events_waits_for_a_nested_one_whose_publisher_has_given_up(bus: MessageBus) -> None:
    async def give_up() -> None:
        waiting = asyncio.create_task(script.publish("inner", A))
        await turns(1)
        waiting.cancel()
        await asyncio.wait((waiting,))

    script = Script(bus, outer=give_up, inner=lambda: turns(20))
    await script.publish("outer", A)
    await bus.wait_for_events()

    assert (bus.unfinished, script.log[-1]) == (0, "inner ends")


async def test_stop_waits_for_a_nested_event_whose_publisher_has_given_up() -> None:
    bus = MessageBus.isolated()
    await bus.start()

    async def give_up() -> None:
        waiting = asyncio.create_task(script.publish("inner", A))
        await turns(1)
        waiting.cancel()
        await asyncio.wait((waiting,))

    script = Script(bus, outer=give_up, inner=lambda: turns(20))
    await script.publish("outer", A)
    report = await bus.stop()

    assert (report.delivered, report.abandoned, script.log[-1]) == (1, 0, "inner ends")


async def test_what_is_accepted_while_stop_cancels_handlers_is_delivered_or_reported() -> None:
    """A handler that is cancelled publishes once more; that may as well be refused."""
    bus = MessageBus.isolated()
    await bus.start()
    accepted = ["works"]

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await script.queue("cleaned up", A)
            accepted.append("cleaned up")

    script = Script(bus, works=clean_up)
    await script.queue("works", A)
    await turns(2)
    report = await bus.stop(timeout=0)

    assert script.log.count("cleaned up ends") + report.abandoned == len(accepted)


# Cancelling


async def test_a_handler_that_was_cancelled_holds_up_nobody(bus: MessageBus) -> None:
    """Cancelling a handler's task, from within or without, ends that handler, not the lane."""

    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    script = Script(bus, bad=cancel_itself)
    await script.queue("bad", A)

    assert await ended(script.publish("good", A))
    assert script.log == ["bad begins", "good begins", "good ends"]


async def test_a_handler_that_was_cancelled_silences_no_other(bus: MessageBus) -> None:
    heard: list[Event] = []

    async def cancel_itself(_: Step) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    bus.register_event_handler(Step, cancel_itself)
    bus.register_event_handler(Step, heard.append, priority=90)
    event = Step()
    await bus.publish(event)

    assert heard == [event]


@pytest.mark.parametrize("before_the_cancelling", [0, 1, 3])
async def test_a_lane_whose_task_is_cancelled_goes_on(bus: MessageBus, before_the_cancelling: int) -> None:
    """Also one whose task had not begun yet."""
    script = Script(bus, first=lambda: turns(5))
    before = asyncio.all_tasks()
    for name in ("first", "second"):
        await script.queue(name, A)
    await turns(before_the_cancelling)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await turns(5)

    assert await ended(bus.wait_for_events())
    assert script.log[-1] == "second ends"
    assert await ended(script.publish("third", A))


@pytest.mark.parametrize("before_the_cancelling", [0, 1, 3])
async def test_who_waits_for_an_event_gets_it_also_when_its_lanes_task_is_cancelled(
    bus: MessageBus, before_the_cancelling: int
) -> None:
    script = Script(bus, first=lambda: turns(5))
    before = asyncio.all_tasks()
    await script.queue("first", A)
    lanes = asyncio.all_tasks() - before
    waiting = asyncio.create_task(script.publish("second", A))
    await turns(before_the_cancelling)
    for task in lanes:
        task.cancel()

    assert await ended(waiting)
    assert script.log[-1] == "second ends"


async def test_a_session_that_is_cancelled_while_it_begins_also_ends(bus: MessageBus) -> None:
    heard: list[type[Event]] = []

    async def note(event: Event) -> None:
        await turns(2)
        heard.append(type(event))

    async def use() -> None:
        async with bus.create_session("a"):
            await turns(5)

    bus.register_event_handler(SessionStartEvent, note)
    bus.register_event_handler(SessionEndEvent, note)
    using = asyncio.create_task(use())
    await turns(1)
    using.cancel()
    await asyncio.wait((using,))
    await bus.wait_for_events()

    assert heard == [SessionStartEvent, SessionEndEvent]


async def test_a_session_that_is_cancelled_while_it_waits_for_its_tasks_ends(bus: MessageBus) -> None:
    heard: list[Event] = []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns(5)

    async def use() -> None:
        async with bus.create_session("a") as session:
            session.create_task(slow_to_end())
            await turns(1)

    bus.register_event_handler(SessionEndEvent, heard.append)
    using = asyncio.create_task(use())
    await turns(4)
    using.cancel()
    await asyncio.wait((using,))
    await bus.wait_for_events()

    assert len(heard) == 1


async def test_a_sessions_handlers_hear_its_end_also_when_that_is_cancelled(bus: MessageBus) -> None:
    heard: list[Event] = []
    gate = asyncio.Event()

    async def use() -> None:
        async with bus.create_session("a") as session:
            session.register_event_handler(SessionEndEvent, heard.append)
            await script.queue("busy", A)

    script = Script(bus, busy=gate.wait)
    using = asyncio.create_task(use())
    await turns(5)
    using.cancel()
    await asyncio.wait((using,))
    gate.set()
    await bus.wait_for_events()

    assert len(heard) == 1


# Pending events


async def test_what_a_failed_attempt_left_pending_is_dropped_also_when_the_commands_id_was_read(
    bus: MessageBus,
) -> None:
    tried: list[str] = []
    heard: list[str] = []

    def fail_at_first(command: Do) -> None:
        tried.append(command.command_id)
        bus.add_pending_event(Step(name=f"attempt {len(tried)}"))
        if len(tried) == 1:
            raise ValueError

    bus.add_command_middleware(RetryMiddleware(retry_delay=0))
    bus.register_command_handler(Do, fail_at_first)
    bus.register_event_handler(Step, lambda event: heard.append(event.name))
    assert (await bus.execute(Do())).success

    assert heard == ["attempt 2"]


async def test_a_command_that_is_cancelled_after_its_handler_has_succeeded_loses_no_pending_event(
    bus: MessageBus,
) -> None:
    def leave(_: Do) -> None:
        for name in ("one", "two", "three"):
            bus.add_pending_event(Step(name=name))

    script = Script(bus, one=lambda: turns(3))
    bus.register_command_handler(Do, leave)
    executing = asyncio.create_task(bus.execute(Do()))
    await turns(1)
    executing.cancel()
    await asyncio.wait((executing,))
    await bus.wait_for_events()

    assert [entry for entry in script.log if "ends" in entry] == ["one ends", "two ends", "three ends"]


async def test_a_handlers_child_leaves_no_pending_event_to_whichever_handler_ends_next(bus: MessageBus) -> None:
    """Where an event has several handlers, it cannot be told whose child it is, and so that is refused."""
    refused: list[BusError] = []
    heard: list[Event] = []

    async def add() -> None:
        with pytest.raises(BusError) as raised:
            bus.add_pending_event(Event(session_id=B))
        refused.append(raised.value)

    async def with_a_child(_: Step) -> None:
        await asyncio.create_task(add())

    bus.register_event_handler(Step, with_a_child)
    bus.register_event_handler(Event, heard.append, B)
    await bus.publish(Step(session_id=A))
    await bus.wait_for_events()

    assert len(refused) == 1
    assert heard == []


# Figures


async def test_what_is_refused_is_not_counted_as_published() -> None:
    bus = MessageBus.isolated()
    await bus.start()
    await bus.stop()
    with pytest.raises(BusNotRunningError):
        await bus.publish(Step())

    assert bus.metrics.counters["events_published_total"].value == 0


# Loops and threads


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks begin at once only where the loop can make such")
async def test_queued_events_are_delivered_on_a_loop_whose_tasks_begin_at_once(bus: MessageBus) -> None:
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # 3.12
    heard: list[tuple[str, str]] = []

    async def hear(event: Step) -> None:
        await asyncio.sleep(0)
        heard.append((event.name, event.session_id))

    bus.register_event_handler(Step, hear)
    for name, session in (("one", A), ("two", A), ("three", B)):
        await bus.publish(Step(name=name, session_id=session), await_processing=False)
    assert heard == []
    await bus.wait_for_events()

    assert sorted(heard) == [("one", A), ("three", B), ("two", A)]


class Plain(Event):
    """With an `__init__` of its own, which fills nothing in."""

    def __init__(self) -> None:
        pass


READS: list[Callable[[Message], object]] = [
    lambda message: message.id,
    lambda message: message.correlation_id,
    lambda message: message.timestamp and message.id,
    lambda message: message.metadata.setdefault("readers", []).append(1) or message.id,
]
KINDS: dict[str, Callable[[], Message]] = {
    "event": Event,
    "own __init__": Plain,
    "result": lambda: CommandResult(success=True),
}


def read_with_another_between(message: Message, first: int, second: int, line: int) -> tuple[set[object], bool]:
    """Read a message, and at some line of that once more. Return the ids seen, and whether there is that line."""
    seen: set[object] = set()
    lines = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal lines
        if what == "line":
            lines += 1
            if lines == line:
                sys.settrace(None)
                seen.add(READS[second](message))
                sys.settrace(trace)
        return trace if "messages" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        seen.add(READS[first](message))
    finally:
        sys.settrace(before)
    return seen | {message.id}, lines >= line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", range(len(READS)))
@pytest.mark.parametrize("first", range(len(READS)))
def test_a_message_that_another_thread_reads_in_between_has_one_id_and_one_metadata(
    first: int, second: int, kind: str
) -> None:
    """Whatever line one thread has come to when another one reads."""
    line, within = 1, True
    while within:
        message = KINDS[kind]()
        seen, within = read_with_another_between(message, first, second, line)
        assert len(seen) == 1, f"at line {line}"
        assert sum(message.metadata.get("readers", [])) == (first == 3) + (second == 3 and within)
        line += 1
    assert line > 2
