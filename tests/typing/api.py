"""Law 5: types flow. This file is checked by mypy and pyright, and never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from llmgine import Command, CommandResult, Event, MessageBus
from llmgine.bus import BusSession, EventStream, StopReport
from llmgine.bus.interfaces import IHandlerRegistry, IMessageBus
from llmgine.bus.registry import HandlerRegistry
from llmgine.messages.bus import message_bus
from llmgine.messages.commands import CreateResourceCommand
from llmgine.messages.events import ResourceCreatedEvent
from llmgine.messages.handlers import ResourceStore, register_handlers


@dataclass
class Add(Command[int]):
    left: int
    right: int = 0


@dataclass
class Added(Event):
    total: int


class Untyped(Command):  # type: ignore[type-arg]  # allowed, and then anything may come back
    pass


async def check(bus: MessageBus, session: BusSession) -> None:
    result = await bus.execute(Add(left=1))
    assert_type(result, CommandResult[int])
    assert_type(result.result, int | None)
    assert_type(await session.execute_with_session(Add(left=1)), CommandResult[int])

    stream = bus.stream(Add(left=1))
    assert_type(stream, EventStream[int])
    assert_type(await stream, CommandResult[int])
    async for event in stream:
        assert_type(event, Event)

    @bus.command_handler
    async def add(command: Add) -> int:
        return command.left + command.right

    assert_type(await add(Add(left=1)), int)

    @bus.on(Added)
    def on_added(event: Added) -> None:
        assert_type(event.total, int)

    assert_type(on_added(Added(total=1)), None)
    assert_type(await bus.stop(), StopReport)

    Add()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a required field is missing
    bus.register_command_handler(Added, add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no command


def check_protocols(bus: MessageBus, registry: HandlerRegistry) -> tuple[IMessageBus, IHandlerRegistry]:
    return bus, registry


async def check_synchronous() -> None:
    assert_type(message_bus.dispatch(Add(left=1)), int)
    assert_type(await message_bus.dispatch_async(Add(left=1)), int)
    assert_type(message_bus.dispatch(CreateResourceCommand("note", {"text": "hello"})), str)
    assert_type(register_handlers(), ResourceStore)

    def on_created(event: ResourceCreatedEvent) -> None:
        assert_type(event.resource_data["text"], Any)

    message_bus.subscribe_event("resource.created", on_created)
    message_bus.subscribe_event(ResourceCreatedEvent, on_created)
    message_bus.subscribe_event(1, on_created)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # neither
