"""The tools of an application: described to the model, and run when it asks."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from traceback import format_exception_only
from typing import Any, TypeVar

from llmgine.bus.replay import tools_are_off
from llmgine.errors import (
    ConfigurationError,
    ToolError,
    ToolRegistrationError,
    ToolTimeoutError,
    ToolValidationError,
)
from llmgine.llm.tools.result import ToolResult, as_text, bounded
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.tools.validation import decode_arguments
from llmgine.llm.types import AsyncOrSyncToolFunction, ModelFormattedDictTool

__all__ = ["ToolManager", "ToolResult"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=AsyncOrSyncToolFunction)
N = TypeVar("N", int, float)


class ToolManager:
    """Registers functions as tools and runs the calls that a model makes.

    Coroutine functions run in the event loop; at their timeout they are cancelled, and waited for until they have
    cleaned up. Any other function runs in a daemon thread of its own, so it never blocks the loop. As threads cannot be
    stopped, one that times out or whose caller is cancelled runs on, but nothing waits for it any more: it counts
    towards no limit and does not keep the interpreter from exiting.

    Args:
        chat_history: The conversation that the calls belong to, for tools to read. The manager never writes to it.
        max_concurrency: Tools that run at the same time in one event loop, at least 1; further calls wait their turn.
            Default: LLMGINE_TOOL_MAX_CONCURRENCY, or 8.
        default_timeout_s: Seconds that one call may take from its turn on; `math.inf` is no limit.
            Default: LLMGINE_TOOL_TIMEOUT_SECONDS, or 30.
        max_result_chars: Longest text that a model gets as a result; the rest is cut off, with a mark that says so.

    Raises:
        ConfigurationError: a limit is not a number above zero.
    """

    def __init__(
        self,
        chat_history: Any = None,
        *,
        max_concurrency: int | None = None,
        default_timeout_s: float | None = None,
        max_result_chars: int = 65_536,
    ) -> None:
        self.chat_history = chat_history
        self.max_concurrency = _limit("max_concurrency", max_concurrency, "LLMGINE_TOOL_MAX_CONCURRENCY", 8)
        self.default_timeout_s = _limit("default_timeout_s", default_timeout_s, "LLMGINE_TOOL_TIMEOUT_SECONDS", 30.0)
        if max_result_chars < 1:
            raise ConfigurationError(f"max_result_chars must be at least 1, not {max_result_chars}.")
        self.max_result_chars = max_result_chars
        self._tools: dict[str, Tool] = {}
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def register_tool(
        self,
        function: F,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
    ) -> F:
        """Make a function a tool, and return the function: this is also a decorator.

        Args:
            function: A function, method, partial or callable object, sync or async, whose parameters can all be named.
            name: 1 to 64 letters, digits, `_` or `-`. Default: the function's name.
            description: What the model reads about it. Default: the docstring up to its first section.
            timeout: Seconds that one call may take. Default: the manager's.

        Raises:
            ToolRegistrationError: the function cannot be a tool, or the name is taken.
        """
        tool = Tool.from_function(function, name=name, description=description, timeout=timeout)
        if tool.name in self._tools:
            raise ToolRegistrationError(
                f"There is a tool '{tool.name}' already. Give this one another name with name=."
            )
        self._tools[tool.name] = tool
        return function

    async def register_tool_async(
        self,
        function: F,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
    ) -> F:
        """Do what `register_tool` does, for callers that await every registration."""
        return self.register_tool(function, name=name, description=description, timeout=timeout)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools, in the order of their registration."""
        return tuple(self._tools.values())

    @property
    def tool_schemas(self) -> list[ModelFormattedDictTool]:
        """The tools in the function-calling format of OpenAI."""
        return [tool.schema for tool in self.tools]

    def parse_tools_to_list(self) -> list[ModelFormattedDictTool]:
        """Return `tool_schemas`."""
        return self.tool_schemas

    def is_local_tool(self, name: str) -> bool:
        """Return whether a function is registered under that name."""
        return name in self._tools

    async def execute_tool_calls(self, tool_calls: Sequence[ToolCall]) -> list[Any]:
        """Run calls at the same time, and return their results in the order of the calls.

        A cancellation cancels those that run and waits until they have cleaned up.
        """
        return await asyncio.gather(*map(self.execute_tool_call, tool_calls))

    async def execute_tool_call(self, tool_call: ToolCall) -> Any:
        """Return what the tool returns or, if it fails, a text for the model that begins with "Error"."""
        result = await self.run(tool_call)
        return result.value if result.succeeded else result.content

    async def run(self, call: ToolCall) -> ToolResult:
        """Run a call. Whatever goes wrong is in the result; only a cancellation of the caller is raised."""
        problem = ""
        try:
            arguments = decode_arguments(call.arguments)
        except ToolValidationError as exc:
            arguments = {"__raw__": call.arguments}
            problem = f"Error executing {call.name}: {exc}"
        tool = self._tools.get(call.name)
        if tool is None:
            problem = f"Error: Tool '{call.name}' not found. Available tools: {', '.join(self._tools) or 'none'}."
        elif tools_are_off():
            problem = f"Error executing {call.name}: not run, because this is a replay of what happened before."
        if tool is None or problem:
            return ToolResult(call, bounded(problem, self.max_result_chars), arguments=arguments)
        async with self._turn():
            return await self._run(tool, call, arguments)

    async def _run(self, tool: Tool, call: ToolCall, arguments: dict[str, Any]) -> ToolResult:
        async def work() -> tuple[Any, str]:
            nonlocal arguments
            arguments = tool.validator.validate(arguments)
            value = await tool.call(arguments)
            return value, as_text(value)

        timeout = self.default_timeout_s if tool.timeout is None else tool.timeout
        started = time.monotonic()
        outcome: tuple[Any, str] | BaseException
        try:
            async with asyncio.timeout(timeout):
                # `gather` tells the tool from its surroundings: what the tool raises, be it a TimeoutError or a
                # CancelledError, comes back as a value; a cancellation from outside is raised here, after the tool
                # has cleaned up, even if the tool suppresses it.
                [outcome] = await asyncio.gather(work(), return_exceptions=True)
        except TimeoutError:
            going_on = "" if tool.is_async else "; it may still be running"
            outcome = ToolTimeoutError(f"timed out after {timeout:g} seconds{going_on}", timeout=timeout)
        duration = time.monotonic() - started
        if isinstance(outcome, BaseException):
            logger.debug("Tool %s failed", tool.name, exc_info=outcome)
            told = str(outcome) if isinstance(outcome, ToolError) else "".join(format_exception_only(outcome)).strip()
            text = bounded(f"Error executing {tool.name}: {told}", self.max_result_chars)
            return ToolResult(call, text, arguments=arguments, duration=duration)
        value, text = outcome
        text = bounded(text, self.max_result_chars)
        return ToolResult(call, text, succeeded=True, value=value, arguments=arguments, duration=duration)

    def _turn(self) -> asyncio.Semaphore:
        # A semaphore belongs to one event loop, and keeps it in memory.
        loop = asyncio.get_running_loop()
        if loop not in self._turns:
            for other in [other for other in self._turns if other.is_closed()]:
                del self._turns[other]
            self._turns[loop] = asyncio.Semaphore(self.max_concurrency)
        return self._turns[loop]


def _limit(option: str, given: N | None, variable: str, default: N) -> N:
    source, value = (variable, os.environ.get(variable) or default) if given is None else (option, given)
    kind = type(default)
    unusable = ConfigurationError(f"{source} must be a number above 0 ({kind.__name__}), not {value!r}.")
    try:
        limit = kind(value)
    except (OverflowError, TypeError, ValueError) as exc:
        raise unusable from exc
    if not limit > 0:
        raise unusable
    return limit
