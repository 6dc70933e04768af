"""A tool of an MCP server, as a tool like any other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from llmgine.bus import causality
from llmgine.errors import MCPConnectionLostError, ToolExecutionError
from llmgine.llm.tools.effects import Effect
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.connection import Connection
from llmgine.llm.tools.mcp.content import failure_of, returned
from llmgine.llm.tools.mcp.page_visits import after_visits
from llmgine.llm.tools.mcp.schema_validator import SchemaValidator
from llmgine.llm.tools.result import ToolReturn
from llmgine.llm.tools.tool import Parameter, Tool
from llmgine.llm.tools.tool_context import ToolContext

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client
    from mcp_types import RequestParamsMeta

__all__ = ["RemoteTool", "current_call", "tool_of"]

logger = logging.getLogger("llmgine.mcp")

_CONTEXT = "the context of the call"
"""By which name the call's `ToolContext` comes along; no argument of a server's is called so."""

current_call: ContextVar[ToolContext | None] = ContextVar("llmgine_mcp_call", default=None)
"""What is known about the call for which a server asks something."""


class RemoteTool:
    """What runs when a tool of a server is called."""

    def __init__(self, connection: Connection, name: str, effect: Effect) -> None:
        self.connection = connection
        self.name = name
        """On the server."""
        self._effect = effect

    async def __call__(self, /, **arguments: Any) -> ToolReturn:
        """Call the tool; once more if the connection breaks off, where that can do no harm."""
        context: ToolContext = arguments.pop(_CONTEXT)
        current_call.set(context)
        async with _Progress(context) as progress:

            async def call(client: Client) -> mcp_types.CallToolResult:
                with _traced(context.traceparent or causality.traceparent()) as meta:
                    ask = partial(client.call_tool, self.name, arguments, progress_callback=progress.note, meta=meta)
                    return await after_visits(client, ask)

            try:
                result = await self.connection.request(call)
            except MCPConnectionLostError:
                if not self._effect.repeatable:
                    raise
                result = await self.connection.request(call)
        if result.is_error:
            raise ToolExecutionError(failure_of(result, self.name))
        return returned(result)


class _Progress:
    """Passes on how far a call has got: not every report of a flood, but the last one always."""

    def __init__(self, context: ToolContext) -> None:
        self._context = context
        self._surroundings = copy_context()
        self._latest: tuple[float, float | None, str] | None = None
        self._reporter: asyncio.Task[None] | None = None

    async def note(self, progress: float, total: float | None, message: str | None) -> None:
        """Take note of a report. This must not wait: the SDK has a task for each."""
        self._latest = progress, total, message or ""
        if self._reporter is None or self._reporter.done():
            self._reporter = asyncio.create_task(self._report(), context=self._surroundings)

    async def _report(self) -> None:
        while self._latest is not None:
            latest, self._latest = self._latest, None
            try:
                await self._context.report_progress(*latest)
            except Exception as exc:  # of handlers; the call is none the worse for it
                logger.debug("The progress of %s could not be reported", self._context.tool_name, exc_info=exc)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if self._reporter is not None:
            if failed is not None:
                self._reporter.cancel()
            await asyncio.wait([self._reporter])


@contextmanager
def _traced(parent: str | None) -> Generator[RequestParamsMeta | None]:
    """Make a span the one that the SDK takes for its parent, and tells the server."""
    if parent is None:
        yield None
        return
    from opentelemetry.context import attach, detach
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    meta = cast("RequestParamsMeta", {"traceparent": parent})
    token = attach(TraceContextTextMapPropagator().extract(meta))
    try:
        yield meta
    finally:
        detach(token)


def tool_of(listed: mcp_types.Tool, name: str, connection: Connection, config: MCPServerConfig) -> Tool:
    """Return a tool of a server.

    Args:
        listed: as the server describes it.
        name: what models know it by.
        connection: to the server.
        config: what is wanted of the server.
    """
    effect = _effect(listed, config)
    schema = {"properties": {}, **listed.input_schema}  # some providers do not take an object without
    properties, required = schema["properties"], schema.get("required")
    return Tool(
        name=name,
        description=listed.description or listed.title or "",
        parameters=tuple(
            Parameter(
                key, str(described.get("description", "")), isinstance(required, list) and key in required, described
            )
            for key, described in (properties.items() if isinstance(properties, dict) else ())
            if isinstance(described, dict)
        ),
        function=RemoteTool(connection, listed.name, effect),
        timeout=config.timeout,
        json_schema=schema,
        validator=SchemaValidator(schema),
        effect=effect,
        requires_approval=config.must_be_approved(listed.name),
        injected={_CONTEXT: ToolContext},
        output_schema=listed.output_schema,
        server=connection.target.name,
    )


def _effect(listed: mcp_types.Tool, config: MCPServerConfig) -> Effect:
    told = config.effects.get(listed.name, config.effects.get("*"))
    if told is not None:
        return told
    hints = listed.annotations if config.trust_annotations else None
    if hints is not None and hints.read_only_hint:
        return Effect.READ
    return Effect.IDEMPOTENT if hints is not None and hints.idempotent_hint else Effect.UNSAFE
