"""Laws 1 to 6: commands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from llmgine.bus import HandlerMiddleware, MessageBus
from llmgine.errors import ConfigurationError, HandlerAlreadyRegisteredError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import CommandErrorEvent, CommandResultEvent, CommandStartedEvent

A = SessionID("a")


@dataclass
class Add(Command[Any]):
    left: int
    right: int = 1


class AddMore(Add):
    pass


class Silent(Command[int]):
    def __init__(self, value: int) -> None:
        self.value = value  # leaves the base's __init__ out, as users do


async def add(command: Add) -> int:
    return command.left + command.right


async def test_a_plain_value_becomes_a_successful_result(bus: MessageBus) -> None:
    bus.register_command_handler(Add, add)
    command = Add(left=2, session_id=A)

    result = await bus.execute(command)

    assert (result.success, result.result, result.error) == (True, 3, None)
    assert result.command_id == command.command_id
    assert result.session_id == A


async def test_a_result_without_an_id_gets_the_commands(bus: MessageBus) -> None:
    bus.register_command_handler(Add, lambda c: CommandResult(success=True, result=c.left))
    command = Add(left=2)

    assert (await bus.execute(command)).command_id == command.command_id


async def test_a_result_with_an_id_keeps_it(bus: MessageBus) -> None:
    bus.register_command_handler(Add, lambda c: CommandResult(success=True, command_id="mine"))

    assert (await bus.execute(Add(left=2))).command_id == "mine"


class Adder:
    async def method(self, command: Add) -> int:
        return command.left

    def __call__(self, command: Add) -> int:
        return command.left


class AsyncAdder:
    async def __call__(self, command: Add) -> int:
        return command.left


@pytest.mark.parametrize(
    "handler",
    [
        lambda c: c.left,
        Adder().method,
        Adder(),
        AsyncAdder(),
        partial(lambda extra, c: c.left, "extra"),
        partial(AsyncAdder()),
    ],
    ids=["function", "method", "object", "async object", "partial", "async partial"],
)
async def test_every_kind_of_callable_may_handle(bus: MessageBus, handler: Any) -> None:
    bus.register_command_handler(Add, handler)

    assert (await bus.execute(Add(left=7))).result == 7


async def test_the_sessions_handler_answers_before_the_buses(bus: MessageBus) -> None:
    bus.register_command_handler(Add, lambda _: "bus")
    bus.register_command_handler(Add, lambda _: "session", A)

    assert (await bus.execute(Add(left=1, session_id=A))).result == "session"
    assert (await bus.execute(Add(left=1, session_id=SessionID("b")))).result == "bus"
    assert (await bus.execute(Add(left=1))).result == "bus"


async def test_the_nearest_class_answers(bus: MessageBus) -> None:
    bus.register_command_handler(Command, lambda _: "any")
    assert (await bus.execute(AddMore(left=1))).result == "any"

    bus.register_command_handler(Add, lambda _: "add")
    assert (await bus.execute(AddMore(left=1))).result == "add"

    bus.register_command_handler(AddMore, lambda _: "more")
    assert (await bus.execute(AddMore(left=1))).result == "more"
    assert (await bus.execute(Add(left=1))).result == "add"


async def test_a_sessions_base_class_handler_answers_before_the_buses_exact_one(bus: MessageBus) -> None:
    bus.register_command_handler(AddMore, lambda _: "bus")
    bus.register_command_handler(Add, lambda _: "session", A)

    assert (await bus.execute(AddMore(left=1, session_id=A))).result == "session"


async def test_a_second_handler_is_refused(bus: MessageBus) -> None:
    bus.register_command_handler(Add, add)
    bus.register_command_handler(Add, add, A)

    with pytest.raises(HandlerAlreadyRegisteredError, match=r"Add is already registered in scope BUS"):
        bus.register_command_handler(Add, add)
    with pytest.raises(ValueError, match="already registered"):
        bus.register_command_handler(Add, add, A)


@pytest.mark.parametrize(("kind", "handler"), [(int, add), ("Add", add), (Event, add), (Add, 3)])
async def test_what_cannot_be_registered_is_refused_at_once(bus: MessageBus, kind: Any, handler: Any) -> None:
    with pytest.raises(ConfigurationError):
        bus.register_command_handler(kind, handler)


async def test_execute_runs_in_the_callers_task(bus: MessageBus) -> None:
    tasks: list[Any] = []
    bus.register_command_handler(Add, lambda _: tasks.append(asyncio.current_task()))
    await bus.execute(Add(left=1))

    assert tasks == [asyncio.current_task()]


async def test_cancelling_the_caller_cancels_the_handler(bus: MessageBus) -> None:
    inside, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_: Add) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    bus.register_command_handler(Add, hang)
    task = asyncio.create_task(bus.execute(Add(left=1)))
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_a_handlers_exception_is_in_the_result(bus: MessageBus) -> None:
    async def fail(_: Add) -> int:
        raise ValueError("too large")

    bus.register_command_handler(Add, fail)
    command = Add(left=1)

    result = await bus.execute(command)

    assert (result.success, result.error) == (False, "ValueError: too large")
    assert result.command_id == command.command_id
    assert "in fail" in result.metadata["traceback"]


async def test_a_missing_handler_is_a_failed_result(bus: MessageBus) -> None:
    command = Add(left=1)

    result = await bus.execute(command)

    assert (result.success, result.error) == (False, "No handler registered for command Add")
    assert result.command_id == command.command_id


async def test_a_command_that_left_out_the_bases_init_is_whole(bus: MessageBus) -> None:
    bus.register_command_handler(Silent, lambda c: c.value)
    command = Silent(5)

    result = await bus.execute(command)

    assert result.result == 5
    assert result.command_id == command.command_id
    assert command.metadata == {}


class Twice(HandlerMiddleware):
    async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> CommandResult[Any]:
        await next_middleware(command, handler)
        result: CommandResult[Any] = await next_middleware(command, handler)
        return result


@pytest.mark.parametrize("fails", [False, True])
async def test_a_command_is_announced_once_and_concluded_once(bus: MessageBus, fails: bool) -> None:
    seen: list[Event] = []
    bus.register_event_handler(CommandStartedEvent, seen.append)
    bus.register_event_handler(CommandResultEvent, seen.append)
    bus.add_command_middleware(Twice())

    def handle(_: Add) -> int:
        if fails:
            raise ValueError
        return 1

    bus.register_command_handler(Add, handle)
    command = Add(left=1, session_id=A)
    result = await bus.execute(command)
    await bus.wait_for_events()

    started, concluded = seen
    assert isinstance(started, CommandStartedEvent)
    assert started.command is command
    assert isinstance(concluded, CommandResultEvent)
    assert concluded.command_result is result
    assert isinstance(concluded, CommandErrorEvent) is fails
    assert {event.session_id for event in seen} == {A}
    assert {event.causation_id for event in seen} == {command.command_id}


async def test_a_cancelled_command_is_concluded(bus: MessageBus) -> None:
    seen: list[CommandResultEvent] = []
    bus.register_event_handler(CommandResultEvent, seen.append)
    inside = asyncio.Event()

    async def hang(_: Add) -> None:
        inside.set()
        await asyncio.Event().wait()

    bus.register_command_handler(Add, hang)
    task = asyncio.create_task(bus.execute(Add(left=1)))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.wait_for_events()

    (concluded,) = seen
    assert concluded.command_result is not None
    assert (concluded.command_result.error or "").startswith("CancelledError")


async def test_nobody_listening_means_nothing_is_announced(bus: MessageBus) -> None:
    bus.register_command_handler(Add, add)
    await bus.execute(Add(left=1))

    assert (await bus.get_stats())["queue_size"] == 0


async def test_a_timeout_is_a_failed_result(bus: MessageBus) -> None:
    async def hang(_: Add) -> None:
        await asyncio.Event().wait()

    bus.register_command_handler(Add, hang)

    result = await bus.execute(Add(left=1), timeout=0.01)

    assert (result.success, result.error) == (False, "CommandTimeoutError: Add did not finish within 0.01 s")


async def test_the_handlers_own_timeout_is_told_from_the_deadline(bus: MessageBus) -> None:
    async def give_up(_: Add) -> None:
        raise TimeoutError("of mine")

    bus.register_command_handler(Add, give_up)

    assert (await bus.execute(Add(left=1), timeout=60)).error == "TimeoutError: of mine"


async def test_nested_commands_inherit_what_is_left(bus: MessageBus) -> None:
    inner: list[CommandResult[Any]] = []

    async def outer(_: Add) -> None:
        inner.append(await bus.execute(AddMore(left=1), timeout=60))

    async def hang(_: AddMore) -> None:
        await asyncio.Event().wait()

    bus.register_command_handler(Add, outer)
    bus.register_command_handler(AddMore, hang)

    result = await bus.execute(Add(left=1), timeout=0.01)

    assert not result.success
    assert "CommandTimeoutError" in (result.error or "")


async def test_a_command_nested_behind_an_event_inherits_the_deadline(bus: MessageBus) -> None:
    inner: list[CommandResult[Any]] = []

    class Asked(Event):
        pass

    async def outer(_: Add) -> None:
        await bus.publish(Asked())

    async def on_asked(_: Asked) -> None:
        inner.append(await bus.execute(AddMore(left=1)))

    async def hang(_: AddMore) -> None:
        await asyncio.Event().wait()

    bus.register_command_handler(Add, outer)
    bus.register_command_handler(AddMore, hang)
    bus.register_event_handler(Asked, on_asked)

    assert not (await bus.execute(Add(left=1), timeout=0.01)).success
    await bus.wait_for_events()
    assert inner[0].error == "CommandTimeoutError: AddMore did not finish within the time its caller had left"


async def test_decorators_register(bus: MessageBus) -> None:
    @bus.command_handler
    async def handle_add(command: Add) -> int:
        return command.left

    @bus.command_handler(AddMore)
    def handle_more(command: Any) -> str:
        return "more"

    @bus.command_handler(session_id=A)
    def handle_in_session(command: Add) -> str:
        return "session"

    assert (await bus.execute(Add(left=4))).result == 4
    assert (await bus.execute(AddMore(left=4))).result == "more"
    assert (await bus.execute(Add(left=4, session_id=A))).result == "session"


async def test_a_decorator_that_cannot_tell_the_command_says_so(bus: MessageBus) -> None:
    with pytest.raises(ConfigurationError, match="does not say which command"):
        bus.command_handler(lambda c: c)


async def test_the_published_names_of_registration_are_the_same_thing(bus: MessageBus) -> None:
    bus.register_async_command_handler(Add, add)

    assert (await bus.execute(Add(left=1))).result == 2
