"""So many at the same time, in order, and no place is ever lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.resilience import ConcurrencyLimitMiddleware
from llmgine.errors import ConfigurationError, QueueFullError
from llmgine.messages import Command, CommandResult


class Do(Command[Any]):
    pass


class Other(Command[Any]):
    pass


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fails", [False, True])
async def test_no_more_than_the_limit_run_at_once_and_they_begin_in_order(bus: MessageBus, fails: bool) -> None:
    running: list[Do] = []
    begun: list[Do] = []
    most = 0

    async def handle(command: Do) -> None:
        nonlocal most
        begun.append(command)
        running.append(command)
        most = max(most, len(running))
        await turns(3)
        running.remove(command)
        if fails:
            raise ValueError("no")

    bus.add_command_middleware(ConcurrencyLimitMiddleware(2))
    bus.register_command_handler(Do, handle)
    commands = [Do() for _ in range(7)]
    results = await asyncio.gather(*map(bus.execute, commands))

    assert most == 2
    assert [each.command_id for each in begun] == [each.command_id for each in commands]
    assert {each.success for each in results} == {not fails}


async def test_each_type_has_places_of_its_own(bus: MessageBus) -> None:
    async def nested(_: Other) -> Any:
        return (await bus.execute(Do())).result

    bus.add_command_middleware(ConcurrencyLimitMiddleware(1))
    bus.register_command_handler(Do, lambda _: 1)
    bus.register_command_handler(Other, nested)

    assert (await bus.execute(Other())).result == 1


async def test_what_finds_no_room_to_wait_fails_at_once(bus: MessageBus) -> None:
    release = asyncio.Event()
    layer = ConcurrencyLimitMiddleware(1, max_waiting=1)
    bus.add_command_middleware(layer)
    bus.register_command_handler(Do, lambda _: release.wait())
    first, second = (asyncio.create_task(bus.execute(Do())) for _ in range(2))
    await turns(3)
    third = await bus.execute(Do())
    release.set()

    assert (await first).success
    assert (await second).success
    assert isinstance(third.exception, QueueFullError)
    assert (third.exception.maxsize, layer.refused) == (1, 1)
    assert (await bus.execute(Do())).success


@given(
    limit=st.integers(1, 3),
    plan=st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.none() | st.integers(0, 12)), max_size=12),
)
def test_whoever_is_cancelled_whenever_no_place_is_lost(limit: int, plan: list[Any]) -> None:
    """Each command runs so many turns, fails or not, and is cancelled after so many turns of the loop, or not."""
    layer = ConcurrencyLimitMiddleware(limit)
    running = most = 0

    async def work(long: int, fails: bool) -> CommandResult[Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await turns(long)
            if fails:
                raise ValueError
        finally:
            running -= 1
        return CommandResult(success=True)

    async def scenario() -> None:
        tasks = [
            asyncio.create_task(
                layer.process_command(Do(), print, lambda c, h, long=long, fails=fails: work(long, fails))  # type: ignore[misc]
            )
            for long, fails, _ in plan
        ]
        for turn in range(14):
            for task, (_, _, cancelled) in zip(tasks, plan, strict=True):
                if cancelled == turn:
                    task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())

    assert most <= limit
    for places in layer.places.values():
        assert (places.free, places.waiting) == (limit, 0)


@pytest.mark.parametrize("limits", [(0,), (1.5,), (None,), (1, -1), (1, "2")])
def test_limits_that_make_no_sense_are_refused(limits: Any) -> None:
    with pytest.raises(ConfigurationError):
        ConcurrencyLimitMiddleware(*limits)
