"""Handlers begin at once, each in one task; whoever asks for the current task cannot tell that it is set up late."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from llmgine.bus import handler_task
from llmgine.bus.handler_task import Failure, Handlers, HandlerTask
from llmgine.bus.metrics import MetricsCollector
from llmgine.bus.pending import PendingEvents
from llmgine.messages import Event

Handler = Callable[[Event], Awaitable[None]]


@pytest.fixture(autouse=True, params=["a dict", *["functions"] * hasattr(asyncio.tasks, "_swap_current_task")])
def kept_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python keeps the current task: in a dict up to 3.13, and behind functions from 3.12 on."""
    if request.param == "functions":
        monkeypatch.setattr(handler_task, "_current_tasks", handler_task._CurrentTasks())


def handlers() -> Handlers:
    return Handlers(asyncio.get_running_loop(), MetricsCollector(), PendingEvents(), lambda *_: None)


def begin(*group: Handler) -> list[Failure | HandlerTask] | None:
    return handlers().run(Event(), [(handler, handler) for handler in group])


async def finish(handler: Handler) -> Failure:
    outcomes = begin(handler)
    assert outcomes is not None
    (outcome,) = outcomes
    assert isinstance(outcome, HandlerTask)
    return await outcome


async def test_a_handler_that_never_waits_is_done_at_once() -> None:
    done: list[int] = []

    async def handle(_: Event) -> None:
        done.append(1)

    assert begin(handle, handle) is None
    assert done == [1, 1]


async def test_a_handler_that_waits_goes_on_where_it_was() -> None:
    gate = asyncio.Event()
    steps: list[int] = []

    async def handle(_: Event) -> None:
        steps.append(1)
        await gate.wait()
        steps.append(2)
        await asyncio.sleep(0)
        steps.append(3)

    outcomes = begin(handle)
    assert outcomes is not None
    assert steps == [1]
    gate.set()
    assert await asyncio.gather(*outcomes) == [None]  # type: ignore[arg-type]  # it waits, so it is a task
    assert steps == [1, 2, 3]


async def test_a_bare_yield_is_a_turn_of_the_loop() -> None:
    turns = 0

    async def handle(event: Event) -> None:
        nonlocal turns
        for _ in range(5):
            await asyncio.sleep(0)
            turns += 1

    assert await finish(handle) is None
    assert turns == 5


async def test_what_a_handler_raises_is_its_outcome_and_no_others() -> None:
    async def at_once(_: Event) -> None:
        raise ValueError("at once")

    async def later(_: Event) -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    async def well(_: Event) -> None:
        pass

    outcomes = begin(at_once, well, later, well)
    assert outcomes is not None
    first, second = outcomes
    assert str(first) == "at once"
    assert isinstance(second, HandlerTask)
    assert str(await second) == "later"


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_is_not_kept(ends: type[BaseException]) -> None:
    running = handlers()
    current = asyncio.current_task()

    async def end(_: Event) -> None:
        raise ends

    async def well(_: Event) -> None:
        pass

    with pytest.raises(ends):
        running.run(Event(), [(end, end)])
    assert asyncio.current_task() is current
    assert running.run(Event(), [(well, well)]) is None


