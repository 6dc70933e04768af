"""What clients see of a `ToolManager`: the SDK's own client, in memory, in both eras of the protocol."""

import asyncio
import base64
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import mcp_types as types
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, Field

import llmgine
from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError, ToolRegistrationError
from llmgine.llm.providers.images import image_part
from llmgine.llm.tools import ToolContext, ToolManager
from llmgine.llm.tools.mcp import server as server_module
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server, server_of
from llmgine.llm.tools.tool_events import ToolProgressEvent
from llmgine.llm.tools.tool_options import tool

PNG = b"\x89PNG\r\n\x1a\nnot much"


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    """Which era of the protocol the client speaks: with a handshake, or since 2026-07-28."""
    return str(request.param)


@pytest.fixture
def tools() -> ToolManager:
    return ToolManager()


def client(tools: ToolManager, mode: str, bus: MessageBus | None = None, **options: Any) -> Client:
    return Client(create_llmgine_mcp_server(tools, bus=bus).sdk, mode=mode, **options)


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


# Tools as they are listed


@dataclass
class Report:
    city: str
    degrees: float


def weather(city: str, days: Annotated[int, Field(ge=1, le=7)] = 1) -> Report:
    """Look up the weather.

    Args:
        city: where.
        days: how many.
    """
    return Report(city, 21.5 * days)


async def test_tools_are_listed_with_their_schemas_in_the_order_of_registration(tools: ToolManager, mode: str) -> None:
    names = [f"tool_{number}" for number in (3, 1, 2)]
    tools.register_tool(weather)
    for name in names:
        tools.register_tool(lambda: None, name=name)
    async with client(tools, mode) as session:
        listed = await session.list_tools()
        again = await session.list_tools(cache_mode="refresh")
    assert [each.name for each in listed.tools] == ["weather", *names] == [each.name for each in again.tools]
    [described] = [each for each in listed.tools if each.name == "weather"]
    assert described.description == "Look up the weather."
    assert described.input_schema == tools.tools[0].json_schema
    assert described.input_schema["properties"]["days"]["maximum"] == 7
    assert listed.next_cursor is None


async def test_clients_may_keep_the_list_for_a_while_each_for_itself(tools: ToolManager) -> None:
    async with client(tools, "auto") as session:
        listed = await session.list_tools()
    assert (listed.ttl_ms, listed.cache_scope) == (60_000, "private")


async def test_there_is_no_second_page(tools: ToolManager, mode: str) -> None:
    async with client(tools, mode) as session:
        with pytest.raises(MCPError) as refused:
            await session.list_tools(cursor="2")
    assert refused.value.code == types.INVALID_PARAMS


async def test_a_tool_that_is_registered_later_is_listed_and_can_be_called(tools: ToolManager, mode: str) -> None:
    async with client(tools, mode) as session:
        assert (await session.list_tools()).tools == []
        tools.register_tool(weather)
        assert [each.name for each in (await session.list_tools(cache_mode="refresh")).tools] == ["weather"]
        assert not (await session.call_tool("weather", {"city": "Paris"})).is_error


async def test_a_tool_in_the_place_of_another_is_described_anew(tools: ToolManager, mode: str) -> None:
    tools.register_tool(weather)
    [first] = tools.tools
    async with client(tools, mode) as session:
        await session.list_tools()
        tools._register.replace("", [replace(first, description="Look again.")])
        [described] = (await session.list_tools(cache_mode="refresh")).tools
    assert described.description == "Look again."


@pytest.mark.parametrize(
    ("effect", "hints"),
    [("read", (True, False, True)), ("idempotent", (False, True, True)), ("unsafe", (False, True, False))],
)
async def test_annotations_say_what_calling_a_tool_does(
    tools: ToolManager, mode: str, effect: Any, hints: tuple[bool, bool, bool]
) -> None:
    tools.register_tool(weather, effect=effect)
    async with client(tools, mode) as session:
        [described] = (await session.list_tools()).tools
    told = described.annotations
    assert told is not None
    assert (told.read_only_hint, told.destructive_hint, told.idempotent_hint) == hints


