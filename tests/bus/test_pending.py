"""Pending events: published when the handler that left them has succeeded, dropped when it has failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.interfaces import CommandHandler
from llmgine.bus.middleware import RetryMiddleware
from llmgine.errors import BusError, BusNotRunningError
from llmgine.messages import Command, CommandResult, Event


@dataclass
class Do(Command[int]):
    fail: bool = False


@dataclass
class Inner(Command[int]):
    fail: bool = False


@dataclass
class Done(Event):
    n: int = 0


@dataclass
class Trigger(Event):
    pass


@pytest.fixture
def heard(bus: MessageBus) -> list[int]:
    heard: list[int] = []

    async def note(event: Done) -> None:
        await asyncio.sleep(0)
        heard.append(event.n)

    bus.register_event_handler(Done, note)
    return heard


def leave(bus: MessageBus, *numbers: int, raises: bool = False, answers: bool = True) -> CommandHandler:
    async def handle(command: Do) -> CommandResult[int]:
        for n in numbers:
            bus.add_pending_event(Done(n=n))
            await asyncio.sleep(0)
        if raises:
            raise ValueError
        return CommandResult(success=answers)

    return handle


async def test_they_have_been_handled_when_execute_returns(bus: MessageBus, heard: list[int]) -> None:
    bus.register_command_handler(Do, leave(bus, 1, 2, 3))
    await bus.execute(Do())

    assert heard == [1, 2, 3]


@pytest.mark.parametrize("how", [{"raises": True}, {"answers": False}])
async def test_they_are_dropped_when_the_handler_fails(bus: MessageBus, heard: list[int], how: dict[str, bool]) -> None:
    bus.register_command_handler(Do, leave(bus, 1, **how))
    await bus.execute(Do())
    await bus.wait_for_events()

    assert heard == []


async def test_a_cancelled_handler_leaves_none(bus: MessageBus, heard: list[int]) -> None:
    left = asyncio.Event()

    async def handle(_: Do) -> None:
        bus.add_pending_event(Done())
        left.set()
        await asyncio.Event().wait()

    bus.register_command_handler(Do, handle)
    running = asyncio.create_task(bus.execute(Do()))
    await left.wait()
    running.cancel()
    await asyncio.wait((running,))
    await bus.wait_for_events()

    assert heard == []
    assert not bus._pending


async def test_only_what_the_last_attempt_left_is_published(bus: MessageBus, heard: list[int]) -> None:
    attempts = 0

    def handle(_: Do) -> None:
        nonlocal attempts
        attempts += 1
        bus.add_pending_event(Done(n=attempts))
        if attempts < 3:
            raise ValueError

    bus.add_command_middleware(RetryMiddleware(retry_delay=0))
    bus.register_command_handler(Do, handle)
    assert (await bus.execute(Do())).success

    assert heard == [3]


async def test_a_timeout_drops_them(bus: MessageBus, heard: list[int]) -> None:
    async def handle(_: Do) -> None:
        bus.add_pending_event(Done())
        await asyncio.Event().wait()

    bus.register_command_handler(Do, handle)
    await bus.execute(Do(), timeout=0.01)
    await bus.wait_for_events()

    assert heard == []


@pytest.mark.parametrize("inner_fails", [False, True])
@pytest.mark.parametrize("outer_fails", [False, True])
async def test_a_nested_command_answers_for_its_own(
    bus: MessageBus, heard: list[int], inner_fails: bool, outer_fails: bool
) -> None:
    async def outer(command: Do) -> None:
        bus.add_pending_event(Done(n=1))
        await bus.execute(Inner(fail=inner_fails))
        bus.add_pending_event(Done(n=3))
        if command.fail:
            raise ValueError

    def inner(command: Inner) -> None:
        bus.add_pending_event(Done(n=2))
        if command.fail:
            raise ValueError

    bus.register_command_handler(Do, outer)
    bus.register_command_handler(Inner, inner)
    await bus.execute(Do(fail=outer_fails))
    await bus.wait_for_events()

    assert heard == [2] * (not inner_fails) + [1, 3] * (not outer_fails)


async def test_tasks_and_threads_of_a_commands_handler_may_leave_some(bus: MessageBus, heard: list[int]) -> None:
    async def child(n: int) -> None:
        bus.add_pending_event(Done(n=n))

    async def handle(_: Do) -> None:
        await asyncio.gather(child(1), child(2))
        await asyncio.to_thread(bus.add_pending_event, Done(n=3))

    bus.register_command_handler(Do, handle)
    await bus.execute(Do())
    assert heard == [1, 2, 3]


async def test_tasks_and_threads_of_an_events_handler_may_not(bus: MessageBus, heard: list[int]) -> None:
    """The event may have other handlers, and nobody could tell whose they are."""

    async def child() -> None:
        bus.add_pending_event(Done())

    async def in_a_task(_: Trigger) -> None:
        await asyncio.create_task(child())

    async def in_a_thread(_: Trigger) -> None:
        await asyncio.to_thread(bus.add_pending_event, Done())

    bus.register_event_handler(Trigger, in_a_task)
    bus.register_event_handler(Trigger, in_a_thread)
    await bus.publish(Trigger())
    await bus.wait_for_events()
    assert heard == []
    assert all("cannot be told which handler" in str(error) for error in bus.event_handler_errors)
    assert len(bus.event_handler_errors) == 2


@pytest.mark.parametrize("waits", [False, True])
async def test_each_handler_of_an_event_answers_for_its_own(bus: MessageBus, heard: list[int], waits: bool) -> None:
    def handler(n: int, fails: bool) -> None:
        async def handle(_: Trigger) -> None:
            bus.add_pending_event(Done(n=n))
            if waits:
                await asyncio.sleep(0)
            if fails:
                raise ValueError

        bus.register_event_handler(Trigger, handle)

    handler(1, fails=False)
    handler(2, fails=True)
    handler(3, fails=False)
    await bus.publish(Trigger())
    await bus.wait_for_events()

    assert heard == [1, 3]


async def test_they_know_what_caused_them(bus: MessageBus) -> None:
    seen: list[Done] = []
    bus.register_event_handler(Done, seen.append)
    bus.register_command_handler(Do, leave(bus, 1))
    command = Do()
    await bus.execute(command)

    assert (seen[0].causation_id, seen[0].correlation_id) == (command.command_id, command.command_id)


async def test_inside_an_event_handler_they_wait_for_their_turn(bus: MessageBus, heard: list[int]) -> None:
    async def hear(_: Trigger) -> None:
        await bus.execute(Do())
        assert heard == []

    bus.register_command_handler(Do, leave(bus, 1))
    bus.register_event_handler(Trigger, hear)
    await bus.publish(Trigger())
    await bus.wait_for_events()

    assert heard == [1]
    assert bus.event_handler_errors == []


async def test_before_the_start_they_are_kept_for_it() -> None:
    bus = MessageBus.isolated()
    seen: list[Done] = []
    bus.register_event_handler(Done, seen.append)
    bus.register_command_handler(Do, leave(bus, 1))
    await bus.execute(Do())
    assert seen == []
    await bus.start()
    await bus.stop()

    assert len(seen) == 1


async def test_outside_of_any_handler_there_is_nothing_to_wait_for(bus: MessageBus) -> None:
    with pytest.raises(BusError, match="No handler is running that Done could wait for; publish it"):
        bus.add_pending_event(Done())


async def test_a_stopped_bus_takes_none() -> None:
    bus = MessageBus.isolated()
    bus.register_command_handler(Do, leave(bus, 1))
    await bus.start()
    await bus.stop()

    result = await bus.execute(Do())
    assert isinstance(result.exception, BusNotRunningError)


async def test_what_a_handler_left_when_the_bus_was_stopped_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    bus = MessageBus.isolated()
    await bus.start()

    async def handle(_: Do) -> None:
        bus.add_pending_event(Done())
        await asyncio.create_task(bus.stop())

    bus.register_command_handler(Do, handle)
    assert (await bus.execute(Do())).success
    assert "stopped with 1 pending events whose handlers had not succeeded" in caplog.text


async def test_what_is_added_too_late_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    bus = MessageBus.isolated()
    await bus.start()
    gate = asyncio.Event()
    late: list[asyncio.Task[None]] = []

    async def add() -> None:
        await gate.wait()
        bus.add_pending_event(Done())

    async def handle(_: Do) -> None:
        late.append(asyncio.create_task(add()))

    bus.register_command_handler(Do, handle)
    await bus.execute(Do())
    gate.set()
    await late[0]
    await bus.stop()

    assert "stopped with 1 pending events whose handlers had not succeeded" in caplog.text
