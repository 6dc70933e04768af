"""The tools of an application: described to the model, and run when it asks."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar, Unpack, cast

from llmgine.bus.replay import tools_are_off
from llmgine.errors import (
    ConfigurationError,
    MCPConnectionError,
    MissingExtraError,
    ToolTimeoutError,
    ToolValidationError,
)
from llmgine.llm.approvals.requirement import needs_approval
from llmgine.llm.tools.attempt import Outcome, run_attempt, told
from llmgine.llm.tools.injection import Factory
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.servers import MCPServers
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import ToolResult, bounded
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_options import ToolOptions
from llmgine.llm.tools.tool_register import ToolRegister
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.tools.turns import Turns
from llmgine.llm.tools.validation import decode_arguments
from llmgine.llm.types import AsyncOrSyncToolFunction, ModelFormattedDictTool
from llmgine.messages import new_id

__all__ = ["ToolManager", "ToolResult"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=AsyncOrSyncToolFunction)
N = TypeVar("N", int, float)


class ToolManager:
    """Registers functions as tools and runs the calls that a model makes.

    Coroutine functions run in the event loop; at their timeout they are cancelled, and waited for until they have
    cleaned up. Any other function runs in a daemon thread that it has to itself, so it never blocks the loop. As
    threads cannot be stopped, one that times out or whose caller is cancelled runs on, but nothing waits for it any
    more: it counts towards no limit and does not keep the interpreter from exiting. With `in_process`, a function of
    either kind runs in a process of its own, which is killed.

    Args:
        chat_history: The conversation that the calls belong to, for tools to read. The manager never writes to it.
        max_concurrency: Tools that run at the same time in one event loop, at least 1; further calls wait their turn.
            Default: LLMGINE_TOOL_MAX_CONCURRENCY, or 8.
        default_timeout_s: Seconds that one attempt may take from its turn on; `math.inf` is no limit.
            Default: LLMGINE_TOOL_TIMEOUT_SECONDS, or 30.
        max_result_chars: Longest text that a model gets as a result; the rest is cut off, with a mark that says so.
        random: Returns a number between two, for the delays between attempts.
        sleep: Waits for some seconds between attempts.

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
        random: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.chat_history = chat_history
        self.max_concurrency = _limit("max_concurrency", max_concurrency, "LLMGINE_TOOL_MAX_CONCURRENCY", 8)
        self.default_timeout_s = _limit("default_timeout_s", default_timeout_s, "LLMGINE_TOOL_TIMEOUT_SECONDS", 30.0)
        if max_result_chars < 1:
            raise ConfigurationError(f"max_result_chars must be at least 1, not {max_result_chars}.")
        self.max_result_chars = max_result_chars
        self._register = ToolRegister()
        self._turns = Turns(self.max_concurrency)
        self._random = random
        self._sleep = sleep

    def provide(self, kind: Any, value: Any = None, *, factory: Factory | None = None) -> None:
        """Say what parameters annotated `Annotated[kind, Inject]` get. To be said before their tools are registered.

        Args:
            kind: the type, exactly as in the annotation; `kind | None` there means the same.
            value: what all calls get.
            factory: makes it of the `ToolContext` of each attempt, in the event loop; it may be async.

        Raises:
            ConfigurationError: both are given or neither, or something is provided for this type already.
        """
        self._register.dependencies.provide(kind, value, factory=factory)

    def register_tool(self, function: F, **options: Unpack[ToolOptions]) -> F:
        """Make a function a tool, and return the function: this is also a decorator.

        Args:
            function: A function, method, partial or callable object, sync or async, whose parameters can all be named
                or are injected: a `ToolContext`, or what is `Annotated[…, Inject]`.
            **options: `name`, `description`, `timeout`, `retries`, `max_concurrency`, `effect`, `requires_approval`,
                `in_process`, as in `ToolOptions`. They go before those of `@tool`.

        Raises:
            ToolRegistrationError: the function cannot be a tool, or the name is taken.
        """
        self._register.register_tool(function, **options)
        return function

    async def register_tool_async(self, function: F, **options: Unpack[ToolOptions]) -> F:
        """Do what `register_tool` does, for callers that await every registration."""
        return self.register_tool(function, **options)

    def register_tools(self, source: object, *, prefix: str = "") -> list[Tool]:
        """Make tools of the functions of an object or a module: of all or, where one is wrong, of none.

        Args:
            source: whose functions that are marked with `@tool` become tools; if none is, those that are public.
            prefix: what the names of the tools begin with.

        Raises:
            ToolRegistrationError: one of them cannot be a tool, or a name is taken, or there is no function.
        """
        return self._register.register_tools(source, prefix=prefix)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools, in the order of their registration."""
        return self._register.tools

    @property
    def tool_schemas(self) -> list[ModelFormattedDictTool]:
        """The tools in the function-calling format of OpenAI."""
        return [tool.schema for tool in self.tools]

    def parse_tools_to_list(self) -> list[ModelFormattedDictTool]:
        """Return `tool_schemas`."""
        return self.tool_schemas

    def is_local_tool(self, name: str) -> bool:
        """Return whether a function of this program is registered under that name."""
        tool = self._register.get(name)
        return tool is not None and not tool.server

    def is_mcp_tool(self, name: str) -> bool:
        """Return whether a tool of an MCP server has that name."""
        tool = self._register.get(name)
        return tool is not None and bool(tool.server)

    def tool_info(self, name: str) -> dict[str, Any]:
        """Return what events tell of a tool: `{"name"}`, and what `MCPServers.about` says of its server."""
        tool = self._register.get(name)
        return {"name": name, **(self.mcp.about(tool.server) if tool is not None and tool.server else {})}

    @cached_property
    def mcp(self) -> MCPServers:
        """The MCP servers whose tools are among these."""
        return MCPServers(
            self._register, timeout=self.default_timeout_s, random=self._random, sleep=self._sleep, clock=time.monotonic
        )

    async def initialize_mcp(self) -> bool:
        """Return whether MCP servers can be used, which needs the extra `mcp`. If not, say so in one warning."""
        return await self.mcp.load()

    async def register_mcp_server(
        self,
        server_name: str,
        command: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> bool:
        """Connect to an MCP server, and add its tools to these. Return whether they are there.

        If they are not, the log says why, and nothing else has changed: without the extra `mcp` a warning, else an
        error.

        Args:
            server_name: what it is called here.
            command: the program to start; or else `url`.
            args: its arguments.
            env: its environment variables, besides the few that every server gets.
            url: where it answers over streamable HTTP.
            headers: sent with every request to it.
            **options: the others of `MCPServerConfig`.

        Raises:
            ConfigurationError: the options contradict each other, or there is a server of that name already.
        """
        config = MCPServerConfig(
            command=command or "",
            args=cast("tuple[str, ...]", args),  # which makes it one, unless it is a text
            env=env or {},
            url=url or "",
            headers=headers or {},
            **options,
        )
        try:
            await self.mcp.connect(server_name, config)
        except MissingExtraError:
            return await self.mcp.load()  # which says so
        except MCPConnectionError as exc:
            logger.error("%s Its tools are not there.", exc)  # noqa: TRY400  # where it comes from helps nobody
            return False
        return True

    async def cleanup_mcp_servers(self) -> None:
        """End all MCP servers; their tools are gone. It may be called at any time."""
        await self.mcp.close()

    async def execute_tool_calls(self, tool_calls: Sequence[ToolCall]) -> list[Any]:
        """Run calls at the same time, and return their results in the order of the calls.

        A cancellation cancels those that run and waits until they have cleaned up.
        """
        return await asyncio.gather(*map(self.execute_tool_call, tool_calls))

    async def execute_tool_call(self, tool_call: ToolCall) -> Any:
        """Return what the tool returns or, if it fails, a text for the model that begins with "Error"."""
        result = await self.run(tool_call)
        return result.value if result.succeeded else result.content

    async def run(self, call: ToolCall, context: ToolContext | None = None) -> ToolResult:
        """Prepare a call and run it. Whatever goes wrong is in the result; only a cancellation is raised.

        A call that requires approval is not run: there is nobody here to ask.
        """
        prepared = self.prepare(call)
        if isinstance(prepared, ToolResult):
            return prepared
        if needs_approval(prepared):
            text = f"Error executing {call.name}: not run, because a person has to agree to it and has not been asked."
            return self._refused(call, text, prepared.arguments)
        return await self.run_prepared(prepared, context)

    def prepare(self, call: ToolCall) -> PreparedCall | ToolResult:
        """Return a call with its tool and its arguments checked, or the result that says why it cannot be run."""
        try:
            sent = decode_arguments(call.arguments)
            problem = ""
        except ToolValidationError as exc:
            sent = {"__raw__": call.arguments}
            problem = str(exc)
        tool = self._register.get(call.name)
        if tool is None:
            return self._refused(call, self._register.explain_unknown(call.name), sent)
        if tools_are_off():
            problem = "not run, because this is a replay of what happened before."
        if not problem:
            try:
                return PreparedCall.of(call, tool, sent)
            except Exception as exc:  # annotations may hold code of the application's
                logger.debug("The arguments of tool %s could not be checked", tool.name, exc_info=exc)
                problem = told(exc)
        return self._refused(call, f"Error executing {tool.name}: {problem}", sent)

    async def run_prepared(self, prepared: PreparedCall, context: ToolContext | None = None) -> ToolResult:
        """Run a call that has been prepared and, where it must be, agreed to.

        It waits for its turn; a failure is tried again as the tool's options say, each attempt in a turn of its own.
        Whatever goes wrong is in the result; only a cancellation is raised.

        Args:
            prepared: as `prepare` returns it.
            context: what the tool may know. Its deadline holds for all attempts together; its idempotency key is the
                same for each, and a new one if it has none. The rest of a call is filled in here.
        """
        tool = prepared.tool
        if context is None:
            context = ToolContext(idempotency_key=new_id())
        elif not context.idempotency_key:
            context = replace(context, idempotency_key=new_id())
        timeout = self.default_timeout_s if tool.timeout is None else tool.timeout
        dependencies = self._register.dependencies
        outcome: Outcome | None = None
        attempts = 0
        duration = 0.0
        delay: float | None = None
        while True:
            async with self._turns.turn(tool):
                latest = await run_attempt(prepared, context, dependencies, timeout, attempts + 1)
            if latest is None:
                break
            outcome = latest
            attempts += 1
            duration += outcome.duration
            delay = self._delay(tool, context, attempts, outcome.error, delay)
            if delay is None:
                break
            await self._sleep(delay)
        if outcome is None:
            outcome = Outcome(error=ToolTimeoutError("not run, because no time was left", timeout=0.0))
        text = outcome.text
        if outcome.error is not None:
            logger.debug("Tool %s failed", tool.name, exc_info=outcome.error)
            often = f" (tried {attempts} times)" if attempts > 1 else ""
            text = f"Error executing {tool.name}: {told(outcome.error)}{often}"
        return ToolResult(
            prepared.call,
            bounded(text, self.max_result_chars),
            succeeded=outcome.error is None,
            value=outcome.value,
            arguments=prepared.arguments,
            duration=duration,
            attempts=attempts,
            timed_out=outcome.timed_out,
        )

    def _delay(
        self, tool: Tool, context: ToolContext, attempts: int, error: BaseException | None, previous: float | None
    ) -> float | None:
        """Return the seconds to wait after so many attempts; None if that was the last."""
        if error is None or isinstance(error, ToolValidationError) or attempts > tool.retry.max_retries:
            return None
        delay = tool.retry.delay(attempts, previous, self._random)
        if context.deadline is not None and asyncio.get_running_loop().time() + delay >= context.deadline:
            return None
        return delay

    def _refused(self, call: ToolCall, text: str, arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(call, bounded(text, self.max_result_chars), arguments=arguments)


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
