"""Tools of servers are tools like any other: named, described, checked, called and told of in the same way."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver import Context, MCPServer
from raw_mcp import Connect, config, run

from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError, MCPConnectionError
from llmgine.llm.tools import Effect, ToolCall, ToolContext, ToolManager, mcp
from llmgine.llm.tools.mcp import MCPServerConfig, process_pipes
from llmgine.llm.tools.mcp.events import MCPToolsChangedEvent
from llmgine.llm.tools.mcp.names import model_names
from llmgine.llm.tools.mcp.server_tools import ServerTools
from llmgine.llm.tools.tool_events import ToolProgressEvent
from llmgine.messages import Command, SessionID

# Which there are


async def test_tools_of_all_pages_are_there_in_an_order_that_does_not_depend_on_the_server(raw: Connect) -> None:
    tools = await raw()
    names = [tool.name for tool in tools.tools]
    assert len(names) > 20
    assert names == sorted(names)


async def test_local_tools_come_first_and_servers_in_the_order_of_their_registration(manager: ToolManager) -> None:
    await manager.mcp.connect("b", config(include=("echo",), prefix="b_"))
    await manager.mcp.connect("a", config(include=("echo", "starts"), prefix="a_"))
    manager.register_tool(_local)
    assert [tool.name for tool in manager.tools] == ["b_echo", "a_echo", "a_starts", "_local"]
    assert manager.is_local_tool("_local")
    assert not manager.is_mcp_tool("_local")
    assert manager.is_mcp_tool("a_echo")
    assert not manager.is_local_tool("a_echo")
    assert not manager.is_mcp_tool("nothing")
    assert not manager.is_local_tool("nothing")
    await manager.mcp.disconnect("b")
    assert [tool.name for tool in manager.tools] == ["a_echo", "a_starts", "_local"]


def _named(name: str, tool: str) -> MCPServer:
    server = MCPServer(name)
    server.add_tool(_local, name=tool)
    return server


@pytest.mark.parametrize("others_first", [False, True])
async def test_servers_that_are_connected_at_the_same_time_are_in_the_order_of_their_registration(
    manager: ToolManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, others_first: bool
) -> None:
    up = {name: asyncio.Event() for name in "abc"}
    connected = ServerTools.connected

    async def when_told(tools: ServerTools, client: Any) -> None:
        await up[tools._name].wait()
        await connected(tools, client)

    monkeypatch.setattr(ServerTools, "connected", when_told)
    configs = {"a": _named("a", "same"), "b": _named("b", "same"), "c": _named("c", "last")}
    connecting = {
        name: asyncio.create_task(manager.mcp.connect(name, MCPServerConfig(server=server)))
        for name, server in configs.items()
    }
    manager.register_tool(_local, name="before_all")
    for name in reversed(up) if others_first else up:
        up[name].set()
        await connecting[name]
    assert manager.mcp.names == ("a", "b", "c")
    assert [tool.name for tool in manager.tools if tool.server] == ["same", "last"]
    assert manager.tool_info("same")["server"] == "a"
    assert [manager.mcp.status(name).tools for name in "abc"] == [("same",), (), ("last",)]
    assert caplog.text.count("The tool 'same' of MCP server 'b' is left out") == 1
    await manager.mcp.disconnect("a")
    assert manager.tool_info("same")["server"] == "b"
    assert manager.mcp.status("b").tools == ("same",)


async def test_a_server_that_did_not_come_up_leaves_no_place_behind(manager: ToolManager) -> None:
    assert not await manager.register_mcp_server("a", "no-such-program")
    await manager.mcp.connect("b", config(include=("echo",)))
    await manager.mcp.connect("a", config(include=("starts",)))
    assert [tool.name for tool in manager.tools] == ["echo", "starts"]


async def test_arguments_of_a_program_in_one_text_are_refused(manager: ToolManager) -> None:
    with pytest.raises(ConfigurationError, match="args must be a list of texts, not one text"):
        await manager.register_mcp_server("x", "true", "a b")


async def test_what_a_server_is_and_can_do_is_told(raw: Connect) -> None:
    servers = (await raw(include=("echo",), prefix="raw_")).mcp
    status = servers.status("raw")
    assert status.server_info == {"name": "raw", "version": "1"}
    assert status.capabilities["tools"] == {"listChanged": True}
    assert len(await servers.list_tools("raw")) > 20
    assert status.tools == ("raw_echo",)


async def test_a_server_gets_what_it_needs_to_reach_the_network_and_no_password(
    manager: ToolManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reaching = {
        "https_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost,.example.com",
        "SSL_CERT_FILE": "/x",
        "REQUESTS_CA_BUNDLE": "/y",
        "NODE_EXTRA_CA_CERTS": "/z",
    }
    secret = {"HTTP_PROXY": "http://ada:hunter2@proxy:3128", "ALL_PROXY": "hunter2@proxy", "OPENAI_API_KEY": "hunter2"}
    for name, value in (reaching | secret).items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, "llmgine.mcp")
    given = {"ALL_PROXY": "as@given", "SSL_CERT_FILE": ""}
    program = "import json, os, sys; sys.exit(json.dumps(dict(os.environ)))"
    monkeypatch.setattr(process_pipes, "_LONGEST_SHOWN", 10_000)
    telling = MCPServerConfig(command=sys.executable, args=("-S", "-c", program), env=given)
    with pytest.raises(MCPConnectionError) as caught:
        await manager.mcp.connect("env", telling)
    found = json.loads(str(caught.value).partition("It wrote: ")[2])
    assert {name: found.get(name) for name in reaching | secret} == {
        **dict.fromkeys(secret),
        **reaching,
        **given,
    }
    assert caplog.messages == [
        "MCP server 'env' does not get HTTP_PROXY, which has a password in it; give it in env.",
    ]


async def test_only_the_tools_that_are_wanted_are_there(raw: Connect) -> None:
    tools = await raw(include=("ec*", "starts", "with.*"), exclude=("st*",))
    assert [tool.name for tool in tools.tools] == ["echo", "with_dots"]


async def test_a_tool_is_described_as_the_server_describes_it(raw: Connect) -> None:
    [echo, right] = (await raw(include=("echo", "right"))).tools
    assert echo.json_schema == {
        "type": "object",
        "properties": {"n": {"type": "integer", "description": "A number."}},
        "required": ["n"],
    }
    assert echo.schema["function"] == {
        "name": "echo",
        "description": "Says it again.",
        "parameters": echo.json_schema,
    }
    [parameter] = echo.parameters
    assert (parameter.name, parameter.description, parameter.required) == ("n", "A number.", True)
    assert right.output_schema == {"type": "object", "required": ["x"]}
    assert echo.output_schema is None


async def test_a_name_that_is_taken_is_left_out_and_the_local_tool_stays(
    manager: ToolManager, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    manager.register_tool(_local, name="echo")
    tools = await raw()
    assert tools.is_local_tool("echo")
    assert await tools.execute_tool_call(ToolCall(id="1", name="echo")) == "here"
    assert "The tool 'echo' of MCP server 'raw' is left out" in caplog.text
    assert "prefix=, such as 'raw_'" in caplog.text
    assert "echo" not in tools.mcp.status("raw").tools
    with pytest.raises(ValueError, match="There is a tool 'starts' already"):
        tools.register_tool(_local, name="starts")


async def test_the_name_on_the_server_is_what_it_gets(raw: Connect) -> None:
    tools = await raw(prefix="raw_")
    assert (await run(tools, "raw_with_dots", n=5)).content == "5"


@given(st.sets(st.text("ab._-é/ ", min_size=1, max_size=128)), st.sampled_from(["", "x_", "p" * 60]))
def test_every_tool_has_a_name_of_its_own_that_models_take(names: set[str], prefix: str) -> None:
    given_names = model_names(names, prefix)
    assert given_names == model_names(sorted(names), prefix)
    assert len(set(given_names.values())) == len(names)
    for name, given_name in given_names.items():
        assert len(given_name) <= 64
        assert given_name.replace("_", "a").replace("-", "a").isalnum()
        assert given_name.isascii()
        if len(prefix + name) <= 64 and name.replace("_", "a").replace("-", "a").isalnum() and name.isascii():
            assert given_name == prefix + name


@pytest.mark.parametrize(
    ("options", "effects"),
    [
        ({}, ["unsafe", "unsafe", "unsafe"]),
        ({"trust_annotations": True}, ["idempotent", "unsafe", "read"]),
        ({"trust_annotations": True, "effects": {"read": "unsafe"}}, ["idempotent", "unsafe", "unsafe"]),
        ({"effects": {"*": "read", "plain": "unsafe"}}, ["read", "unsafe", "read"]),
    ],
)
async def test_what_a_server_says_of_effects_is_believed_only_where_it_is_trusted(
    manager: ToolManager, options: dict[str, Any], effects: list[str]
) -> None:
    from mcp_types import ToolAnnotations

    server = MCPServer("effects")
    server.add_tool(_nothing, name="read", annotations=ToolAnnotations(read_only_hint=True))
    server.add_tool(_nothing, name="idempotent", annotations=ToolAnnotations(idempotent_hint=True))
    server.add_tool(_nothing, name="plain")
    await manager.mcp.connect("effects", MCPServerConfig(server=server, **options))
    assert [tool.effect for tool in manager.tools] == [Effect(effect) for effect in effects]


@pytest.mark.parametrize(
    ("required", "found"), [(False, [False, False]), (True, [True, True]), (("st*",), [False, True])]
)
async def test_which_tools_need_approval_can_be_said(raw: Connect, required: Any, found: list[bool]) -> None:
    tools = await raw(include=("echo", "starts"), requires_approval=required)
    assert [tool.requires_approval for tool in tools.tools] == found


# Arguments and results


@pytest.mark.parametrize("arguments", ["{}", '{"n": "5"}', '{"n": [1]}', "no JSON"])
async def test_arguments_that_do_not_fit_the_schema_are_not_sent(raw: Connect, arguments: str) -> None:
    result = await (await raw()).run(ToolCall(id="1", name="echo", arguments=arguments))
    assert result.attempts == 0
    assert result.content.startswith("Error executing echo: the arguments ")


async def test_a_tool_that_says_that_it_failed_has_failed(raw: Connect) -> None:
    result = await run(await raw(), "fail")
    assert not result.succeeded
    assert result.content == "Error executing fail: the file is not there"


async def test_a_request_that_is_refused_has_failed(raw: Connect) -> None:
    assert (
        await run(await raw(), "refuse")
    ).content == "Error executing refuse: MCP server 'raw' refuses: no such thing"


async def test_structured_content_that_is_not_as_promised_has_failed(raw: Connect) -> None:
    tools = await raw()
    assert "has not answered as it should: Invalid structured content" in (await run(tools, "wrong")).content
    right = await run(tools, "right")
    assert (right.value, right.content) == ({"x": 1}, "x is 1")


async def test_a_picture_is_in_the_value_and_the_model_is_told_that_there_is_one(raw: Connect) -> None:
    result = await run(await raw(), "image")
    assert result.content == "Look:\n[an image, image/png, 70 bytes, which cannot be shown here]"
    [text, image] = result.value
    assert text == {"type": "text", "text": "Look:"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw")


# While it runs


async def test_progress_is_published_in_the_session_of_the_call(raw: Connect) -> None:
    tools = await raw()
    bus = MessageBus.isolated()
    await bus.start()
    seen: list[ToolProgressEvent] = []
    bus.register_event_handler(ToolProgressEvent, seen.append, SessionID("s"))
    call = ToolCall(id="call-1", name="progress", arguments='{"n": 3}')
    result = await tools.run(call, ToolContext(session_id=SessionID("s"), bus=bus, engine_id="e"))
    assert result.content == "done"
    assert [(event.progress, event.total, event.message) for event in seen][-1] == (3, 3, "step 3")
    assert {(event.tool_call_id, event.tool_name, event.engine_id) for event in seen} == {("call-1", "progress", "e")}
    await bus.stop()


async def test_a_flood_of_progress_does_not_wait_for_slow_handlers(raw: Connect) -> None:
    tools = await raw()
    bus = MessageBus.isolated()
    await bus.start()
    seen: list[float] = []

    async def slow(event: ToolProgressEvent) -> None:
        seen.append(event.progress)
        await asyncio.sleep(0.05)

    bus.register_event_handler(ToolProgressEvent, slow)
    call = ToolCall(id="1", name="progress", arguments='{"n": 2000}')
    result = await tools.run(call, ToolContext(bus=bus))
    assert result.content == "done"
    assert seen[-1] == 2000
    assert len(seen) < 200
    await bus.stop()


async def test_a_handler_of_progress_that_fails_does_not_fail_the_call(raw: Connect) -> None:
    tools = await raw()
    bus = MessageBus.isolated()
    await bus.start()
    await bus.stop()
    call = ToolCall(id="1", name="progress", arguments='{"n": 3}')
    assert (await tools.run(call, ToolContext(bus=bus))).content == "done"


class Ask(Command[Any]):
    """Call a tool in a command."""


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("parent", [PARENT, None])
async def test_the_server_learns_the_trace_that_the_call_is_a_part_of(raw: Connect, parent: str | None) -> None:
    tools = await raw()
    bus = MessageBus.isolated()
    await bus.start()

    async def handle(_: Ask) -> Any:
        return (await run(tools, "meta")).value

    bus.register_command_handler(Ask, handle)
    command = Ask()
    command.traceparent = parent
    meta = json.loads(str((await bus.execute(command)).result))
    assert meta.get("traceparent") == parent
    await bus.stop()


def test_with_opentelemetry_the_spans_of_the_sdk_are_in_the_same_trace() -> None:
    program = """
