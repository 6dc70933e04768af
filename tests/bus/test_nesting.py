"""Law 10: publishing and executing inside handlers; waiting that would never end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from llmgine.bus import MessageBus
from llmgine.errors import DeadlockError
from llmgine.messages import Command, Event, SessionID

A, B, C = SessionID("a"), SessionID("b"), SessionID("c")


@dataclass
class Step(Event):
    name: str = ""


@dataclass
class Do(Command[str]):
    name: str = ""


async def test_a_nested_publish_into_the_held_session_is_delivered_at_once(bus: MessageBus) -> None:
    log: list[str] = []

    async def handle(event: Step) -> None:
        log.append(f"{event.name} begins")
        await asyncio.sleep(0)
        if event.name == "outer":
            await bus.publish(Step(name="inner", session_id=A))
        log.append(f"{event.name} ends")

    bus.register_event_handler(Step, handle)
    outer = asyncio.create_task(bus.publish(Step(name="outer", session_id=A)))
    await asyncio.sleep(0)
    await bus.publish(Step(name="next", session_id=A))
    await outer

    assert log == ["outer begins", "inner begins", "inner ends", "outer ends", "next begins", "next ends"]


async def test_nesting_works_through_commands_and_other_sessions(bus: MessageBus) -> None:
    log: list[str] = []

    async def on_step(event: Step) -> None:
        log.append(event.name)
        if event.name == "first":
            result = await bus.execute(Do(name="work", session_id=B))
            log.append(result.result or "")

    async def do(command: Do) -> str:
        await bus.publish(Step(name="in b", session_id=B))
        await bus.publish(Step(name="back in a", session_id=A))
        return "done"

    bus.register_event_handler(Step, on_step)
    bus.register_command_handler(Do, do)
    await bus.publish(Step(name="first", session_id=A))

    assert log == ["first", "in b", "back in a", "done"]


async def test_a_task_of_a_finished_handler_no_longer_holds_its_session(bus: MessageBus) -> None:
    log: list[str] = []
    go, gate = asyncio.Event(), asyncio.Event()
    left_behind: list[asyncio.Task[None]] = []

    async def publish_later() -> None:
        await go.wait()
        await bus.publish(Step(name="late", session_id=A))

    async def handle(event: Step) -> None:
        log.append(f"{event.name} begins")
        if event.name == "first":
            left_behind.append(asyncio.create_task(publish_later()))
        if event.name == "second":
            await gate.wait()
        log.append(f"{event.name} ends")

    bus.register_event_handler(Step, handle)
    await bus.publish(Step(name="first", session_id=A))
    second = asyncio.create_task(bus.publish(Step(name="second", session_id=A)))
    await asyncio.sleep(0)
    go.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(second, *left_behind)

    assert log == ["first begins", "first ends", "second begins", "second ends", "late begins", "late ends"]


async def test_a_cycle_of_two_sessions_is_refused_at_once_and_named(bus: MessageBus) -> None:
    both = asyncio.Barrier(2)
    cycles: list[tuple[str, ...]] = []

    async def cross(event: Step) -> None:
        if event.name != "start":
            return
        await both.wait()
        other = B if event.session_id == A else A
        try:
            await bus.publish(Step(name="cross", session_id=other))
        except DeadlockError as error:
            cycles.append(error.cycle)

    bus.register_event_handler(Step, cross)
    async with asyncio.timeout(5):
        await asyncio.gather(*(bus.publish(Step(name="start", session_id=s)) for s in (A, B)))

    assert cycles in ([("a", "b", "a")], [("b", "a", "b")])


async def test_a_cycle_of_three_sessions_is_refused(bus: MessageBus) -> None:
    all_three = asyncio.Barrier(3)
    following = {A: B, B: C, C: A}
    cycles: list[DeadlockError] = []

    async def cross(event: Step) -> None:
        if event.name != "start":
            return
        await all_three.wait()
        try:
            await bus.publish(Step(name="cross", session_id=following[event.session_id]))
        except DeadlockError as error:
            cycles.append(error)

    bus.register_event_handler(Step, cross)
    async with asyncio.timeout(5):
        await asyncio.gather(*(bus.publish(Step(name="start", session_id=s)) for s in following))

    (error,) = cycles
    assert len(error.cycle) == 4
    assert error.cycle[0] == error.cycle[-1]
    assert set(error.cycle) == {"a", "b", "c"}
    assert "waits for" in str(error)


async def test_an_undetected_refusal_is_the_failure_of_the_handler(bus: MessageBus) -> None:
    both = asyncio.Barrier(2)

    async def cross(event: Step) -> None:
        if event.name == "start":
            await both.wait()
            await bus.publish(Step(name="cross", session_id=B if event.session_id == A else A))

    bus.register_event_handler(Step, cross)
    async with asyncio.timeout(5):
        await asyncio.gather(*(bus.publish(Step(name="start", session_id=s)) for s in (A, B)))

    (error,) = bus.event_handler_errors
    assert isinstance(error, DeadlockError)


async def test_waiting_one_way_is_no_cycle(bus: MessageBus) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()
    log: list[str] = []

    async def handle(event: Step) -> None:
        if event.name == "slow":
            entered.set()
            await gate.wait()
        if event.name == "start":
            await bus.publish(Step(name="into b", session_id=B))
        log.append(event.name)

    bus.register_event_handler(Step, handle)
    slow = asyncio.create_task(bus.publish(Step(name="slow", session_id=B)))
    await entered.wait()
    start = asyncio.create_task(bus.publish(Step(name="start", session_id=A)))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(slow, start)

    assert log == ["slow", "into b", "start"]


async def test_a_wait_that_was_given_up_is_no_part_of_a_cycle(bus: MessageBus) -> None:
    entered, given_up, gate = asyncio.Barrier(3), asyncio.Event(), asyncio.Event()

    async def handle(event: Step) -> None:
        if event.name == "a":
            await entered.wait()
            waiting = asyncio.create_task(bus.publish(Step(name="from a", session_id=B)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait((waiting,))
            given_up.set()
            await gate.wait()
        if event.name == "b":
            await entered.wait()
            await given_up.wait()
            waiting = asyncio.create_task(bus.publish(Step(name="from b", session_id=A)))
            await asyncio.sleep(0)
            gate.set()
            await waiting

    bus.register_event_handler(Step, handle)
    deliveries = [asyncio.create_task(bus.publish(Step(name=name, session_id=s))) for name, s in (("a", A), ("b", B))]
    await entered.wait()
    async with asyncio.timeout(5):
        await asyncio.gather(*deliveries)

    assert bus.event_handler_errors == []


async def test_not_waiting_makes_no_cycle(bus: MessageBus) -> None:
    both = asyncio.Barrier(2)
    crossed: list[str] = []

    async def cross(event: Step) -> None:
        if event.name == "cross":
            crossed.append(event.session_id)
            return
        await both.wait()
        await bus.publish(Step(name="cross", session_id=B if event.session_id == A else A), await_processing=False)

    bus.register_event_handler(Step, cross)
    await asyncio.gather(*(bus.publish(Step(name="start", session_id=s)) for s in (A, B)))
    await bus.wait_for_events()

    assert sorted(crossed) == ["a", "b"]


async def test_an_event_handler_that_waits_for_all_events_is_told(bus: MessageBus) -> None:
    async def wait(_: Step) -> None:
        await bus.wait_for_events()

    async def stop(_: Step) -> None:
        await bus.stop()

    bus.register_event_handler(Step, wait)
    bus.register_event_handler(Step, stop)
    async with asyncio.timeout(5):
        await bus.publish(Step(session_id=A))

    assert [type(error) for error in bus.event_handler_errors] == [DeadlockError] * 2
    await bus.publish(Step())


async def test_a_command_handler_may_wait_for_all_events(bus: MessageBus) -> None:
    seen: list[Event] = []
    bus.register_event_handler(Step, seen.append)

    async def do(command: Do) -> str:
        await bus.publish(Step(), await_processing=False)
        await bus.wait_for_events()
        return f"{len(seen)} seen"

    bus.register_command_handler(Do, do)
    assert (await bus.execute(Do())).result == "1 seen"


@pytest.mark.parametrize("depth", [50])
async def test_deep_nesting_is_delivered(bus: MessageBus, depth: int) -> None:
    seen: list[int] = []

    @dataclass
    class Deep(Event):
        n: int = 0

    async def dig(event: Deep) -> None:
        if event.n < depth:
            await bus.publish(Deep(n=event.n + 1, session_id=event.session_id))
        seen.append(event.n)

    bus.register_event_handler(Deep, dig)
    await bus.publish(Deep(session_id=A))

    assert seen == list(range(depth, -1, -1))
