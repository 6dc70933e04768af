"""A call of an MCP server's tool is part of the prompt's trace: below the tool's span, and above the server's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mcp.shared._otel
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmgine.bus import MessageBus
from llmgine.bus.tracing import SpanContext
from llmgine.llm.engine import LLMEngine, PromptCommand
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext
from llmgine.llm.tools.mcp.targets import ServerTarget
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import Command, SessionID
from llmgine.observability import ObservabilityManager, semconv
from llmgine.observability.otel_handler import OpenTelemetryHandler

STDIO = """
from mcp.server.mcpserver import Context, MCPServer
server = MCPServer("agency")

@server.tool()
async def book(context: Context) -> str:
    return context.request_context.meta["traceparent"]

server.run("stdio")
"""


class Traces:
    """The spans of the application and of the SDK, which both have one provider."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        monkeypatch.setattr(mcp.shared._otel, "_tracer", provider.get_tracer("mcp-python-sdk"))
        self.manager = ObservabilityManager()
        self.manager.register_handler(OpenTelemetryHandler(tracer_provider=provider))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def path(self, span: ReadableSpan) -> list[str]:
        """Return the names of the spans above one, from the nearest, all of the same trace."""
        by_id = {each.context.span_id: each for each in self._exporter.get_finished_spans() if each.context is not None}
        names: list[str] = []
        while span.parent is not None:
            assert span.context is not None
            assert span.parent.trace_id == span.context.trace_id
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return names


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    return Traces(monkeypatch)


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


@dataclass
class PayCommand(Command[None]):
    """What a tool may have the application do."""


async def ask(traces: Traces, tools: ToolManager, *calls: ToolCall) -> LLMEngine:
    """Have an engine make calls, in a session."""
    bus = MessageBus.isolated(observability=traces.manager)
    bus.register_command_handler(PayCommand, lambda _: None)
    await bus.start()
    engine = LLMEngine(bus, ScriptedProvider([Reply(tool_calls=calls), Reply("Done.")]), tools=tools)
    try:
        async with asyncio.timeout(30), bus.session("S") as session:
            result = await session.execute_with_session(PromptCommand("Go"))
            assert result.success, result.error
            engine.history = engine.conversation(session.session_id)  # which would be forgotten
    finally:
        await tools.cleanup_mcp_servers()
        await bus.stop()
    return engine


ABOVE = ["invoke_agent", "command_PromptCommand", "session_S"]


@pytest.mark.parametrize(("mode", "between"), [("auto", []), ("legacy", ["MCP send tools/call book"])])
async def test_the_servers_span_is_below_the_tools(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, mode: Any, between: list[str]
) -> None:
    server = MCPServer("agency")

    @server.tool()
    async def book(seats: int) -> str:
        if seats > 5:
            msg = "too many"
            raise ToolError(msg)
        return "booked"

    def client(target: Any, *_: Any) -> Client:
        return Client(server, mode=mode, **target._callbacks)

    monkeypatch.setattr(ServerTarget, "client", client)
    tools = ToolManager()
    assert await tools.register_mcp_server("agency", server=server)
    few, many = (ToolCall(str(seats), name="book", arguments=f'{{"seats": {seats}}}') for seats in (2, 9))
    await ask(traces, tools, few, many)

    served = traces.named("tools/call book")
    assert [traces.path(span) for span in served] == [[*between, "execute_tool book", *ABOVE]] * 2
    assert len({span.parent.span_id for span in served if span.parent is not None}) == 2
    assert {span.kind for span in served} == {SpanKind.SERVER}
    version = {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
    for span in traces.named("execute_tool book"):
        about = attributes(span)
        assert about["mcp.method.name"] == "tools/call"
        assert about["mcp.protocol.version"] == version
        assert about["gen_ai.operation.name"] == "execute_tool"
        assert about["gen_ai.tool.name"] == "book"
        assert about[semconv.MCP_SERVER] == "agency"
        assert "network.transport" not in about  # there is none between
        failed = about["gen_ai.tool.call.id"] == "9"
        assert about.get("error.type") == ("tool_error" if failed else None)
        assert span.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)


async def test_a_server_in_another_process_is_told_of_the_trace(traces: Traces) -> None:
    tools = ToolManager()
    assert await tools.register_mcp_server("agency", sys.executable, ["-c", STDIO])
    engine = await ask(traces, tools, ToolCall("1", name="book"))

    (tool,) = traces.named("execute_tool book")
    (sent,) = traces.named("MCP send tools/call book")
    assert traces.path(sent) == ["execute_tool book", *ABOVE]
    assert attributes(tool)["network.transport"] == "pipe"
    told = SpanContext.parse(engine.history.get_messages()[-2]["content"])
    assert told is not None
    assert sent.context is not None
    assert (int(told.trace_id, 16), int(told.span_id, 16)) == (sent.context.trace_id, sent.context.span_id)


async def test_what_a_local_tool_has_done_is_below_its_span_too(traces: Traces) -> None:
    seen: list[str | None] = []

    async def book(context: ToolContext) -> str:
        seen.append(context.traceparent)
        assert context.bus is not None
        await context.bus.execute(PayCommand(session_id=context.session_id))
        return "booked"

    tools = ToolManager()
    tools.register_tool(book)
    await ask(traces, tools, ToolCall("1", name="book"))

    (paid,) = traces.named("command_PayCommand")
    assert traces.path(paid) == ["execute_tool book", *ABOVE]
    (tool,) = traces.named("execute_tool book")
    own = SpanContext.parse(seen[0])
    assert own is not None
    assert tool.context is not None
    assert int(own.span_id, 16) == tool.context.span_id
    assert "mcp.method.name" not in attributes(tool)
    (chat, _) = traces.named("chat script")
    assert traces.path(chat) == ABOVE


async def test_without_a_trace_the_tools_run_as_they_do() -> None:
    async def book(context: ToolContext) -> str:
        return str(context.traceparent)

    bus = MessageBus.isolated()
    await bus.start()
    tools = ToolManager()
    tools.register_tool(book)
    calls = Reply(tool_calls=[ToolCall("1", name="book")])
    engine = LLMEngine(bus, ScriptedProvider([calls, Reply("Done.")]), tools=tools, session_id=SessionID("a"))
    assert await engine.respond("Go", SessionID("a")) == "Done."
    assert engine.history.get_messages()[-2]["content"] == "None"
    await bus.stop()
