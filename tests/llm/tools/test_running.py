"""Preparing a call and running it: retries by effect, turns, cancellation."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BeforeValidator

from llmgine.bus.resilience import Jitter, RetryConfig
from llmgine.errors import ToolValidationError
from llmgine.llm.tools import Effect, Inject, ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.effects import call_digest, effect_key
from llmgine.llm.tools.prepared_call import PreparedCall, effect_keys
from llmgine.llm.tools.result import ToolResult


def call(name: str, arguments: str = "{}", id_: str = "c1") -> ToolCall:
    return ToolCall(id=id_, name=name, arguments=arguments)


def add(x: int, y: int = 1) -> int:
    return x + y


class Opaque:
    def __init__(self, text: str) -> None:
        self.text = text


def opaque(it: Annotated[Any, BeforeValidator(Opaque)]) -> str:
    return it.text  # type: ignore[no-any-return]


class Waits:
    """Sleeps for no time, and notes for how long it was asked to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def manager(waits: Waits) -> ToolManager:
    return ToolManager(sleep=waits, random=lambda low, high: high)


def failing(times: int, error: Exception | None = None) -> tuple[list[ToolContext], Callable[..., Awaitable[str]]]:
    """Return a tool that fails so often, and the contexts of its attempts."""
    attempts: list[ToolContext] = []

    async def work(context: ToolContext) -> str:
        attempts.append(context)
        if len(attempts) <= times:
            raise error or ConnectionError("down")
        return "done"

    return attempts, work


# Preparing


def prepared(manager: ToolManager, name: str, arguments: str) -> PreparedCall:
    found = manager.prepare(call(name, arguments))
    assert isinstance(found, PreparedCall)
    return found


@pytest.mark.parametrize("arguments", ['{"x": 1}', '{"y":1,"x":"1"}', '"{\\"x\\": 1.0}"'])
async def test_the_same_call_has_the_same_digest_however_it_is_written(manager: ToolManager, arguments: str) -> None:
    manager.register_tool(add)
    ready = prepared(manager, "add", arguments)
    assert ready.arguments == {"x": 1, "y": 1}
    assert ready.canonical == '{"x":1,"y":1}'
    assert ready.digest == call_digest("add", {"x": 1, "y": 1})
    assert ready.tool is manager.tools[0]
    result = await manager.run_prepared(ready)
    assert (result.value, result.attempts, result.timed_out) == (2, 1, False)


async def test_the_digest_is_that_of_the_arguments_as_they_were_prepared_whoever_changes_them(
    manager: ToolManager,
) -> None:
    def change(path: list[str], by: dict[str, list[int]], x: int = 1) -> str:
        x += 1
        path.append("changed")
        by["n"].clear()
        return "changed"

    manager.register_tool(change)
    ready = prepared(manager, "change", '{"path": ["a"], "by": {"n": [1]}}')
    await manager.run_prepared(ready)
    ready.arguments["x"] = 2
    assert ready.digest == call_digest("change", {"path": ["a"], "by": {"n": [1]}, "x": 1})


def test_arguments_without_a_value_of_their_own_are_compared_as_they_were_sent(manager: ToolManager) -> None:
    manager.register_tool(opaque)
    one, same, other = (prepared(manager, "opaque", f'{{"it": "{text}"}}').digest for text in "aab")
    assert one == same != other


def test_each_effect_of_a_turn_has_a_key_of_its_own_that_the_models_ids_do_not_change(manager: ToolManager) -> None:
    manager.register_tool(add)
    manager.register_tool(add, name="plus")
    asked = [("add", '{"x": 1}'), ("plus", '{"x": 1}'), ("add", '{"x": 2}'), ("add", '{"y": 1, "x": 1}')]

    def keys(run_id: str, step: int, ids: str) -> list[str]:
        calls = [manager.prepare(call(name, text, id_)) for (name, text), id_ in zip(asked, ids, strict=True)]
        return effect_keys(run_id, step, [one for one in calls if isinstance(one, PreparedCall)])

    first = keys("r", 1, "abcd")
    assert len({*first}) == len(asked)
    assert keys("r", 1, "efgh") == first
    assert not {*keys("r", 2, "abcd"), *keys("s", 1, "abcd")}.intersection(first)
    prepared_call = prepared(manager, "add", '{"x": 1}')
    assert first[3] == effect_key("r", 1, "add", prepared_call.canonical, 1)  # the second of its kind


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (call("nothing"), "Error: Tool 'nothing' not found"),
        (call("add", "{"), "Error executing add: the arguments are not valid JSON"),
        (call("add", "{}"), "Error executing add: the arguments do not fit:\n- x: required, but missing"),
    ],
)
def test_what_cannot_be_run_is_answered_at_once(manager: ToolManager, asked: ToolCall, text: str) -> None:
    manager.register_tool(add)
    refused = manager.prepare(asked)
    assert isinstance(refused, ToolResult)
    assert refused.content.startswith(text)
    assert (refused.succeeded, refused.attempts, refused.call) == (False, 0, asked)


