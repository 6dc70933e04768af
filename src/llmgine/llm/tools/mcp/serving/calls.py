"""Calls of tools by MCP clients: from the request to the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from opentelemetry.propagate import inject
from pydantic_core import to_json

from llmgine.bus import MessageBus
from llmgine.llm.approvals.requirement import needs_approval
from llmgine.llm.tools.mcp.serving.consent import refused
from llmgine.llm.tools.mcp.serving.context import MCPToolContext
from llmgine.llm.tools.mcp.serving.listing import ToolListing
from llmgine.llm.tools.mcp.serving.results import Reply, failure, reply_of
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.messages import new_id

__all__ = ["ToolCalls"]

T = TypeVar("T")


class ToolCalls:
    """Runs the tools of a manager for clients."""

    def __init__(self, tools: ToolManager, listing: ToolListing, bus: MessageBus | None) -> None:
        self._tools = tools
        self._listing = listing
        self._bus = bus

    async def call(
        self, request: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Answer a call. A request that is cancelled cancels the tool, and waits until it has cleaned up.

        Raises:
            MCPError: there is no such tool, or the call cannot be answered by a result.
        """
        reply = await self._reply(request, params)
        if isinstance(reply, types.ErrorData):
            raise MCPError.from_error_data(reply)
        return reply

    async def _reply(self, request: ServerRequestContext[Any, Any], params: types.CallToolRequestParams) -> Reply:
        call = ToolCall(id=new_id(), name=params.name, arguments=to_json(params.arguments or {}).decode())
        prepared = self._tools.prepare(call)
        offered = self._listing.get(params.name)
        if offered is None:
            text = prepared.content if isinstance(prepared, ToolResult) else f"Tool {params.name!r} has gone."
            return types.ErrorData(code=types.INVALID_PARAMS, message=text)
        if isinstance(prepared, ToolResult):
            return failure(prepared.content)
        if needs_approval(prepared):
            answer = await refused(request, params, prepared)
            if answer is not None:
                return answer
        trace: dict[str, str] = {}
        inject(trace)
        context = MCPToolContext(bus=self._bus, request=request, traceparent=trace.get("traceparent"))
        result = await _cancelled_once(self._tools.run_prepared(prepared, context))
        return reply_of(result, offered, self._tools.max_result_chars)


async def _cancelled_once(work: Coroutine[Any, Any, T]) -> T:
    """Do the work in a task of its own, which hears of a cancellation once.

    The scopes of anyio, in which requests run, cancel a task again at every step until it has ended, and with it what
    a tool awaits to clean up.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        raise