import asyncio, json, sys
sys.path[:0] = {path!r}
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError, MCPConnectionError
from llmgine.llm.tools import ToolManager
from llmgine.messages import Command, SessionID
from llmgine.observability import ObservabilityManager
from llmgine.observability.otel_handler import OpenTelemetryHandler
from raw_mcp import config, run

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

class Ask(Command):
    pass

async def main():
    tools = ToolManager()
    await tools.mcp.connect("raw", config())
    bus = MessageBus.isolated()
    observers = ObservabilityManager()
    observers.register_handler(OpenTelemetryHandler())
    bus.set_observability_manager(observers)
    await bus.start()
    async def handle(_):
        return (await run(tools, "meta")).value
    bus.register_command_handler(Ask, handle)
    exporter.clear()
    told = json.loads((await bus.execute(Ask())).result)["traceparent"]
    await bus.stop()
    await tools.cleanup_mcp_servers()
    spans = dict((span.name, span) for span in exporter.get_finished_spans())
    call, command = spans["MCP send tools/call meta"], spans["command_Ask"]
    assert call.parent.span_id == command.context.span_id
    assert told.split("-")[1:3] == [format(call.context.trace_id, "032x"), format(call.context.span_id, "016x")]
    assert call.context.trace_id == command.context.trace_id

