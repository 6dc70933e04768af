"""A wait for the next piece of a stream ends in time, whatever has come before; the time of the reader is its own."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from contextvars import Context
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.llm.providers.stalls import SilenceError, StallTimer

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LIMIT = 10.0
Pieces: TypeAlias = Iterable[tuple[float, float]]
"""Of each piece: how long it is waited for, and how long its reader takes with it."""


class Clock(selectors.DefaultSelector):
    """Does not wait, but moves the loop's time on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            assert timeout is not None, "the loop would wait for ever"
            self.now += timeout
        return found


class Loop(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time. It remembers the timers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timers: list[asyncio.TimerHandle] = []
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        if isinstance(getattr(callback, "__self__", None), StallTimer):
            self.timers.append(handle)
        return handle


def run(work: Coroutine[Any, Any, T]) -> tuple[T, Loop]:
    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work), loop


async def watched(pieces: Pieces) -> AsyncGenerator[float, None]:
    """Yield when each piece came, as a provider does."""
    loop = asyncio.get_running_loop()
    with StallTimer(LIMIT) as timer:
        for wait, _ in pieces:
            await asyncio.sleep(wait)
            timer.pause()
            yield loop.time()
            timer.wait()


async def read(pieces: Pieces) -> tuple[list[float], float | None]:
    """Read pieces; return when each came, and when the stream had stalled."""
    came: list[float] = []
    loop = asyncio.get_running_loop()
    taken = [time for _, time in pieces]
    try:
        async with aclosing(watched(pieces)) as stream:
            async for moment in stream:
                came.append(moment)
                await asyncio.sleep(taken[len(came) - 1])
    except SilenceError:
        return came, loop.time()
    return came, None


# No wait is as long as the limit: which of two things that happen at the same moment is first does not matter.
waits = st.sampled_from([0.0, 0.5, 3.0, 9.5, 9.75, 10.5, 40.0])


@given(st.lists(st.tuples(waits, st.sampled_from([0.0, 0.5, 9.5, 10.0, 10.5, 35.0])), max_size=12))
def test_the_first_wait_that_is_too_long_is_over_at_its_limit_and_no_other(pieces: list[tuple[float, float]]) -> None:
    now, expected, expected_stall = 0.0, [], None
    for wait, taken in pieces:
        if wait > LIMIT:
            expected_stall = now + LIMIT
            break
        expected.append(now + wait)
        now += wait + taken

    (came, stalled), _ = run(read(pieces))

    assert came == expected
    assert stalled == expected_stall


def test_there_is_one_timer_at_a_time_and_few_of_them_however_many_pieces_come() -> None:
    (came, stalled), loop = run(read([(0.1, 0.0)] * 1000))

    assert (len(came), stalled) == (1000, None)
    assert len(loop.timers) <= 1000 * 0.1 / LIMIT + 1


def test_while_the_reader_takes_its_time_no_timer_runs() -> None:
    (came, stalled), loop = run(read([(0.0, LIMIT * 1000), (0.0, 0.0)]))

    assert (len(came), stalled) == (2, None)
    assert len(loop.timers) == 2


def test_a_stream_that_is_left_leaves_no_timer_behind() -> None:
    async def leave() -> None:
        async with aclosing(watched([(1.0, 0.0)] * 3)) as stream:
            await anext(stream)

    _, loop = run(leave())

    assert [timer.cancelled() for timer in loop.timers] == [True]


def test_after_a_stall_its_reader_is_not_cancelled() -> None:
    async def stall() -> int:
        with pytest.raises(SilenceError):
            await read_all([(99.0, 0.0)])
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        return task.cancelling()

    assert run(stall())[0] == 0


@pytest.mark.parametrize("when", [LIMIT - 1, LIMIT])
def test_a_reader_that_is_cancelled_is_cancelled_also_at_the_moment_of_a_stall(when: float) -> None:
    async def cancel() -> bool:
        reader = asyncio.create_task(read_all([(99.0, 0.0)]))
        asyncio.get_running_loop().call_at(when, reader.cancel)
        await asyncio.wait((reader,))
        return reader.cancelled()

    assert run(cancel())[0]


def test_a_reader_that_has_outlived_a_cancellation_still_hears_of_a_stall() -> None:
    async def outlive() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with aclosing(watched([(1.0, 0.0), (99.0, 0.0)])) as stream:
            await anext(stream)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
            with pytest.raises(SilenceError):
                await anext(stream)

    run(outlive())


def test_each_piece_may_be_read_in_a_task_of_its_own() -> None:
    async def read_apart() -> list[BaseException | None]:
        stream = watched([(9.0, 0.0), (9.0, 0.0), (99.0, 0.0)])
        outcomes: list[BaseException | None] = []
        for _ in range(3):
            task = asyncio.create_task(read_one(stream))
            await asyncio.wait((task,))
            outcomes.append(task.exception())
        return outcomes

    outcomes, _ = run(read_apart())
    assert [type(error) for error in outcomes] == [type(None), type(None), SilenceError]


@pytest.mark.parametrize("next_wait", [1.0, 99.0])
def test_what_comes_in_spite_of_being_cancelled_counts(next_wait: float) -> None:
    async def stubborn() -> tuple[list[float], int]:
        task = asyncio.current_task()
        assert task is not None
        came: list[float] = []
        with StallTimer(LIMIT) as timer:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(99.0)
            came.append(asyncio.get_running_loop().time())
            timer.pause()
            assert task.cancelling() == 0
            timer.wait()
            await asyncio.sleep(next_wait)
            came.append(asyncio.get_running_loop().time())
        return came, task.cancelling()

    if next_wait > LIMIT:
        with pytest.raises(SilenceError):
            run(stubborn())
    else:
        assert run(stubborn())[0] == ([LIMIT, LIMIT + next_wait], 0)


def test_a_stream_that_ends_in_spite_of_being_cancelled_has_ended() -> None:
    async def end() -> int:
        with StallTimer(LIMIT), pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(99.0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run(end())[0] == 0


async def read_all(pieces: Pieces) -> None:
    async with aclosing(watched(pieces)) as stream:
        async for _ in stream:
            pass


async def read_one(stream: AsyncGenerator[float, None]) -> float:
    return await anext(stream)