async def test_the_server_says_who_it_is(tools: ToolManager, mode: str) -> None:
    server = create_llmgine_mcp_server(tools, name="notes", version="1.2", instructions="Be brief.")
    async with Client(server.sdk, mode=mode) as session:
        assert session.server_info is not None
        assert (session.server_info.name, session.server_info.version) == ("notes", "1.2")
        assert session.instructions == "Be brief."
        assert session.server_capabilities.tools is not None
        assert session.server_capabilities.resources is None
        assert session.server_capabilities.prompts is None


async def test_without_a_version_it_is_that_of_llmgine(tools: ToolManager) -> None:
    async with client(tools, "legacy") as session:
        assert session.server_info is not None
        assert session.server_info.version == llmgine.__version__


# Results


async def test_a_text_is_a_text(tools: ToolManager, mode: str) -> None:
    tools.register_tool(lambda name: f"Hello, {name}!", name="greet")
    async with client(tools, mode) as session:
        result = await session.call_tool("greet", {"name": "Ada"})
    assert (text_of(result), result.structured_content, result.is_error) == ("Hello, Ada!", None, False)


async def test_an_object_with_a_form_has_a_schema_and_is_data_beside_its_text(tools: ToolManager, mode: str) -> None:
    tools.register_tool(weather)
    async with client(tools, mode) as session:
        [described] = (await session.list_tools()).tools
        result = await session.call_tool("weather", {"city": "Paris", "days": "2"})
    assert described.output_schema is not None
    assert described.output_schema["properties"]["degrees"] == {"title": "Degrees", "type": "number"}
    assert result.structured_content == {"city": "Paris", "degrees": 43.0}
    assert text_of(result) == '{"city":"Paris","degrees":43.0}'


class Node(BaseModel):
    name: str
    children: "list[Node]" = Field(default=[], alias="below")


async def test_a_model_that_refers_to_itself_is_data_under_the_names_of_its_schema(
    tools: ToolManager, mode: str
) -> None:
    def tree() -> Node:
        return Node(name="root", below=[Node(name="leaf")])

    tools.register_tool(tree)
    async with client(tools, mode) as session:
        [described] = (await session.list_tools()).tools
        result = await session.call_tool("tree")
    assert described.output_schema is not None
    assert described.output_schema["type"] == "object"
    assert result.structured_content == {"name": "root", "below": [{"name": "leaf", "below": []}]}


async def test_a_dict_without_a_form_is_data_without_a_schema(tools: ToolManager, mode: str) -> None:
    def figures() -> dict[str, Any]:
        return {"mean": 2.5, "of": (1, 4), "none": math.nan}

    tools.register_tool(figures)
    async with client(tools, mode) as session:
        [described] = (await session.list_tools()).tools
        result = await session.call_tool("figures")
    assert described.output_schema is None
    assert result.structured_content == {"mean": 2.5, "of": [1, 4], "none": None}


async def test_who_returns_something_else_than_promised_has_failed(tools: ToolManager, mode: str) -> None:
    def liar() -> Report:
        return {"city": "Paris"}  # type: ignore[return-value]

    tools.register_tool(liar)
    async with client(tools, mode) as session:
        result = await session.call_tool("liar")
    assert result.is_error
    assert "liar" in text_of(result)
    assert "not of the form" in text_of(result)


async def test_a_long_text_is_cut_and_data_that_is_too_long_is_left_out_or_refused(mode: str) -> None:
    tools = ToolManager(max_result_chars=100)

    def long_dict() -> dict[str, Any]:
        return {"text": "a" * 500}

    def long_report() -> Report:
        return Report("a" * 500, 0)

    for function in (long_dict, long_report):
        tools.register_tool(function)
    tools.register_tool(lambda: "a" * 500, name="long_text")
    async with client(tools, mode) as session:
        text = text_of(await session.call_tool("long_text"))
        assert text.startswith("a" * 100 + "\n[400 of 500 characters left out]")
        loose = await session.call_tool("long_dict")
        assert (loose.structured_content, loose.is_error) == (None, False)
        assert "left out" in text_of(loose)
        promised = await session.call_tool("long_report")
        assert promised.is_error
        assert "larger than the 100 bytes" in text_of(promised)


