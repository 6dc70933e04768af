"""Pending events are published exactly when the handler that added them has succeeded, in the order of adding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus, StopReport
from llmgine.bus.middleware import LoggingMiddleware, RetryMiddleware
from llmgine.errors import BusError
from llmgine.messages import Command, CommandResult, Event, SessionID

RETRIES = 2
A = SessionID("a")


@dataclass(frozen=True)
class Sleep:
    turns: int


@dataclass(frozen=True)
class Add:
    number: int


@dataclass(frozen=True)
class Read:
    """Look at the id of the message that is handled, which has it written out."""


@dataclass(frozen=True)
class Child:
    steps: tuple[Step, ...]
    """What a task does that the handler awaits."""


@dataclass(frozen=True)
class Attempt:
    steps: tuple[Step, ...]
    ends: str


@dataclass(frozen=True)
class Nested:
    attempts: tuple[Attempt, ...]
    """What the handler of a command does, at the first attempt and the next ones."""


Step: TypeAlias = Sleep | Add | Read | Child | Nested


@dataclass
class Added(Event):
    number: int = 0


@dataclass
class Act(Command[None]):
    attempts: tuple[Attempt, ...] = ()
    tried: Iterator[int] = field(default_factory=count)


@dataclass
class Occurred(Event):
    handlers: tuple[Attempt, ...] = ()


@st.composite
def steps_of(draw: st.DrawFn, depth: int = 2) -> tuple[Step, ...]:
    numbers = count(1)

    def upto(most: int) -> int:
        return draw(st.integers(0, most))

    def several(depth: int) -> tuple[Step, ...]:
        return tuple(step(depth) for _ in range(upto(3)))

    def attempt(depth: int) -> Attempt:
        return Attempt(several(depth), ("well", "well", "raising", "reporting")[upto(3)])

    def step(depth: int) -> Step:
        match upto(6 if depth else 4):
            case 0:
                return Sleep(upto(2))
            case 1:
                return Read()
            case 5:
                return Child(several(depth - 1))
            case 6:
                return Nested(tuple(attempt(depth - 1) for _ in range(RETRIES + 1)))
            case _:
                return Add(next(numbers))

    return tuple(step(depth) for _ in range(3))


def attempts(least: int, most: int) -> st.SearchStrategy[tuple[Attempt, ...]]:
    ends = st.sampled_from(["well", "raising", "reporting"])
    return st.lists(st.builds(Attempt, steps_of(), ends), min_size=least, max_size=most).map(tuple)


class Publishing:
    """A bus whose handlers do as they are told."""

    def __init__(self) -> None:
        self.bus = MessageBus.isolated()
        self.delivered: list[int] = []
        self.bus.register_command_handler(Act, self._act)
        self.bus.register_event_handler(Added, self._note)

    async def take(self, steps: tuple[Step, ...], message: Event | Command[None], *, child: bool = False) -> None:
        for step in steps:
            match step:
                case Sleep(turns):
                    for _ in range(turns):
                        await asyncio.sleep(0)
                case Add(number) if child and isinstance(message, Event):
                    with pytest.raises(BusError, match="cannot be told"):
                        self.bus.add_pending_event(Added(number=number, session_id=A))
                case Add(number):
                    self.bus.add_pending_event(Added(number=number, session_id=A))
                case Read():
                    assert message.id
                case Child(inner):
                    await asyncio.create_task(self.take(inner, message, child=True))
                case Nested(tries):
                    await self.bus.execute(Act(attempts=tries))

    async def _act(self, command: Act) -> CommandResult[None] | None:
        attempt = command.attempts[next(command.tried)]
        await self.take(attempt.steps, command)
        if attempt.ends == "raising":
            raise ValueError
        return CommandResult(success=False, error="no") if attempt.ends == "reporting" else None

    async def _note(self, event: Added) -> None:
        await asyncio.sleep(0)
        self.delivered.append(event.number)


def own(steps: tuple[Step, ...], *, children: bool) -> list[int]:
    """What steps leave pending for the handler whose steps they are, which may be its children's too."""
    added: list[int] = []
    for step in steps:
        if isinstance(step, Add):
            added.append(step.number)
        elif isinstance(step, Child) and children:
            added += own(step.steps, children=True)
    return added