asyncio.run(main())
"""
    path = [str(Path(__file__).parents[2]), *sys.path]
    done = subprocess.run([sys.executable, "-c", program.format(path=path)], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()


# Changes


def heard(bus: MessageBus) -> asyncio.Queue[MCPToolsChangedEvent]:
    changes: asyncio.Queue[MCPToolsChangedEvent] = asyncio.Queue()
    bus.register_event_handler(MCPToolsChangedEvent, changes.put_nowait)
    return changes


async def test_tools_that_are_added_are_there_and_told_of(manager: ToolManager, raw: Connect) -> None:
    bus = MessageBus.isolated()
    await bus.start()
    manager.mcp.bus = bus
    changes = heard(bus)
    tools = await raw()
    before = len(tools.tools)
    await run(tools, "add_tool", n=3)
    event = await changes.get()
    assert len(event.added) == 3
    assert (event.removed, event.changed, event.server) == ([], [], "raw")
    assert len(tools.tools) == before + 3
    await bus.stop()


async def test_many_changes_in_a_short_time_are_looked_at_once() -> None:
    tools = ToolManager()
    await tools.mcp.connect("raw", config())
    await run(tools, "add_later", n=20)
    while not any(tool.name.endswith("_19") for tool in tools.tools):  # noqa: ASYNC110  # the bus would tell
        await asyncio.sleep(0.01)
    assert int((await run(tools, "lists")).content) <= 4
    await tools.cleanup_mcp_servers()


@pytest.mark.parametrize("era", ["modern, here", "modern, a process"])
async def test_changes_are_heard_of_in_the_latest_revision_too(manager: ToolManager, era: str) -> None:
    bus = MessageBus.isolated()
    await bus.start()
    manager.mcp.bus = bus
    if era == "modern, here":
        names: dict[str, Any] = {}
        exec(CHANGING, names)  # noqa: S102
        target = MCPServerConfig(server=names["server"])
    else:
        target = MCPServerConfig(command=sys.executable, args=("-c", CHANGING + "\nserver.run()"))
    await manager.mcp.connect("changing", target)
    assert manager.mcp.status("changing").protocol_version == "2026-07-28"
    changes = heard(bus)
    await asyncio.sleep(0.1)
    await run(manager, "grow")
    event = await asyncio.wait_for(changes.get(), 10)
    assert (event.added, event.removed) == (["new"], ["old"])
    assert [tool.name for tool in manager.tools] == ["grow", "new"]
    await bus.stop()


CHANGING = """
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("changing")