async def test_a_picture_is_a_picture_be_it_a_part_of_a_message_or_a_block(tools: ToolManager, mode: str) -> None:
    block = types.ImageContent(mime_type="image/png", data=base64.b64encode(PNG).decode())
    tools.register_tool(lambda: image_part(PNG), name="part")
    tools.register_tool(lambda: block, name="block")
    tools.register_tool(lambda: ["A picture:", image_part(PNG), {"width": 1}], name="several")
    async with client(tools, mode) as session:
        assert (await session.call_tool("part")).content == [block] == (await session.call_tool("block")).content
        several = (await session.call_tool("several")).content
    assert several == [types.TextContent(text="A picture:"), block, types.TextContent(text='{"width":1}')]


@pytest.mark.parametrize(
    "value",
    [
        {"type": "image_url", "image_url": 3},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
        {"type": "resource", "id": 3},
        {"type": "text", "text": "a"},
        {"type": ["text"]},
        [{"type": "text", "text": "a"}],
        ["a", "b"],
        [],
    ],
)
async def test_what_only_looks_like_a_block_is_data(tools: ToolManager, mode: str, value: Any) -> None:
    tools.register_tool(lambda: value, name="get")
    async with client(tools, mode) as session:
        result = await session.call_tool("get")
    assert not result.is_error
    assert isinstance(text_of(result), str)
    assert result.structured_content == (value if isinstance(value, dict) else None)


async def test_the_parts_of_a_message_are_blocks(tools: ToolManager, mode: str) -> None:
    tools.register_tool(lambda: [{"type": "text", "text": "A picture:"}, image_part(PNG)], name="message")
    async with client(tools, mode) as session:
        [text, picture] = (await session.call_tool("message")).content
    assert text == types.TextContent(text="A picture:")
    assert isinstance(picture, types.ImageContent)


@pytest.mark.parametrize("value", [{"name": "\ud800"}, {"me": object()}, {1: 2}])
async def test_data_that_json_cannot_express_is_told_as_well_as_it_can_be(
    tools: ToolManager, mode: str, value: Any
) -> None:
    tools.register_tool(lambda: value, name="get")
    async with client(tools, mode) as session:
        result = await session.call_tool("get")
    assert not result.is_error
    assert text_of(result)


async def test_a_tool_may_answer_in_the_words_of_the_protocol(tools: ToolManager, mode: str) -> None:
    answer = types.CallToolResult(content=[types.TextContent(text="no")], is_error=True)
    error = types.ErrorData(code=-32000, message="not today", data={"why": "Sunday"})
    tools.register_tool(lambda: answer, name="result")
    tools.register_tool(lambda: error, name="error")
    async with client(tools, mode) as session:
        result = await session.call_tool("result")
        assert (text_of(result), result.is_error) == ("no", True)
        with pytest.raises(MCPError) as raised:
            await session.call_tool("error")
    assert (raised.value.code, raised.value.message, raised.value.data) == (-32000, "not today", {"why": "Sunday"})