def of_commands(steps: tuple[Step, ...], tries: int) -> list[int]:
    """What the commands publish that are executed in steps."""
    published: list[int] = []
    for step in steps:
        if isinstance(step, Child):
            published += of_commands(step.steps, tries)
        elif isinstance(step, Nested):
            published += of_command(step.attempts, tries)
    return published


def of_command(attempts: tuple[Attempt, ...], tries: int) -> list[int]:
    published: list[int] = []
    for attempt in attempts[:tries]:
        published += of_commands(attempt.steps, tries)
        if attempt.ends == "well":
            return published + own(attempt.steps, children=True)
    return published


async def nothing(_: float) -> None:
    await asyncio.sleep(0)


@pytest.mark.usefixtures("quiet")
@given(attempts(RETRIES + 1, RETRIES + 1), st.sampled_from(["", "retry", "log, retry", "retry, log"]), st.booleans())
def test_those_of_a_command_are_handled_when_it_has_ended_and_only_those_of_what_succeeded(
    run_to_end: Callable[[Coroutine[Any, Any, None]], None], attempts: tuple[Attempt, ...], layers: str, limited: bool
) -> None:
    async def main() -> None:
        this = Publishing()
        await this.bus.start()
        for layer in layers.split(", ") if layers else ():
            retry = RetryMiddleware(RETRIES, sleep=nothing)
            this.bus.add_command_middleware(retry if layer == "retry" else LoggingMiddleware())
        tries = RETRIES + 1 if layers else 1
        result = await this.bus.execute(Act(attempts=attempts), timeout=1000 if limited else None)

        assert this.delivered == of_command(attempts, tries)
        assert result.success == any(attempt.ends == "well" for attempt in attempts[:tries])
        assert await this.bus.stop() == StopReport()
        assert this.delivered == of_command(attempts, tries)

    run_to_end(main())


def in_order(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(number in rest for number in part)


def numbered_apart(handlers: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Give each handler numbers of its own."""

    def shift(steps: tuple[Step, ...], by: int) -> tuple[Step, ...]:
        return tuple(shifted(step, by) for step in steps)

    def shifted(step: Step, by: int) -> Step:
        match step:
            case Add(number):
                return Add(number + by)
            case Child(inner):
                return Child(shift(inner, by))
            case Nested(tries):
                return Nested(tuple(Attempt(shift(each.steps, by), each.ends) for each in tries))
            case _:
                return step

    return tuple(Attempt(shift(each.steps, 1000 * n), each.ends) for n, each in enumerate(handlers))


@pytest.mark.usefixtures("quiet")
@settings(max_examples=200)
@given(attempts(1, 4).map(numbered_apart), st.booleans(), st.booleans())
def test_those_of_each_handler_of_an_event_are_published_if_that_one_succeeds(
    run_to_end: Callable[[Coroutine[Any, Any, None]], None], handlers: tuple[Attempt, ...], wait: bool, same_lane: bool
) -> None:
    async def main() -> None:
        this = Publishing()
        await this.bus.start()
        for index in range(len(handlers)):
            this.bus.register_event_handler(Occurred, handler(this, index), priority=50 + index // 3)
        await this.bus.publish(
            Occurred(handlers=handlers, session_id=A if same_lane else SessionID("b")), await_processing=wait
        )
        await this.bus.wait_for_events()

        expected = [
            of_commands(each.steps, 1) + own(each.steps, children=False) * (each.ends == "well") for each in handlers
        ]
        assert sorted(this.delivered) == sorted(chain.from_iterable(expected))
        for each in handlers:
            assert each.ends != "well" or in_order(own(each.steps, children=False), this.delivered)
            assert in_order(of_commands(each.steps, 1), this.delivered)
        assert await this.bus.stop() == StopReport()

    def handler(this: Publishing, index: int) -> Callable[[Occurred], Awaitable[None]]:
        async def handle(event: Occurred) -> None:
            await this.take(event.handlers[index].steps, event)
            if event.handlers[index].ends != "well":
                raise ValueError

        return handle

    run_to_end(main())