def test_code_in_annotations_that_fails_is_a_failure_of_the_call(manager: ToolManager) -> None:
    def check(value: Any) -> Any:
        raise KeyError(value)

    def work(x: Annotated[int, BeforeValidator(check)]) -> None: ...

    manager.register_tool(work)
    refused = manager.prepare(call("work", '{"x": 1}'))
    assert isinstance(refused, ToolResult)
    assert refused.content == "Error executing work: KeyError: 1"


async def test_what_needs_approval_is_run_only_by_whoever_has_seen_to_it(manager: ToolManager) -> None:
    manager.register_tool(add, requires_approval=True)
    asked = call("add", '{"x": 1}')
    result = await manager.run(asked)
    assert result.content == "Error executing add: not run, because a person has to agree to it and has not been asked."
    assert (result.attempts, result.arguments) == (0, {"x": 1, "y": 1})
    assert "not run" in await manager.execute_tool_call(asked)
    assert (await manager.run_prepared(prepared(manager, "add", '{"x": 1}'))).value == 2


async def test_whether_a_call_needs_approval_may_depend_on_its_arguments(manager: ToolManager) -> None:
    manager.register_tool(add, requires_approval=lambda arguments: arguments["x"] > 1)
    assert (await manager.run(call("add", '{"x": 1}'))).value == 2
    assert "a person has to agree to it" in (await manager.run(call("add", '{"x": 2}'))).content


# Retries


@pytest.mark.parametrize("effect", ["read", Effect.IDEMPOTENT])
async def test_what_may_be_repeated_is_tried_again_with_the_same_key(
    manager: ToolManager, waits: Waits, effect: Any
) -> None:
    attempts, work = failing(2)
    manager.register_tool(work, retries=RetryConfig(3, initial_delay=1, exponential_base=2), effect=effect)
    result = await manager.run(call("work"))
    assert (result.content, result.attempts) == ("done", 3)
    assert [context.attempt for context in attempts] == [1, 2, 3]
    assert len({context.idempotency_key for context in attempts}) == 1
    assert waits.seconds == [1, 2]


async def test_the_engines_key_is_the_one_that_is_used(manager: ToolManager) -> None:
    attempts, work = failing(1)
    manager.register_tool(work, retries=1, effect="idempotent")
    await manager.run(call("work"), ToolContext(idempotency_key="from the engine", attempt=7))
    assert [(context.attempt, context.idempotency_key) for context in attempts] == [
        (1, "from the engine"),
        (2, "from the engine"),
    ]


async def test_the_last_failure_is_told_with_the_number_of_attempts(manager: ToolManager) -> None:
    attempts, work = failing(9)
    manager.register_tool(work, retries=2, effect="read")
    result = await manager.run(call("work"))
    assert result.content == "Error executing work: ConnectionError: down (tried 3 times)"
    assert (result.attempts, len(attempts)) == (3, 3)


@pytest.mark.parametrize("options", [{}, {"effect": "read"}, {"effect": "unsafe", "retries": 0}])
async def test_nothing_is_tried_again_unasked(manager: ToolManager, options: dict[str, Any]) -> None:
    attempts, work = failing(1)
    manager.register_tool(work, **options)
    assert (await manager.run(call("work"))).content == "Error executing work: ConnectionError: down"
    assert len(attempts) == 1


async def test_what_does_not_fit_fits_no_better_the_next_time(manager: ToolManager) -> None:
    attempts, work = failing(1, ToolValidationError("the date is in the past"))
    manager.register_tool(work, retries=3, effect="read")
    assert (await manager.run(call("work"))).content == "Error executing work: the date is in the past"
    assert len(attempts) == 1


async def test_a_timeout_counts_for_each_attempt(manager: ToolManager) -> None:
    attempts = 0

    async def work() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.Event().wait()
        return "done"

    manager.register_tool(work, retries=1, effect="read", timeout=0.02)
    result = await manager.run(call("work"))
    assert (result.content, result.attempts, result.timed_out) == ("done", 2, False)
    assert result.duration > 0.01


async def test_no_attempt_begins_after_the_deadline(manager: ToolManager, waits: Waits) -> None:
    attempts, work = failing(9)
    manager.register_tool(work, retries=RetryConfig(9, initial_delay=30, max_delay=100), effect="read")
    await manager.run(call("work"), ToolContext(deadline=asyncio.get_running_loop().time() + 70))
    assert waits.seconds == [30, 60]
    assert len(attempts) == 3


async def test_a_failure_is_told_even_if_no_time_is_left_for_another_attempt() -> None:
    async def oversleep(seconds: float) -> None:
        await asyncio.sleep(0.1)

    manager = ToolManager(sleep=oversleep)
    attempts, work = failing(9)
    manager.register_tool(work, retries=RetryConfig(3, initial_delay=0), effect="read")
    result = await manager.run(call("work"), ToolContext(deadline=asyncio.get_running_loop().time() + 0.05))
    assert result.content == "Error executing work: ConnectionError: down"
    assert (result.attempts, len(attempts)) == (1, 1)


