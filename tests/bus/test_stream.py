"""`bus.stream`: a command as the events that it causes."""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass

import pytest

from llmgine.bus import MessageBus
from llmgine.errors import BusError
from llmgine.messages import Command, Event


@dataclass
class Count(Command[str]):
    to: int = 3


@dataclass
class Counted(Event):
    n: int = 0


@pytest.fixture
def counting(bus: MessageBus) -> MessageBus:
    async def count(command: Count) -> str:
        for n in range(command.to):
            await bus.publish(Counted(n=n))
            await asyncio.sleep(0)
        return "done"

    bus.register_command_handler(Count, count)
    return bus


async def test_a_stream_yields_the_events_in_order_and_then_has_the_result(counting: MessageBus) -> None:
    stream = counting.stream(Count())
    seen = [event.n async for event in stream if isinstance(event, Counted)]

    assert seen == [0, 1, 2]
    assert stream.result.result == "done"
    assert (await stream).result == "done"


async def test_events_come_as_they_happen(bus: MessageBus) -> None:
    gate = asyncio.Event()

    async def count(_: Count) -> None:
        await bus.publish(Counted(n=1))
        await gate.wait()

    bus.register_command_handler(Count, count)
    stream = bus.stream(Count())
    async for event in stream:
        assert isinstance(event, Counted)
        assert not gate.is_set()
        gate.set()

    assert stream.result.success


async def test_only_events_of_the_chain_are_seen_also_through_queues(bus: MessageBus) -> None:
    @dataclass
    class Followed(Event):
        pass

    async def count(_: Count) -> None:
        await bus.publish(Counted(), await_processing=False)
        await bus.wait_for_events()

    async def follow(_: Counted) -> None:
        await bus.publish(Followed())

    bus.register_command_handler(Count, count)
    bus.register_event_handler(Counted, follow)
    stream = bus.stream(Count())
    seen = []
    async for event in stream:
        seen.append(type(event))
        await bus.publish(Counted(n=99))

    assert seen == [Counted, Followed]


@pytest.mark.parametrize("read_before", [False, True])
async def test_an_event_that_names_the_chain_itself_belongs_to_it(bus: MessageBus, read_before: bool) -> None:
    command = Count()

    async def count(_: Count) -> None:
        stranger = Counted(n=1)
        stranger.correlation_id = command.correlation_id
        await asyncio.create_task(bus.publish(stranger), context=Context())

    bus.register_command_handler(Count, count)
    if read_before:
        assert command.command_id
    assert [type(event) async for event in bus.stream(command)] == [Counted]


async def test_streams_of_one_chain_end_one_after_the_other(bus: MessageBus) -> None:
    first_has_ended = asyncio.Event()

    async def count(command: Count) -> None:
        if command.to == 1:
            await first_has_ended.wait()
        await bus.publish(Counted(n=command.to))

    async def read(command: Count) -> list[int]:
        return [event.n async for event in bus.stream(command) if isinstance(event, Counted)]

    bus.register_command_handler(Count, count)
    longer, shorter = Count(to=1), Count(to=2)
    shorter.correlation_id = longer.correlation_id
    reader = asyncio.create_task(read(longer))
    await asyncio.sleep(0)
    assert await read(shorter) == [2]
    first_has_ended.set()

    assert await reader == [2, 1]
    assert bus._gate._streams == {}
    assert bus._gate._written == {}


async def test_a_stream_within_a_handler_shows_the_chain_of_the_handler(bus: MessageBus) -> None:
    @dataclass
    class Outer(Command[list[int]]):
        pass

    async def outer(_: Outer) -> list[int]:
        return [event.n async for event in bus.stream(Count(to=2)) if isinstance(event, Counted)]

    async def count(command: Count) -> None:
        for n in range(command.to):
            await bus.publish(Counted(n=n))

    bus.register_command_handler(Outer, outer)
    bus.register_command_handler(Count, count)

    assert (await bus.execute(Outer())).unwrap() == [0, 1]


async def test_two_readers_of_a_stream_share_it_and_both_come_to_its_end(counting: MessageBus) -> None:
    stream = counting.stream(Count(to=10))

    async def read() -> list[int]:
        return [event.n async for event in stream if isinstance(event, Counted)]

    async with asyncio.timeout(5):
        mine, others = await asyncio.gather(read(), read())
    assert sorted(mine + others) == list(range(10))


async def test_two_streams_do_not_mix(counting: MessageBus) -> None:
    async def read(command: Count) -> list[int]:
        return [event.n async for event in counting.stream(command) if isinstance(event, Counted)]

    short, long = await asyncio.gather(read(Count(to=2)), read(Count(to=4)))
    assert (short, long) == ([0, 1], [0, 1, 2, 3])


async def test_what_announces_commands_is_left_out_whoever_listens(counting: MessageBus) -> None:
    announced: list[Event] = []
    counting.register_event_handler(Event, announced.append)
    seen = [type(event) async for event in counting.stream(Count(to=1))]
    await counting.wait_for_events()

    assert seen == [Counted]
    assert len(announced) == 3


@pytest.mark.parametrize("in_a_block", [False, True])
async def test_leaving_early_cancels_the_command(bus: MessageBus, in_a_block: bool) -> None:
    cancelled = asyncio.Event()

    async def count(_: Count) -> None:
        await bus.publish(Counted())
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    bus.register_command_handler(Count, count)
    stream = bus.stream(Count())
    if in_a_block:
        async with stream:
            async for _ in stream:
                break
        assert cancelled.is_set()
    else:
        async for _ in stream:
            break
        await asyncio.wait_for(cancelled.wait(), 5)
    result = await stream

    assert (result.success, (result.error or "").split(":")[0]) == (False, "CancelledError")


@pytest.mark.parametrize("how", ["iterating", "awaiting"])
async def test_cancelling_the_reader_cancels_the_command(bus: MessageBus, how: str) -> None:
    inside, cancelled = asyncio.Event(), asyncio.Event()

    async def count(_: Count) -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    bus.register_command_handler(Count, count)

    async def read() -> None:
        if how == "awaiting":
            await bus.stream(Count())
        async for _ in bus.stream(Count()):
            pass

    reader = asyncio.create_task(read())
    await inside.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert cancelled.is_set()


async def test_awaiting_a_stream_runs_the_command(counting: MessageBus) -> None:
    assert (await counting.stream(Count())).result == "done"


async def test_the_result_is_not_there_before_the_end(counting: MessageBus) -> None:
    with pytest.raises(BusError, match="has not ended"):
        _ = counting.stream(Count()).result


async def test_a_failing_command_ends_the_stream_with_a_failed_result(bus: MessageBus) -> None:
    stream = bus.stream(Count())

    assert [event async for event in stream] == []
    assert stream.result.error == "No handler registered for command Count"


async def test_streams_leave_nothing_behind(counting: MessageBus) -> None:
    async for _ in counting.stream(Count()):
        pass

    assert counting._gate._streams == {}
    assert counting._gate._written == {}
