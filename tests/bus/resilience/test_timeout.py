"""What takes too long is cancelled; what never waits is done before anything is set up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.deadline import within
from llmgine.bus.resilience import TimeoutMiddleware
from llmgine.errors import CommandTimeoutError, ConfigurationError
from llmgine.messages import Command

SOON = 0.01
T = TypeVar("T")


class Do(Command[Any]):
    pass


def limited(work: Awaitable[T], seconds: float = 60) -> Coroutine[Any, Any, T]:
    return within(asyncio.get_running_loop().time() + seconds, work, Do(), seconds)


async def forever() -> None:
    await asyncio.Event().wait()


async def at_once() -> int:
    return 1


async def later() -> int:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return 2


class Answer:
    def __await__(self) -> Generator[Any, Any, int]:
        yield from asyncio.sleep(0).__await__()
        return 3


async def future() -> int:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(done.set_result, 4)
    return await limited(done)


@pytest.mark.parametrize(("make", "expected"), [(at_once, 1), (later, 2), (Answer, 3), (future, 4)])
async def test_whatever_can_be_awaited_gives_its_value(make: Callable[[], Awaitable[int]], expected: int) -> None:
    assert await limited(make()) == expected


@pytest.mark.parametrize("make", [forever, lambda: asyncio.get_running_loop().create_future()])
async def test_what_takes_too_long_is_cancelled(make: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(CommandTimeoutError, match=r"Do did not finish within 0.01 s") as late:
        await limited(make(), SOON)

    assert late.value.timeout == SOON
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_time_spent_before_it_first_waits_counts() -> None:
    async def busy_then_waits() -> None:
        time.sleep(2 * SOON)  # noqa: ASYNC251  # what it must not do, and does
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await forever()

    with pytest.raises(CommandTimeoutError):
        await asyncio.wait_for(limited(busy_then_waits(), SOON), 60)


async def test_it_sets_nothing_up_for_what_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "timeout_at", None)

    assert await limited(at_once()) == 1
    with pytest.raises(TypeError):
        await limited(later())


async def test_errors_pass_from_either_side_of_the_first_wait() -> None:
    async def fails(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise KeyError(turns)

    for turns in (0, 1, 3):
        with pytest.raises(KeyError, match=str(turns)):
            await limited(fails(turns))


async def test_a_timeout_of_the_work_itself_is_not_taken_for_ours() -> None:
    async def gives_up() -> str:
        try:
            async with asyncio.timeout(SOON):
                await forever()
        except TimeoutError:
            await asyncio.sleep(0)
            return "gave up"
        return ""

    async def raises() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("of its own")

    assert await limited(gives_up()) == "gave up"
    with pytest.raises(TimeoutError, match="of its own") as error:
        await limited(raises())
    assert type(error.value) is TimeoutError


@pytest.mark.parametrize(("inner", "outer", "told"), [(SOON, 60, "inner"), (60, SOON, "outer"), (SOON, SOON, "outer")])
async def test_of_nested_timeouts_the_one_that_expires_is_told(inner: float, outer: float, told: str) -> None:
    now = asyncio.get_running_loop().time()
    given = {"inner": 1.0, "outer": 2.0}
    work = within(now + inner, forever(), Do(), given["inner"])
    with pytest.raises(CommandTimeoutError) as late:
        await within(now + outer, work, Do(), given["outer"])

    assert late.value.timeout == given[told]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_cancelling_from_outside_cancels_and_is_no_timeout() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)  # cleaning up may wait
            cleaned.append("up")

    task = asyncio.create_task(limited(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cleaned == ["up"]


async def test_work_that_cancels_its_own_task_is_cancelled() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    task = asyncio.create_task(limited(work()))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_group_inside_keeps_its_meaning() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(forever())

    async def hangs() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forever())

    with pytest.raises(ExceptionGroup) as error:
        await limited(work())
    assert isinstance(error.value.exceptions[0], KeyError)
    with pytest.raises(CommandTimeoutError):
        await limited(hangs(), SOON)


async def test_work_that_is_given_up_is_closed() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append("closed")

    held = work()  # else it would be closed because nobody holds it
    waiting = limited(held)
    waiting.send(None)
    waiting.close()

    assert ended == ["closed"]


async def test_it_runs_in_the_task_and_context_of_its_caller() -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def work() -> Any:
        before = asyncio.current_task()
        variable.set(1)
        await asyncio.sleep(0)
        variable.set(2)
        return before, asyncio.current_task()

    assert (await limited(work())) == (asyncio.current_task(), asyncio.current_task())
    assert variable.get() == 2


# As a layer


async def test_a_command_that_takes_too_long_fails(bus: MessageBus) -> None:
    bus.add_command_middleware(TimeoutMiddleware(SOON))
    bus.register_command_handler(Do, lambda _: forever())
    result = await bus.execute(Do())

    assert (result.success, result.error) == (False, "CommandTimeoutError: Do did not finish within 0.01 s")
    assert isinstance(result.exception, CommandTimeoutError)


async def test_other_failures_are_its_results_and_successes_pass(bus: MessageBus) -> None:
    def fails(_: Any) -> None:
        raise ValueError("no")

    class Fine(Command[Any]):
        pass

    bus.add_command_middleware(TimeoutMiddleware(60))
    bus.register_command_handler(Do, fails)
    bus.register_command_handler(Fine, lambda _: later())

    assert (await bus.execute(Do())).error == "ValueError: no"
    assert (await bus.execute(Fine())).result == 2


async def test_a_deadline_of_the_command_that_comes_first_counts(bus: MessageBus) -> None:
    bus.add_command_middleware(TimeoutMiddleware(60))
    bus.register_command_handler(Do, lambda _: forever())
    result = await bus.execute(Do(), timeout=2 * SOON)

    assert result.error == "CommandTimeoutError: Do did not finish within 0.02 s"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), "1", None])
def test_a_time_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError):
        TimeoutMiddleware(seconds)