async def test_too_many_pictures_are_refused(tools: ToolManager, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgine.llm.tools.mcp.serving import results

    monkeypatch.setattr(results, "_MAX_BLOCKS", 300)
    tools.register_tool(lambda: [image_part(PNG)] * 20, name="album")
    async with client(tools, mode) as session:
        result = await session.call_tool("album")
    assert result.is_error
    assert "larger than the 300 bytes" in text_of(result)


# Errors


async def test_what_a_tool_raises_is_told_to_the_model(tools: ToolManager, mode: str) -> None:
    def fail() -> None:
        msg = "no such file"
        raise OSError(msg)

    tools.register_tool(fail)
    async with client(tools, mode) as session:
        result = await session.call_tool("fail")
    assert (result.is_error, text_of(result)) == (True, "Error executing fail: OSError: no such file")


async def test_arguments_that_do_not_fit_are_told_to_the_model(tools: ToolManager, mode: str) -> None:
    tools.register_tool(weather)
    async with client(tools, mode) as session:
        result = await session.call_tool("weather", {"days": 9, "town": "Paris"})
    assert result.is_error
    for part in ("city: required", "days: Input should be less than or equal to 7", "town: unknown argument"):
        assert part in text_of(result)


async def test_an_unknown_tool_is_an_error_of_the_protocol_that_names_the_nearest(
    tools: ToolManager, mode: str
) -> None:
    tools.register_tool(weather)
    async with client(tools, mode) as session:
        with pytest.raises(MCPError, match="Did you mean 'weather'") as refused:
            await session.call_tool("wether", {})
    assert refused.value.code == types.INVALID_PARAMS


async def test_a_tool_that_takes_too_long_is_ended(tools: ToolManager, mode: str) -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tools.register_tool(slow, timeout=0.02)
    async with client(tools, mode) as session:
        result = await session.call_tool("slow")
    assert ended.is_set()
    assert result.is_error
    assert "timed out" in text_of(result)


# Progress and cancellation


async def test_the_client_hears_of_progress_and_the_bus_too(tools: ToolManager, mode: str) -> None:
    bus = MessageBus.isolated()
    heard: list[float] = []
    bus.register_event_handler(ToolProgressEvent, lambda event: heard.append(event.progress))
    await bus.start()

    async def work(context: ToolContext) -> str:
        for step in (1, 3, 2, 4):
            await context.report_progress(step, 4, f"step {step}")
        return "done"

    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    tools.register_tool(work)
    async with client(tools, mode, bus) as session:
        assert text_of(await session.call_tool("work", progress_callback=note)) == "done"
    await bus.stop()
    assert seen == [(step, 4, f"step {step}") for step in (1, 3, 4)]  # the protocol wants it to increase
    assert heard == [1, 3, 2, 4]


async def test_a_tool_in_a_thread_reports_progress(tools: ToolManager, mode: str) -> None:
    def work(context: ToolContext) -> str:
        context.run_async(context.report_progress(0.5))
        return "done"

    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    tools.register_tool(work)
    async with client(tools, mode) as session:
        await session.call_tool("work", progress_callback=note)
    assert seen == [0.5]


async def test_who_asks_for_no_progress_gets_none(tools: ToolManager, mode: str) -> None:
    async def work(context: ToolContext) -> str:
        await context.report_progress(1)
        return "done"

    tools.register_tool(work)
    messages: list[Any] = []

    async def note(message: Any) -> None:
        messages.append(message)

    async with client(tools, mode, message_handler=note) as session:
        await session.call_tool("work")
    assert messages == []


async def test_cancelling_a_request_cancels_the_tool_which_may_clean_up(tools: ToolManager, mode: str) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):  # a scope of anyio would cancel each of these, too
                await asyncio.sleep(0)
            cleaned.set()

    tools.register_tool(work)
    async with client(tools, mode) as session:
        call = asyncio.create_task(session.call_tool("work"))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(cleaned.wait(), 5)
        tools.register_tool(lambda: "still here", name="after")
        assert text_of(await session.call_tool("after")) == "still here"


async def test_calls_run_side_by_side(tools: ToolManager, mode: str) -> None:
    met = asyncio.Barrier(3)

    async def meet() -> str:
        await met.wait()
        return "met"

    tools.register_tool(meet)
    async with client(tools, mode) as session, asyncio.timeout(5):
        results = await asyncio.gather(*(session.call_tool("meet") for _ in range(3)))
    assert [text_of(result) for result in results] == ["met"] * 3


# What a server is made of


def test_a_server_is_made_of_what_a_name_leads_to(tools: ToolManager) -> None:
    class Notes:
        @tool
        def read_note(self) -> str:
            return "note"

    tools.register_tool(weather)
    server = create_llmgine_mcp_server(tools)
    assert server_of(server) is server
    assert server_of(tools).tools is tools
    assert [each.name for each in server_of(weather).tools.tools] == ["weather"]
    assert [each.name for each in server_of(Notes()).tools.tools] == ["read_note"]
    assert "server_of" in [each.name for each in server_of(_module(weather, server_of)).tools.tools]


def _module(*functions: Callable[..., Any]) -> Any:
    from types import ModuleType

    module = ModuleType(server_module.__name__)
    for function in functions:
        setattr(module, function.__name__, function)
    return module


@pytest.mark.parametrize("found", [None, 3, "tools", ["tools"], int])
def test_of_anything_else_no_server_is_made(found: object) -> None:
    with pytest.raises(ConfigurationError, match="Expected a ToolManager"):
        server_of(found)


def test_of_an_object_without_functions_no_server_is_made() -> None:
    with pytest.raises(ToolRegistrationError):
        server_of(object())