@server.tool()
async def grow(ctx: Context) -> str:
    server.remove_tool("old")
    server.add_tool(lambda: "new", name="new")
    await ctx.notify_tools_changed()
    return "grown"


@server.tool()
def old() -> str:
    return "old"
"""


# What a server asks


async def test_what_a_server_asks_reaches_whoever_answers_with_the_call_it_is_for(manager: ToolManager) -> None:
    from mcp.server import Server

    async def list_tools(*_: Any) -> mcp_types.ListToolsResult:
        return mcp_types.ListToolsResult(tools=[mcp_types.Tool(name="ask", input_schema={"type": "object"})])

    async def call_tool(_: Any, params: Any) -> mcp_types.CallToolResult | mcp_types.InputRequiredResult:
        answers = params.input_responses
        if answers is None:
            form = {"type": "object", "properties": {"color": {"type": "string"}}}
            question = mcp_types.ElicitRequestFormParams(message="Which color?", requested_schema=form)
            return mcp_types.InputRequiredResult(input_requests={"q": mcp_types.ElicitRequest(params=question)})
        return mcp_types.CallToolResult(content=[mcp_types.TextContent(text=str(answers["q"].content))])

    modern: Any = Server("asking", on_list_tools=list_tools, on_call_tool=call_tool)
    asked: list[tuple[str, str, str]] = []

    async def answer(name: str, params: Any, context: ToolContext | None) -> Any:
        asked.append((name, params.message, "" if context is None else context.tool_call_id))
        await asyncio.sleep(0.01)
        return mcp_types.ElicitResult(action="accept", content={"color": "red"})

    manager.mcp.on_elicitation = answer
    await manager.mcp.connect("modern", MCPServerConfig(server=modern, prefix="modern_"))
    await manager.mcp.connect("raw", config())
    result = await manager.run(ToolCall(id="call-7", name="modern_ask"))
    assert result.content == "{'color': 'red'}"
    result = await manager.run(ToolCall(id="call-8", name="ask"))
    assert json.loads(result.content) == {"action": "accept", "content": {"color": "red"}}
    assert asked == [("modern", "Which color?", "call-7"), ("raw", "Which color?", "call-8")]

    asked.clear()
    two = await asyncio.gather(*(manager.run(ToolCall(id=f"call-{number}", name="ask")) for number in (1, 2)))
    assert all("red" in result.content for result in two)
    assert [call for _, _, call in asked] == ["", ""]  # of which call, servers of that era do not say


@pytest.mark.parametrize("schema", [{"properties": []}, {"properties": {"x": 1}, "required": 7}, {"$ref": "#/nowhere"}])
async def test_a_tool_with_a_broken_schema_does_no_harm_to_the_others(
    manager: ToolManager, schema: dict[str, Any]
) -> None:
    from mcp.server import Server

    async def list_tools(*_: Any) -> mcp_types.ListToolsResult:
        broken = mcp_types.Tool(name="broken", input_schema={"type": "object", **schema})
        return mcp_types.ListToolsResult(tools=[broken, mcp_types.Tool(name="whole", input_schema={"type": "object"})])

    async def call_tool(*_: Any) -> mcp_types.CallToolResult:
        return mcp_types.CallToolResult(content=[mcp_types.TextContent(text="called")])

    server: Any = Server("broken", on_list_tools=list_tools, on_call_tool=call_tool)
    await manager.mcp.connect("broken", MCPServerConfig(server=server))
    assert (await run(manager, "whole")).content == "called"
    assert "the tool's schema" in (await run(manager, "broken", x=1)).content


# In this process, and without the extra


async def test_a_server_in_this_process_can_be_used(manager: ToolManager) -> None:
    server = MCPServer("here")

    @server.tool()
    async def add(a: int, b: int, ctx: Context) -> int:
        """Adds."""
        await ctx.report_progress(1, 1)
        return a + b

    await manager.mcp.connect("here", MCPServerConfig(server=server, prefix="here_"))
    assert (await run(manager, "here_add", a=1, b=2)).value == {"result": 3}
    assert manager.mcp.status("here").server_name == "here"
    call = asyncio.create_task(run(manager, "here_add", a=1, b=2))
    await manager.cleanup_mcp_servers()
    await call


async def test_a_call_of_a_server_in_this_process_ends_when_that_is_closed(manager: ToolManager) -> None:
    server, begun = MCPServer("here"), asyncio.Event()

    @server.tool()
    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    await manager.mcp.connect("here", MCPServerConfig(server=server))
    call = asyncio.create_task(run(manager, "hang"))
    await begun.wait()
    await manager.cleanup_mcp_servers()
    assert "has been closed" in (await call).content


def test_without_the_extra_there_is_one_warning_and_local_tools_work() -> None:
    program = """
