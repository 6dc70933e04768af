import asyncio
import gc
import logging
import math
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from enum import Enum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError, ToolRegistrationError
from llmgine.llm.tools import ToolCall, ToolManager

request_id: ContextVar[str] = ContextVar("request_id")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(id=f"call-{name}", name=name, arguments=arguments)


def get_weather(city: str, days: int = 1) -> str:
    """Look up the weather."""
    return f"{city}: {days} days of sun"


@pytest.fixture
def manager() -> ToolManager:
    return ToolManager()


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Where the sync tools of a test hang until it is over."""
    release = threading.Event()
    yield release
    release.set()


# Registration


def test_registering_returns_the_function_and_makes_it_a_local_tool(manager: ToolManager) -> None:
    @manager.register_tool
    def ping() -> str:
        return "pong"

    assert ping() == "pong"
    assert manager.is_local_tool("ping")
    assert not manager.is_local_tool("pong")
    assert [tool.function for tool in manager.tools] == [ping]


async def test_schemas_are_listed_in_the_order_of_registration(manager: ToolManager) -> None:
    assert manager.tool_schemas == []
    manager.register_tool(get_weather)
    await manager.register_tool_async(get_weather, name="again", description="Once more.", timeout=3)
    assert [(schema["function"]["name"], schema["function"]["description"]) for schema in manager.tool_schemas] == [
        ("get_weather", "Look up the weather."),
        ("again", "Once more."),
    ]
    assert manager.parse_tools_to_list() == manager.tool_schemas
    assert manager.tools[1].timeout == 3


def test_a_name_is_given_only_once(manager: ToolManager) -> None:
    manager.register_tool(get_weather)
    with pytest.raises(ToolRegistrationError, match=r"'get_weather' already.*name="):
        manager.register_tool(lambda: None, name="get_weather")
    assert [tool.function for tool in manager.tools] == [get_weather]


# One call


async def test_a_call_returns_what_the_tool_returns(manager: ToolManager) -> None:
    result = object()
    manager.register_tool(lambda: result, name="sync")

    @manager.register_tool
    async def coroutine() -> object:
        return result

    assert await manager.execute_tool_call(call("sync")) is result
    assert await manager.execute_tool_call(call("coroutine")) is result


async def test_a_run_tells_everything_about_the_call(manager: ToolManager) -> None:
    @manager.register_tool
    def paint(color: Color, layers: list[int], opacity: float = 1.0) -> dict[str, Any]:
        return {"color": color, "layers": layers}

    asked = call("paint", '{"color": "BLUE", "layers": ["1", 2]}')
    result = await manager.run(asked)
    assert result.call is asked
    assert result.succeeded
    assert result.value == {"color": Color.BLUE, "layers": [1, 2]}
    assert result.content == '{"color":"blue","layers":[1,2]}'
    assert result.arguments == {"color": Color.BLUE, "layers": [1, 2], "opacity": 1.0}
    assert result.duration > 0


async def test_an_unknown_tool_is_answered_with_the_known_ones(manager: ToolManager) -> None:
    assert await manager.execute_tool_call(call("x")) == "Error: Tool 'x' not found. Available tools: none."
    manager.register_tool(get_weather)
    manager.register_tool(get_weather, name="again")
    text = "Error: Tool 'x' not found. Available tools: get_weather, again."
    assert await manager.execute_tool_call(call("x", "no JSON")) == text
    result = await manager.run(call("x", '{"a": 1}'))
    assert (result.succeeded, result.content, result.arguments) == (False, text, {"a": 1})


async def test_arguments_that_do_not_fit_never_reach_the_tool(manager: ToolManager) -> None:
    manager.register_tool(get_weather)
    result = await manager.run(call("get_weather", '{"days": "many", "town": "Paris"}'))
    assert not result.succeeded
    assert result.value is None
    assert result.arguments == {"days": "many", "town": "Paris"}
    lines = result.content.splitlines()
    assert lines[0] == "Error executing get_weather: the arguments do not fit:"
    assert [line.partition(":")[0] for line in lines[1:]] == ["- city", "- days", "- town"]


async def test_arguments_that_are_no_json_are_kept_as_they_came(manager: ToolManager) -> None:
    manager.register_tool(get_weather)
    result = await manager.run(call("get_weather", "city=Paris"))
    assert result.content.startswith("Error executing get_weather: the arguments are not valid JSON")
    assert result.arguments == {"__raw__": "city=Paris"}


@given(st.text())
@example('"\\ud83d"')
@example("\ud83d")
@example('{"city": "\\ud83d"}')
def test_no_arguments_make_a_run_raise(arguments: str) -> None:
    manager = ToolManager(max_result_chars=300)
    manager.register_tool(get_weather)
    result = asyncio.run(manager.run(call("get_weather", arguments)))
    assert not result.succeeded
    assert len(result.content.encode()) < 3000


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too many"), "ValueError: too many"),
        (TimeoutError("of the tool itself"), "TimeoutError: of the tool itself"),
        (KeyError("city"), "KeyError: 'city'"),
        (AssertionError(), "AssertionError"),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_tool_raises_is_told_to_the_model_and_logged(
    manager: ToolManager, caplog: pytest.LogCaptureFixture, error: Exception, text: str, is_async: bool
) -> None:
    def fail() -> None:
        raise error

    async def fail_async() -> None:
        raise error

    manager.register_tool(fail_async if is_async else fail, name="fail")
    with caplog.at_level(logging.DEBUG, logger="llmgine"):
        assert await manager.execute_tool_call(call("fail")) == f"Error executing fail: {text}"
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_a_result_that_cannot_be_shown_is_a_failure(manager: ToolManager) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("broken")

    broken = Broken()
    manager.register_tool(lambda: broken, name="breaks")
    result = await manager.run(call("breaks"))
    assert not result.succeeded
    assert result.content == "Error executing breaks: RuntimeError: broken"


async def test_a_megabyte_is_cut_for_the_model_and_whole_for_the_application() -> None:
    manager = ToolManager(max_result_chars=1000)
    manager.register_tool(lambda: "x" * 1_000_000, name="talk")
    result = await manager.run(call("talk"))
    assert result.content == "x" * 1000 + "\n[999,000 of 1,000,000 characters left out]"
    assert result.value == "x" * 1_000_000


async def test_an_error_is_cut_as_well() -> None:
    manager = ToolManager(max_result_chars=1000)

    @manager.register_tool
    def fail() -> None:
        raise ValueError("x" * 1_000_000)

    assert len(await manager.execute_tool_call(call("fail"))) < 1100
    assert len(await manager.execute_tool_call(call("x" * 1_000_000))) < 1100


async def test_a_sync_tool_sees_the_callers_context_and_leaves_the_loop_free(manager: ToolManager) -> None:
    loop_is_free = threading.Event()

    @manager.register_tool
    def wait() -> str:
        assert loop_is_free.wait(10)
        return request_id.get()

    request_id.set("r1")
    running = asyncio.create_task(manager.execute_tool_call(call("wait")))
    asyncio.get_running_loop().call_soon(loop_is_free.set)
    assert await running == "r1"


# Time limits


async def test_an_async_tool_is_cancelled_at_its_timeout_and_cleans_up(manager: ToolManager) -> None:
    cleaned_up = False

    async def hang() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    manager.register_tool(hang, timeout=0.01)
    assert await manager.execute_tool_call(call("hang")) == "Error executing hang: timed out after 0.01 seconds"
    assert cleaned_up


async def test_a_sync_tool_that_times_out_may_still_be_running(hanging: threading.Event) -> None:
    manager = ToolManager(default_timeout_s=0.01)
    manager.register_tool(hanging.wait, name="hang")
    result = await manager.run(call("hang", "{}"))
    assert result.content == "Error executing hang: timed out after 0.01 seconds; it may still be running"
    assert result.duration >= 0.01


async def test_a_timeout_counts_even_if_the_tool_answers_its_cancellation_otherwise(manager: ToolManager) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "never mind"
        return ""

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    manager.register_tool(stubborn, timeout=0.01)
    manager.register_tool(failing, timeout=0.01)
    for text in await manager.execute_tool_calls([call("stubborn"), call("failing")]):
        assert "timed out after 0.01 seconds" in text


async def test_an_infinite_timeout_is_none(manager: ToolManager) -> None:
    manager.register_tool(get_weather, timeout=math.inf)
    assert await manager.execute_tool_call(call("get_weather", '{"city": "Paris"}')) == "Paris: 1 days of sun"


async def test_tools_that_hang_take_nothing_from_the_others(hanging: threading.Event) -> None:
    manager = ToolManager(max_concurrency=2)
    manager.register_tool(hanging.wait, name="hang", timeout=0.01)
    manager.register_tool(get_weather)
    calls = [call("hang")] * 40 + [call("get_weather", '{"city": "Paris"}')]
    *timed_out, weather = await manager.execute_tool_calls(calls)
    assert all("timed out" in text for text in timed_out)
    assert weather == "Paris: 1 days of sun"
    assert await asyncio.to_thread(lambda: "free") == "free"


# Many calls


@given(st.permutations(range(6)))
def test_results_come_in_the_order_of_the_calls_whatever_finishes_first(finishing: list[int]) -> None:
    async def main() -> list[Any]:
        manager = ToolManager()
        turns = [asyncio.Event() for _ in finishing]
        turns[finishing[0]].set()

        @manager.register_tool
        async def work(number: int) -> int:
            await turns[number].wait()
            after = finishing.index(number) + 1
            if after < len(finishing):
                turns[finishing[after]].set()
            return number

        return await manager.execute_tool_calls([call("work", f'{{"number": {number}}}') for number in range(6)])

    assert asyncio.run(main()) == list(range(6))


@pytest.mark.parametrize("is_async", [True, False])
async def test_as_many_tools_run_at_once_as_are_allowed_and_no_more(is_async: bool) -> None:
    manager = ToolManager(max_concurrency=3)
    barrier, thread_barrier = asyncio.Barrier(3), threading.Barrier(3)
    running: set[int] = set()
    most = 0

    def enter(number: int) -> None:
        nonlocal most
        running.add(number)
        most = max(most, len(running))

    async def work(number: int) -> None:
        enter(number)
        await barrier.wait()
        running.remove(number)

    def work_in_thread(number: int) -> None:
        enter(number)
        thread_barrier.wait(10)
        running.remove(number)

    manager.register_tool(work if is_async else work_in_thread, name="work")
    # Neither barrier opens for fewer than three.
    results = await manager.execute_tool_calls([call("work", f'{{"number": {n}}}') for n in range(30)])
    assert results == [None] * 30
    assert most == 3


async def test_one_failure_leaves_the_other_calls_alone(manager: ToolManager) -> None:
    failed = asyncio.Event()

    @manager.register_tool
    async def fail() -> None:
        failed.set()
        raise ValueError("bad")

    @manager.register_tool
    async def wait() -> str:
        await failed.wait()
        return "done"

    assert await manager.execute_tool_calls([call("fail"), call("wait")]) == [
        "Error executing fail: ValueError: bad",
        "done",
    ]


async def test_cancelling_the_caller_cancels_the_tools_and_waits_for_their_clean_up() -> None:
    manager = ToolManager(max_concurrency=2)
    both_started = asyncio.Event()
    started: list[int] = []
    cleaned_up: list[int] = []

    @manager.register_tool
    async def hang(number: int) -> None:
        started.append(number)
        if len(started) == 2:
            both_started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(number)

    calls = [call("hang", f'{{"number": {number}}}') for number in range(3)]
    running = asyncio.create_task(manager.execute_tool_calls(calls))
    await both_started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(cleaned_up) == started == [0, 1]  # the third was still waiting for its turn


async def test_a_cancellation_arrives_even_if_the_tool_suppresses_it(manager: ToolManager) -> None:
    started = asyncio.Event()

    @manager.register_tool
    async def stubborn() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "never mind"
        return ""

    running = asyncio.create_task(manager.execute_tool_call(call("stubborn")))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_callers_own_timeout_is_a_cancellation_and_not_the_tools(manager: ToolManager) -> None:
    @manager.register_tool
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await manager.run(call("hang"))


async def test_a_cancellation_that_is_the_tools_own_is_its_failure(manager: ToolManager) -> None:
    @manager.register_tool
    async def give_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    @manager.register_tool
    async def fail() -> None:
        raise asyncio.CancelledError

    @manager.register_tool
    def fail_in_thread() -> None:
        raise asyncio.CancelledError

    for name in ("give_up", "fail", "fail_in_thread"):
        text = f"Error executing {name}: asyncio.exceptions.CancelledError"
        assert await manager.execute_tool_call(call(name)) == text


async def test_what_an_async_tool_sets_in_its_context_stays_there(manager: ToolManager) -> None:
    @manager.register_tool
    async def work() -> str:
        seen = request_id.get()
        request_id.set("changed")
        return seen

    request_id.set("set")
    assert (await manager.run(call("work"))).value == "set"
    assert request_id.get() == "set"


async def test_a_cancellation_before_a_tool_has_begun_is_one(manager: ToolManager) -> None:
    begun = False

    @manager.register_tool
    async def work() -> None:
        nonlocal begun
        begun = True

    running = asyncio.create_task(manager.run(call("work")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    stopping = asyncio.current_task()
    assert stopping is not None
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await manager.run(call("work"))
    stopping.uncancel()
    assert not begun


async def test_who_was_cancelled_before_and_went_on_may_use_tools(manager: ToolManager) -> None:
    @manager.register_tool
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    async def save_what_there_is() -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return (await manager.run(call("work"))).value

    saving = asyncio.create_task(save_what_there_is())
    await asyncio.sleep(0)
    saving.cancel()
    assert await saving == "done"


async def test_a_timeout_while_the_tool_cleans_up_after_the_callers_cancellation_is_the_callers(
    manager: ToolManager,
) -> None:
    cleaned = False
    started = asyncio.Event()

    async def work() -> None:
        nonlocal cleaned
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()  # until the time is over
            cleaned = True

    manager.register_tool(work, timeout=0.05)
    running = asyncio.create_task(manager.run(call("work")))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cleaned


def test_a_manager_may_be_used_in_one_loop_after_another_and_keeps_none() -> None:
    manager = ToolManager(max_concurrency=1)

    @manager.register_tool
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    async def main() -> "weakref.ref[asyncio.AbstractEventLoop]":
        assert await manager.execute_tool_calls([call("work")] * 3) == ["done"] * 3
        return weakref.ref(asyncio.get_running_loop())

    first = asyncio.run(main())
    asyncio.run(main())
    gc.collect()
    assert first() is None


# Configuration


async def test_the_environment_is_read_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_TOOL_MAX_CONCURRENCY", "3")
    monkeypatch.setenv("LLMGINE_TOOL_TIMEOUT_SECONDS", "0.5")
    manager = ToolManager()
    monkeypatch.delenv("LLMGINE_TOOL_MAX_CONCURRENCY")
    monkeypatch.setenv("LLMGINE_TOOL_TIMEOUT_SECONDS", "")
    assert (manager.max_concurrency, manager.default_timeout_s) == (3, 0.5)
    assert (ToolManager().max_concurrency, ToolManager().default_timeout_s) == (8, 30)
    monkeypatch.setenv("LLMGINE_TOOL_MAX_CONCURRENCY", "nonsense")
    assert ToolManager(max_concurrency=2, default_timeout_s=1).max_concurrency == 2


@pytest.mark.parametrize("variable", ["LLMGINE_TOOL_MAX_CONCURRENCY", "LLMGINE_TOOL_TIMEOUT_SECONDS"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "nan"])
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"{variable} must be a number above 0.*'{value}'"):
        ToolManager()


@pytest.mark.parametrize("option", ["max_concurrency", "default_timeout_s", "max_result_chars"])
def test_a_bad_option_is_named(option: str) -> None:
    options: dict[str, Any] = {option: 0}
    with pytest.raises(ConfigurationError, match=f"{option} must be .*not 0"):
        ToolManager(**options)


def test_the_chat_history_is_there_for_tools_to_read() -> None:
    history = object()
    assert ToolManager(history).chat_history is history


def test_tool_calls_can_be_passed_around_without_loading_pydantic() -> None:
    program = "import sys, llmgine.llm.tools; print('pydantic' in sys.modules, llmgine.llm.tools.ToolManager.__name__)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout == "False ToolManager\n"