async def test_the_current_task_is_one_from_the_first_step_on() -> None:
    seen: list[Any] = []

    async def handle(_: Event) -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    outer = asyncio.current_task()
    outcomes = begin(handle, handle)
    assert asyncio.current_task() is outer
    assert outcomes is not None
    await asyncio.wait(outcomes)  # type: ignore[type-var]  # they wait, so they are tasks

    first, second = outcomes
    assert seen == [first, second, first, second]
    assert first is not second
    assert outer not in seen


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "ask",
    [
        repr,
        lambda task: task.get_coro(),
        lambda task: task.get_name(),
        lambda task: task.get_loop(),
        lambda task: task.get_stack(),
        lambda task: task.set_name("mine"),
        lambda task: task.get_context() if hasattr(task, "get_context") else repr(task),  # new in 3.12
        lambda task: task.remove_done_callback(print),
        lambda task: task.print_stack(file=open("/dev/null", "w")),  # noqa: SIM115, PTH123
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file")
async def test_the_current_task_may_be_asked_for_anything(ask: Callable[[Any], object], waits: bool) -> None:
    async def handle(_: Event) -> None:
        task = asyncio.current_task()
        ask(task)
        assert task in asyncio.all_tasks()
        if waits:
            await asyncio.sleep(0)
        assert asyncio.current_task() is task

    outcomes = begin(handle, handle)
    tasks = [outcome for outcome in outcomes or [] if isinstance(outcome, HandlerTask)]
    assert len(tasks) == (2 if waits else 0)
    assert [await task for task in tasks] == [None] * len(tasks)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_callback_on_the_current_task_is_called_when_the_handler_has_ended(waits: bool) -> None:
    ended: asyncio.Future[asyncio.Task[Any]] = asyncio.get_running_loop().create_future()
    tasks: list[Any] = []

    async def handle(_: Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        task.add_done_callback(ended.set_result)
        if waits:
            await asyncio.sleep(0)
        assert not ended.done()

    begin(handle)
    assert [await ended] == tasks


async def test_a_failure_after_the_task_was_asked_for_is_its_outcome() -> None:
    async def handle(_: Event) -> None:
        repr(asyncio.current_task())
        raise ValueError("mine")

    outcomes = begin(handle)
    assert [str(outcome) for outcome in outcomes or ()] == ["mine"]
    await asyncio.sleep(0)


async def test_a_timeout_entered_in_the_first_step_expires() -> None:
    expired: list[bool] = []

    async def handle(_: Event) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            expired.append(True)

    assert await finish(handle) is None
    assert expired == [True]


async def test_a_task_group_entered_in_the_first_step_cancels_its_body() -> None:
    cleaned: list[bool] = []

    async def fail() -> None:
        raise ValueError

    async def handle(_: Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* ValueError:
            cleaned.append(True)

    assert await finish(handle) is None
    assert cleaned == [True]


@pytest.mark.parametrize("asked", [False, True])
async def test_a_cancellation_asked_for_in_the_first_step_arrives(asked: bool) -> None:
    async def handle(_: Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if asked:
            repr(task)
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await finish(handle)


async def test_a_cancellation_can_be_caught_and_the_handler_goes_on() -> None:
    caught: list[bool] = []

    async def handle(_: Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            caught.append(True)

    outcomes = begin(handle)
    assert outcomes is not None
    (task,) = outcomes
    assert isinstance(task, HandlerTask)
    await asyncio.sleep(0)
    task.cancel()
    assert await task is None
    assert caught == [True]


async def test_each_handler_has_a_context_that_stays_its_own() -> None:
    var: ContextVar[int] = ContextVar("var", default=0)
    seen: list[int] = []

    async def handle(_: Event) -> None:
        seen.append(var.get())
        token = var.set(1)
        await asyncio.sleep(0)
        var.reset(token)
        seen.append(var.get())

    outcomes = begin(handle, handle)
    assert outcomes is not None
    await asyncio.wait(outcomes)  # type: ignore[type-var]  # they wait, so they are tasks
    assert seen == [0, 0, 0, 0]
    assert var.get() == 0


async def test_running_handlers_may_nest() -> None:
    running = handlers()
    tasks: list[Any] = []

    async def inner(_: Event) -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    async def outer(event: Event) -> None:
        outcomes = running.run(event, [(inner, inner)])
        assert outcomes is not None
        tasks.append(asyncio.current_task())
        await asyncio.wait(outcomes)  # type: ignore[type-var]  # it waits, so it is a task

    outcomes = running.run(Event(), [(outer, outer)])
    assert outcomes is not None
    await asyncio.wait(outcomes)  # type: ignore[type-var]
    assert tasks[0] is not tasks[1]
    assert tasks[1] is outcomes[0]


async def test_what_has_been_handled_is_not_kept_alive() -> None:
    running = handlers()

    class Handler:
        async def __call__(self, event: Event) -> None:
            await asyncio.sleep(0)

    handler, event = Handler(), Event()
    outcomes = running.run(event, [(handler, handler)])
    assert outcomes is not None
    await asyncio.wait(outcomes)  # type: ignore[type-var]
    gone = weakref.ref(handler), weakref.ref(event)
    del handler, event, outcomes
    gc.collect()

    assert [ref() for ref in gone] == [None, None]


async def test_a_failures_traceback_begins_in_the_handler() -> None:
    async def handle(_: Event) -> None:
        raise ValueError

    outcomes = begin(handle)
    assert outcomes is not None
    (error,) = outcomes
    assert isinstance(error, ValueError)
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is handle.__code__


def test_it_works_in_debug_mode() -> None:
    async def handle(_: Event) -> None:
        await asyncio.sleep(0)

    assert asyncio.run(finish(handle), debug=True) is None
