"""Commands of a bus as tools."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import mcp_types as types
import pytest
from mcp import Client
from pydantic import Field

from llmgine.bus import MessageBus, ResilientMessageBus
from llmgine.bus.resilience.backoff import RetryConfig
from llmgine.bus.tracing import SpanContext, TraceEvent
from llmgine.errors import ToolRegistrationError
from llmgine.llm.tools import Effect, ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server, expose
from llmgine.messages import Command, CommandResult, SessionID


@dataclass
class Note:
    title: str
    tags: list[str]


@dataclass
class CreateNoteCommand(Command[Note]):
    """Write a note down.

    Args:
        title: what it is about.
        tags: to find it by.
    """

    title: str
    tags: list[str] = field(default_factory=list)
    stars: Annotated[int, Field(ge=0, le=5)] = 0


@dataclass
class Ping(Command[Any]):
    pass


@pytest.fixture
def bus() -> MessageBus:
    return MessageBus.isolated()


@pytest.fixture
def tools() -> ToolManager:
    return ToolManager()


def server(tools: ToolManager, bus: MessageBus | None) -> Any:
    return create_llmgine_mcp_server(tools, bus=bus).sdk


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


async def test_the_fields_of_a_command_are_the_schema_and_its_result_is_the_output(
    tools: ToolManager, bus: MessageBus
) -> None:
    seen: list[CreateNoteCommand] = []

    async def create(command: CreateNoteCommand) -> Note:
        seen.append(command)
        return Note(command.title, command.tags)

    bus.register_command_handler(CreateNoteCommand, create)
    tools.register_tool(expose(CreateNoteCommand))
    async with Client(server(tools, bus)) as client:
        [described] = (await client.list_tools()).tools
        result = await client.call_tool("create_note", {"title": "Milk", "stars": "3"})
        await client.call_tool("create_note", {"title": "Bread", "tags": ["food"]})
    assert described.description == "Write a note down."
    properties = described.input_schema["properties"]
    assert list(properties) == ["title", "tags", "stars"]
    assert properties["title"] == {"type": "string", "description": "what it is about."}
    assert properties["stars"]["maximum"] == 5
    assert described.input_schema["required"] == ["title"]
    assert described.output_schema is not None
    assert list(described.output_schema["properties"]) == ["title", "tags"]
    assert result.structured_content == {"title": "Milk", "tags": []}
    assert [(each.title, each.tags, each.stars) for each in seen] == [("Milk", [], 3), ("Bread", ["food"], 0)]


async def test_arguments_are_checked_before_there_is_a_command(tools: ToolManager, bus: MessageBus) -> None:
    bus.register_command_handler(CreateNoteCommand, lambda command: pytest.fail("it ran"))
    tools.register_tool(expose(CreateNoteCommand))
    async with Client(server(tools, bus)) as client:
        result = await client.call_tool("create_note", {"title": "x", "stars": 9, "session_id": "other"})
    assert result.is_error
    assert "stars: Input should be less than or equal to 5" in text_of(result)
    assert "session_id: unknown argument" in text_of(result)


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        (lambda _: CommandResult(success=False, error="the disk is full"), "the disk is full"),
        (lambda _: 1 // 0, "ZeroDivisionError: integer division or modulo by zero"),
        (None, "No handler registered for command Ping"),
    ],
)
async def test_a_command_that_fails_is_told_to_the_model(
    tools: ToolManager, bus: MessageBus, handler: Any, told: str
) -> None:
    if handler is not None:
        bus.register_command_handler(Ping, handler)
    tools.register_tool(expose(Ping))
    async with Client(server(tools, bus)) as client:
        result = await client.call_tool("ping")
    assert (result.is_error, text_of(result)) == (True, f"Error executing ping: {told}")


async def test_without_a_bus_it_says_so(tools: ToolManager) -> None:
    tools.register_tool(expose(Ping))
    async with Client(server(tools, None)) as client:
        result = await client.call_tool("ping")
    assert result.is_error
    assert "there is no bus" in text_of(result)


async def test_the_trace_of_the_client_goes_on_in_the_command(tools: ToolManager, bus: MessageBus) -> None:
    parents: list[str | None] = []
    spans: list[SpanContext] = []
    bus.register_command_handler(Ping, lambda command: parents.append(command.traceparent))
    bus.add_observer(lambda event: spans.append(event.span_context) if isinstance(event, TraceEvent) else None)
    tools.register_tool(expose(Ping))
    span = SpanContext.below(None)
    meta: Any = {"traceparent": span.traceparent}
    await bus.start()
    async with Client(server(tools, bus)) as client:
        await client.call_tool("ping", meta=meta)
        await client.call_tool("ping")
        bus.set_tracing(True)
        await client.call_tool("ping", meta=meta)
    await bus.stop()
    assert parents[:2] == [span.traceparent, None]
    assert {(each.trace_id, each.parent_span_id) for each in spans} == {(span.trace_id, span.span_id)}


async def test_a_request_that_is_cancelled_cancels_the_command(tools: ToolManager, bus: MessageBus) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(command: Ping) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bus.register_command_handler(Ping, wait)
    tools.register_tool(expose(Ping))
    async with Client(server(tools, bus)) as client:
        call = asyncio.create_task(client.call_tool("ping"))
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_policies_of_the_bus_hold_for_it(tools: ToolManager) -> None:
    resilient = ResilientMessageBus.isolated(retry_config=RetryConfig(max_retries=2, initial_delay=0))
    attempts: list[None] = []

    def fail_twice(command: Ping) -> str:
        attempts.append(None)
        if len(attempts) < 3:
            raise OSError
        return "pong"

    resilient.register_command_handler(Ping, fail_twice)
    tools.register_tool(expose(Ping))
    async with Client(server(tools, resilient)) as client:
        assert text_of(await client.call_tool("ping")) == "pong"
    assert len(attempts) == 3


async def test_in_an_engine_it_runs_on_the_engines_bus_in_the_session_of_the_call(
    tools: ToolManager, bus: MessageBus
) -> None:
    sessions: list[str] = []
    bus.register_command_handler(Ping, lambda command: sessions.append(command.session_id))
    tools.register_tool(expose(Ping))
    context = ToolContext(bus=bus, session_id=SessionID("chat"))
    assert (await tools.run(ToolCall(id="1", name="ping"), context)).succeeded
    assert sessions == ["chat"]


async def test_what_a_field_is_by_default_is_made_for_each_command(tools: ToolManager, bus: MessageBus) -> None:
    numbers = iter(range(10))

    @dataclass
    class Count(Command[int]):
        number: int = field(default_factory=lambda: next(numbers))

    bus.register_command_handler(Count, lambda command: command.number)
    tools.register_tool(expose(Count))
    async with Client(server(tools, bus)) as client:
        assert [text_of(await client.call_tool("count")) for _ in range(2)] == ["0", "1"]


def test_its_name_description_and_effect_can_be_given(tools: ToolManager) -> None:
    tools.register_tool(expose(Ping, name="knock", description="Who is there?", effect=Effect.READ))
    [made] = tools.tools
    assert (made.name, made.description, made.effect) == ("knock", "Who is there?", Effect.READ)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("HTTPGetCommand", "http_get"), ("Command2", "command2"), ("DoCommandNow", "do_command_now"), ("X", "x")],
)
def test_its_name_is_that_of_the_class(tools: ToolManager, name: str, expected: str) -> None:
    tools.register_tool(expose(type(name, (Ping,), {"__module__": __name__})))
    assert tools.tools[0].name == expected
    assert tools.tools[0].description == ""


def test_what_is_no_command_cannot_be_exposed() -> None:
    for given in (Note, Command, Ping(), "Ping"):
        with pytest.raises(ToolRegistrationError, match="it is no command"):
            expose(given)  # type: ignore[arg-type]


def test_fields_that_cannot_be_resolved_are_told() -> None:
    broken: Any = dataclass(
        type("Broken", (Command,), {"__annotations__": {"what": "Missing"}, "__module__": __name__})
    )
    with pytest.raises(ToolRegistrationError, match="Missing"):
        expose(broken)


def test_fields_of_types_that_json_cannot_express_are_told(tools: ToolManager) -> None:
    @dataclass
    class Odd(Command[Any]):
        what: json.JSONDecoder

    with pytest.raises(ToolRegistrationError, match="types that JSON can express"):
        tools.register_tool(expose(Odd))


def test_it_is_offered_beside_the_server_however_it_is_imported() -> None:
    program = (
        "from llmgine.llm.tools.mcp import create_llmgine_mcp_server, expose\n"
        "from llmgine.llm.tools.mcp import server\n"
        "assert server.expose is expose and callable(expose)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