import asyncio, logging, sys
for name in ("mcp", "mcp_types", "jsonschema", "referencing", "httpx2", "anyio", "opentelemetry"):
    sys.modules[name] = None
from llmgine.errors import MissingExtraError
from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.tools.mcp import MCPServerConfig
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
tools = ToolManager()
tools.register_tool(lambda: "here", name="local", description="")

async def main():
    try:
        await tools.mcp.connect("a", MCPServerConfig(command="true"))
    except MissingExtraError as error:
        print(type(error).__name__)  # which says it, so that the log need not
    print(await tools.register_mcp_server("a", "true"), await tools.register_mcp_server("b", url="http://localhost/"))
    print(await tools.initialize_mcp(), await tools.execute_tool_call(ToolCall(id="1", name="local")))
    await tools.cleanup_mcp_servers()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    first, warning, *more = done.stdout.splitlines()
    assert (first, more) == ("MissingExtraError", ["False False", "False here"])
    assert warning.startswith("WARNING")
    assert "pip install 'llmgine[mcp]'" in warning


def test_nobody_imports_the_sdk_who_does_not_use_it() -> None:
    program = (
        "import sys, llmgine.llm.tools.tool_manager as m; m.ToolManager(); "
        "print([name for name in ('mcp', 'mcp_types', 'jsonschema', 'anyio', 'httpx2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def _local() -> str:
    """Be here."""
    return "here"


def _nothing() -> None:
    """Do nothing."""


def test_what_users_need_is_in_one_place() -> None:
    assert {name: getattr(mcp, name).__name__ for name in mcp.__all__} == {name: name for name in mcp.__all__}
    assert "MCPToolContext" in mcp.__all__
