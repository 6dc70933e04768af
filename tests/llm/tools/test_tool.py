import asyncio
import functools
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from llmgine.errors import ToolExecutionError, ToolRegistrationError
from llmgine.llm.tools.tool import Tool


class Thermometer:
    """Measures the temperature."""

    def read(self, unit: str) -> str:
        """Read the temperature."""
        return f"20 {unit}"

    async def read_async(self, unit: str) -> str:
        return f"20 {unit}"

    @staticmethod
    def convert(unit: str) -> str:
        return f"20 {unit}"

    @classmethod
    def default(cls, unit: str) -> str:
        return f"{cls.__name__} 20 {unit}"

    unbound = staticmethod(convert)

    def __call__(self, unit: str) -> str:
        return f"20 {unit}"


class AsyncThermometer:
    async def __call__(self, unit: str) -> str:
        """Read it."""
        return f"20 {unit}"


def read(unit: str) -> str:
    return f"20 {unit}"


async def read_async(unit: str) -> str:
    return f"20 {unit}"


def later(function: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    @functools.wraps(function)
    def wrapper(**arguments: str) -> Awaitable[str]:
        return function(**arguments)

    return wrapper


@pytest.mark.parametrize(
    "function",
    [
        read,
        read_async,
        later(read_async),
        Thermometer().read,
        Thermometer().read_async,
        Thermometer.convert,
        Thermometer.__dict__["unbound"],
        Thermometer.default,
        Thermometer(),
        AsyncThermometer(),
        functools.lru_cache(read),
        functools.partial(lambda place, unit: f"{place} {unit}", 20),
        functools.partial(AsyncThermometer()),
    ],
)
async def test_every_kind_of_callable_can_be_a_tool(function: Callable[..., Any]) -> None:
    tool = Tool.from_function(function, name="read")
    assert tool.json_schema["properties"] == {"unit": tool.parameters[0].json_schema}
    assert (await tool.call(tool.validator.validate({"unit": "C"}))).endswith("20 C")


def test_the_name_and_the_description_are_the_functions_unless_given() -> None:
    assert Tool.from_function(Thermometer().read).name == "read"
    assert Tool.from_function(Thermometer().read).description == "Read the temperature."
    assert Tool.from_function(functools.partial(read, unit="C")).name == "read"
    assert Tool.from_function(Thermometer(), name="measure").description == "Measures the temperature."
    assert Tool.from_function(AsyncThermometer(), name="measure").description == "Read it."
    assert Tool.from_function(read).description == ""
    given = Tool.from_function(Thermometer().read, name="Measure-2_C", description="Mine.")
    assert (given.name, given.description) == ("Measure-2_C", "Mine.")


def positional(x: int, /) -> None: ...
def several(*items: int) -> None: ...
def anything(**named: int) -> None: ...
def thing(thermometer: Thermometer) -> None: ...
def callback(done: Callable[[], None]) -> None: ...
def pattern(text: Annotated[str, Field(pattern="(")]) -> None: ...


def generate() -> Iterator[int]:
    yield 1


async def generate_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda: None, r"name '<lambda>'.*name="),
        (Thermometer(), r"name ''.*name="),
        (functools.partial(lambda: None), r"name '<lambda>'.*name="),
        (Thermometer, "is not a function"),
        ("read", "is not a function"),
        (positional, "'x: int' is positional-only.*wrap it"),
        (several, r"'\*items: int' is variadic positional"),
        (anything, r"'\*\*named: int' is variadic keyword"),
        (Thermometer.read, "method without its object"),
        (max, "no readable signature"),
        (thing, r"types that JSON can express.*Thermometer.*functools\.partial"),
        (callback, "types that JSON can express"),
        (pattern, "types that JSON can express.*regex"),
        (generate, "generator.*list"),
        (generate_async, "generator.*list"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_reason(function: Any, reason: str) -> None:
    with pytest.raises(ToolRegistrationError, match=reason):
        Tool.from_function(function)


@pytest.mark.parametrize("name", ["a b", "a.b", "ä", "a" * 65, "a\n"])
def test_a_name_that_providers_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ToolRegistrationError, match="1 to 64 letters"):
        Tool.from_function(read, name=name)


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan])
def test_a_timeout_is_above_zero(timeout: float) -> None:
    with pytest.raises(ToolRegistrationError, match="timeout must be above 0 seconds"):
        Tool.from_function(read, timeout=timeout)


async def test_only_coroutine_functions_run_in_the_event_loops_thread() -> None:
    async def here() -> threading.Thread:
        return threading.current_thread()

    assert Tool.from_function(AsyncThermometer(), name="read").is_async
    assert not Tool.from_function(Thermometer(), name="read").is_async
    assert await Tool.from_function(here).call({}) is threading.current_thread()
    assert await Tool.from_function(threading.current_thread).call({}) is not threading.current_thread()


@pytest.mark.parametrize("is_async", [True, False])
def test_a_tool_cannot_end_the_program(is_async: bool) -> None:
    def leave() -> None:
        raise SystemExit(3)

    async def leave_async() -> None:
        raise SystemExit(3)

    tool = Tool.from_function(leave_async if is_async else leave)
    with pytest.raises(ToolExecutionError, match="tried to exit the program, with 3"):
        asyncio.run(tool.call({}))
