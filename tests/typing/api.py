"""Law 5: types flow. This file is checked by mypy and pyright, and never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from llmgine import Command, CommandResult, Event, MessageBus
from llmgine.bus import BusSession, EventStream, StopReport


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
