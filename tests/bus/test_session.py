"""Laws 16 and 17: sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from llmgine.bus import BusSession, MessageBus
from llmgine.bus.session import SessionEndEvent, SessionEvent, SessionStartEvent
from llmgine.bus.tracing import SpanContext, TraceEvent
from llmgine.errors import SessionClosedError
from llmgine.messages import Command, Event


@dataclass
class Ask(Command[str]):
    pass


class Said(Event):
    pass


async def test_a_session_says_when_it_begins_and_ends(bus: MessageBus) -> None:
    seen: list[SessionEvent] = []
    bus.register_event_handler(SessionEvent, seen.append)
    async with bus.session() as session:
        assert [type(event) for event in seen] == [SessionStartEvent]

    assert [type(event) for event in seen] == [SessionStartEvent, SessionEndEvent]
    assert {event.session_id for event in seen} == {session.session_id}


async def test_leaving_removes_the_handlers_which_hear_the_end(bus: MessageBus) -> None:
    seen: list[Event] = []
    async with bus.session("s") as session:
        session.register_event_handler(Said, seen.append).register_event_handler(SessionEvent, seen.append)
        session.register_command_handler(Ask, lambda _: "here")
        await bus.publish(Said(session_id=session.session_id))
        assert (await session.execute_with_session(Ask())).result == "here"

    await bus.publish(Said(session_id=session.session_id))
    assert [type(event) for event in seen] == [Said, SessionEndEvent]
    assert not (await bus.execute(Ask(session_id=session.session_id))).success
    assert (await bus.get_stats())["total_sessions"] == 1


async def test_an_error_ends_the_session_is_reported_and_goes_on(bus: MessageBus) -> None:
    ends: list[SessionEndEvent] = []
    bus.register_event_handler(SessionEndEvent, ends.append)
    error = ValueError("no")

    async def fail() -> None:
        async with bus.session() as session:
            session.register_event_handler(Said, print)
            raise error

    with pytest.raises(ValueError, match="no"):
        await fail()

    assert ends[0].error is error
    assert (await bus.get_stats())["total_event_handlers"] == 1


async def test_executing_in_a_session_leaves_the_command_as_it_was(bus: MessageBus) -> None:
    received: list[Ask] = []
    bus.register_command_handler(Ask, received.append)
    command = Ask()
    async with bus.session("s") as session:
        await session.execute_with_session(command)

    assert command.session_id == "BUS"
    assert received[0].session_id == "s"
    assert received[0].command_id == command.command_id


@pytest.mark.parametrize("begin", [False, True])
async def test_an_inactive_session_refuses(bus: MessageBus, begin: bool) -> None:
    session = bus.create_session()
    if begin:
        async with session:
            pass

    with pytest.raises(SessionClosedError, match="not active"):
        session.register_event_handler(Said, print)
    with pytest.raises(RuntimeError):
        session.register_command_handler(Ask, print)
    with pytest.raises(SessionClosedError):
        await session.execute_with_session(Ask())
    with pytest.raises(SessionClosedError):
        session.create_task(asyncio.sleep(0))


async def test_a_session_takes_its_tasks_with_it(bus: MessageBus) -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with bus.session() as session:
        task = session.create_task(work())
        await asyncio.sleep(0)

    assert task.cancelled()
    assert ended.is_set()


async def test_events_of_the_session_are_delivered_before_its_handlers_go(bus: MessageBus) -> None:
    seen: list[Event] = []
    async with bus.session() as session:
        session.register_event_handler(Said, seen.append)
        for _ in range(5):
            await bus.publish(Said(session_id=session.session_id), await_processing=False)

    assert len(seen) == 5


async def test_ending_twice_is_harmless(bus: MessageBus) -> None:
    ends: list[Event] = []
    bus.register_event_handler(SessionEndEvent, ends.append)
    session = await bus.create_session().start()
    await session.end()
    await session.end()

    assert len(ends) == 1


async def test_a_session_without_a_bus_belongs_to_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageBus, "_application", None)

    assert BusSession().bus is MessageBus()
    assert MessageBus.isolated() is not MessageBus()


async def test_a_session_leaves_nothing_behind(bus: MessageBus) -> None:
    bus.register_event_handler(Said, lambda _: None)
    for n in range(200):
        async with bus.session(f"s{n}") as session:
            session.register_event_handler(Said, lambda _: None)
            await bus.publish(Said(session_id=session.session_id))

    assert bus._registry.get_all_sessions() == {"BUS"}
    assert bus._lanes is not None
    assert bus._lanes._lanes == {}


async def test_a_session_begins_once(bus: MessageBus) -> None:
    async with bus.session("once") as session:
        pass

    with pytest.raises(SessionClosedError, match=r"Session once has ended, and a session begins once.*create_session"):
        await session.start()


async def test_open_sessions_are_counted(bus: MessageBus) -> None:
    async with bus.session() as session:
        await session.start()
        assert bus.metrics.gauges["active_sessions"].value == 1
    await session.end()
    assert bus.metrics.gauges["active_sessions"].value == 0


async def test_a_task_of_the_session_may_end_it(bus: MessageBus) -> None:
    ended: list[SessionEndEvent] = []
    bus.register_event_handler(SessionEndEvent, ended.append)
    session = await bus.create_session().start()
    other = session.create_task(asyncio.Event().wait())
    await session.create_task(session.end())

    assert len(ended) == 1
    assert other.cancelled()


async def test_commands_of_a_session_that_somebody_traces_are_below_its_span(bus: MessageBus) -> None:
    span = SpanContext.below(None)
    spans: list[TraceEvent] = []

    def trace(event: Event) -> None:
        if isinstance(event, SessionStartEvent):
            event.traceparent = span.traceparent

    bus.add_observer(trace)
    bus.register_event_handler(TraceEvent, spans.append)
    bus.register_command_handler(Command, lambda command: None)
    async with bus.session("traced") as session:
        await session.execute_with_session(Command())
        await bus.execute(Command())
    await bus.execute(Command(session_id=session.session_id))
    await bus.wait_for_events()

    parents = [event.span_context.parent_span_id for event in spans if event.end_time is None]
    assert parents == [span.span_id, None, None]
    assert bus._session_traces == {}