async def test_decorrelated_delays_are_counted_from_the_last(manager: ToolManager, waits: Waits) -> None:
    _, work = failing(9)
    manager.register_tool(work, retries=RetryConfig(3, initial_delay=1, jitter=Jitter.DECORRELATED), effect="read")
    await manager.run(call("work"))
    assert waits.seconds == [3, 9, 10]


async def test_a_retry_gets_the_arguments_as_they_were(manager: ToolManager) -> None:
    seen: list[list[int]] = []

    def work(items: list[int]) -> None:
        seen.append([*items])
        items.clear()
        raise ConnectionError

    manager.register_tool(work, retries=1, effect="read")
    await manager.run(call("work", '{"items": [1, 2]}'))
    assert seen == [[1, 2], [1, 2]]


async def test_who_waits_for_another_attempt_keeps_nobody_from_running() -> None:
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await wake.wait()

    manager = ToolManager(max_concurrency=1, sleep=sleep)
    _, work = failing(1)
    manager.register_tool(work, retries=1, effect="read", max_concurrency=1)
    manager.register_tool(add)
    waiting = asyncio.create_task(manager.run(call("work")))
    await asleep.wait()
    assert (await manager.run(call("add", '{"x": 1}'))).value == 2
    wake.set()
    assert (await waiting).value == "done"


async def test_a_thread_that_times_out_may_still_run_and_that_is_said() -> None:
    release = threading.Event()
    manager = ToolManager(default_timeout_s=0.01)
    manager.register_tool(release.wait, name="send")
    result = await manager.run(call("send"))
    release.set()
    assert result.content == "Error executing send: timed out after 0.01 seconds; it may still be running"
    assert result.timed_out


# Turns


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_tool_has_a_limit_of_its_own_which_holds_up_no_other() -> None:
    gate = asyncio.Event()
    manager = ToolManager(max_concurrency=3)
    running: list[str] = []

    async def work(name: str) -> None:
        running.append(name)
        await gate.wait()

    manager.register_tool(work, name="limited", max_concurrency=1)
    manager.register_tool(work, name="free")
    calls = [call("limited", f'{{"name": "l{n}"}}') for n in range(3)] + [call("free", '{"name": "f"}')]
    tasks = [asyncio.create_task(manager.run(one)) for one in calls]
    await settle()
    assert running == ["l0", "f"]  # those that wait for the limited tool take no place
    gate.set()
    await asyncio.gather(*tasks)
    assert running == ["l0", "f", "l1", "l2"]  # first come, first served


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.booleans()), min_size=1, max_size=12))
def test_whatever_is_cancelled_no_place_is_lost_and_the_order_kept(calls: list[tuple[str, bool]]) -> None:
    async def main() -> None:
        manager = ToolManager(max_concurrency=2)
        gate = asyncio.Event()
        started: list[int] = []
        inside = {"a": 0, "b": 0}

        async def work(kind: str, number: int) -> None:
            started.append(number)
            inside[kind] += 1
            assert inside["a"] <= 1
            assert sum(inside.values()) <= 2
            try:
                await gate.wait()
            finally:
                inside[kind] -= 1

        manager.register_tool(work, name="a", max_concurrency=1)
        manager.register_tool(work, name="b")
        tasks = [
            asyncio.create_task(manager.run(call(kind, f'{{"kind": "{kind}", "number": {number}}}')))
            for number, (kind, _) in enumerate(calls)
        ]
        await settle()
        for task, (_, cancelled) in zip(tasks, calls, strict=True):
            if cancelled:
                task.cancel()
        await settle()
        gate.set()
        await asyncio.wait(tasks)
        for task, (_, cancelled) in zip(tasks, calls, strict=True):
            assert task.cancelled() == cancelled
            assert cancelled or task.result().succeeded, task.result().content
        for kind in "ab":
            of_kind = [number for number in started if calls[number][0] == kind]
            assert of_kind == sorted(of_kind)
        # Every place is free again.
        both = asyncio.gather(*(manager.run(call(kind, f'{{"kind": "{kind}", "number": 99}}')) for kind in "ab"))
        assert all(result.succeeded for result in await asyncio.wait_for(both, 10))

    asyncio.run(main())


@pytest.mark.parametrize("how", ["done", "failed", "timed out", "cancelled"])
async def test_what_a_call_was_given_is_not_kept_alive(how: str) -> None:
    manager = ToolManager()
    made: list[weakref.ref[Opaque]] = []
    started = asyncio.Event()

    def make(context: ToolContext) -> Opaque:
        thing = Opaque("large")
        made.append(weakref.ref(thing))
        return thing

    async def work(thing: Annotated[Opaque, Inject]) -> None:
        started.set()
        if how == "failed":
            raise ValueError
        if how != "done":
            await asyncio.Event().wait()

    manager.provide(Opaque, factory=make)
    manager.register_tool(work, timeout=0.01 if how == "timed out" else None)
    running = asyncio.create_task(manager.run(call("work")))
    await started.wait()
    if how == "cancelled":
        running.cancel()
    await asyncio.wait([running])
    result = None if how == "cancelled" else running.result()
    del running
    gc.collect()
    assert made[0]() is None
    assert result is None or result.succeeded == (how == "done")
