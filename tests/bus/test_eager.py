"""Work begins at once, in one task; nothing that asks for the current task may notice the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import pytest

from llmgine.bus.eager import start

T = TypeVar("T")


def begin(work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | T:
    return start(asyncio.get_running_loop(), work, copy_context())


async def finish(work: Coroutine[Any, Any, T]) -> T:
    outcome = begin(work)
    assert isinstance(outcome, asyncio.Task)
    return await outcome


async def test_work_that_never_waits_is_done_at_once() -> None:
    async def work() -> int:
        return 3

    assert begin(work()) == 3


async def test_work_that_waits_goes_on_where_it_was() -> None:
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        await asyncio.sleep(0)
        return "done"

    outcome = begin(work())
    assert isinstance(outcome, asyncio.Task)
    gate.set()
    assert await outcome == "done"


async def test_a_bare_yield_is_a_turn_of_the_loop() -> None:
    async def work() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return 5

    assert await finish(work()) == 5


async def test_what_it_raises_comes_out() -> None:
    async def at_once() -> None:
        raise ValueError("at once")

    async def later() -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    with pytest.raises(ValueError, match="at once"):
        begin(at_once())
    with pytest.raises(ValueError, match="later"):
        await finish(later())


async def test_the_current_task_is_one_from_the_first_step_on() -> None:
    seen: list[Any] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    outer = asyncio.current_task()
    outcome = begin(work())
    assert asyncio.current_task() is outer
    await outcome  # type: ignore[misc]  # it waits, so it is a task

    assert seen == [outcome, outcome]


async def test_a_timeout_entered_in_the_first_step_expires() -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "expired"
        return "not"

    assert await finish(work()) == "expired"


async def test_a_task_group_entered_in_the_first_step_cancels_its_body() -> None:
    async def fail() -> None:
        raise ValueError

    async def work() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* ValueError:
            pass
        return "cleaned up"

    assert await finish(work()) == "cleaned up"


async def test_a_cancellation_asked_for_in_the_first_step_arrives() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await finish(work())


async def test_a_cancellation_can_be_caught_and_work_goes_on() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return "caught"
        return "not"

    outcome = begin(work())
    assert isinstance(outcome, asyncio.Task)
    await asyncio.sleep(0)
    outcome.cancel()
    assert await outcome == "caught"


async def test_the_context_is_one_and_the_same() -> None:
    var: ContextVar[int] = ContextVar("var", default=0)

    async def work() -> int:
        token = var.set(1)
        await asyncio.sleep(0)
        var.reset(token)
        return var.get()

    assert await finish(work()) == 0
    assert var.get() == 0


async def test_starting_may_nest() -> None:
    tasks: list[Any] = []

    async def inner() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    async def outer() -> None:
        task = begin(inner())
        tasks.append(asyncio.current_task())
        await task  # type: ignore[misc]  # it waits, so it is a task

    await finish(outer())
    assert tasks[0] is not tasks[1]


async def test_a_started_task_is_among_all_tasks() -> None:
    gate = asyncio.Event()
    task = begin(gate.wait())

    assert task in asyncio.all_tasks()
    gate.set()
    assert isinstance(task, asyncio.Task)
    await task


def test_it_works_in_debug_mode() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    assert asyncio.run(finish(work()), debug=True) == 1
