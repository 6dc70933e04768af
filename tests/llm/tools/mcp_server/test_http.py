"""The server over HTTP: real sockets, the SDK's own client, and those who must not get in."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError
from llmgine.llm.tools import ToolContext, ToolManager
from llmgine.llm.tools.mcp.server import LLMgineMCPServer, create_llmgine_mcp_server

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tools() -> ToolManager:
    manager = ToolManager()
    manager.register_tool(lambda name: f"Hello, {name}!", name="greet")
    return manager


@asynccontextmanager
async def serving(server: LLMgineMCPServer, **options: Any) -> AsyncGenerator[str, None]:
    """Serve for the length of the block, under the address that it gets."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.run_http(**{"port": 0, "on_listening": address.set_result, **options}))
    task.add_done_callback(lambda _: address.cancel())
    try:
        yield await address
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


async def post(url: str, *, body: bytes | None = None, **headers: Any) -> httpx2.Response:
    """Ask for the list of tools, as a client since 2026-07-28 does, or send something else."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    sent = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/list",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.post(url, content=json.dumps(message) if body is None else body, headers=sent)


async def test_a_client_lists_calls_and_hears_of_progress(tools: ToolManager, mode: str) -> None:
    async def work(context: ToolContext) -> str:
        for step in (1, 2):
            await context.report_progress(step, 2)
        return "done"

    tools.register_tool(work)
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with serving(create_llmgine_mcp_server(tools)) as url, Client(url, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["greet", "work"]
        assert text_of(await client.call_tool("greet", {"name": "Ada"})) == "Hello, Ada!"
        assert text_of(await client.call_tool("work", progress_callback=note)) == "done"
    assert seen == [1, 2]


async def test_a_client_that_leaves_cancels_its_call(tools: ToolManager, mode: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    tools.register_tool(work)
    async with serving(create_llmgine_mcp_server(tools)) as url, Client(url, mode=mode) as client:
        call = asyncio.create_task(client.call_tool("work"))
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_the_user_is_asked_over_http_too(tools: ToolManager, mode: str) -> None:
    async def agree(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept")

    tools.register_tool(lambda: "it is done", name="do_it", requires_approval=True)
    server = create_llmgine_mcp_server(tools)
    async with serving(server) as url, Client(url, mode=mode, elicitation_callback=agree) as client:
        assert text_of(await client.call_tool("do_it")) == "it is done"


# Who may speak


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "", "example.com"])  # noqa: S104
async def test_beyond_this_machine_there_has_to_be_a_token(tools: ToolManager, host: str) -> None:
    with pytest.raises(ConfigurationError, match="Give a token"):
        await create_llmgine_mcp_server(tools).run_http(host, 0)


@pytest.mark.parametrize("token", ["", "two words", "schlüssel", "line\n"])
async def test_a_token_must_be_one_that_can_be_sent(tools: ToolManager, token: str) -> None:
    with pytest.raises(ConfigurationError, match="printable ASCII"):
        await create_llmgine_mcp_server(tools).run_http(port=0, token=token)


@pytest.mark.parametrize("origins", ["https://example.com", ["example.com"], ["https://example.com/"], [""]])
async def test_origins_must_be_origins(tools: ToolManager, origins: Any) -> None:
    with pytest.raises(ConfigurationError, match="allowed_origins"):
        await create_llmgine_mcp_server(tools).run_http(port=0, allowed_origins=origins)


async def test_who_has_the_token_gets_in_and_nobody_else(tools: ToolManager, mode: str) -> None:
    server = create_llmgine_mcp_server(tools)
    async with serving(server, host="0.0.0.0", token=TOKEN) as everywhere:  # noqa: S104
        url = everywhere.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            assert text_of(await client.call_tool("greet", {"name": "Ada"})) == "Hello, Ada!"
        refusals: tuple[dict[str, Any], ...] = (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer"},
            {"Authorization": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
        )
        for given in refusals:
            refused = await post(url, **given)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert TOKEN not in refused.text
        assert (await post(url, Authorization=f"bearer  {TOKEN}")).status_code == 200
        assert (await post(url, Authorization=f"Bearer {TOKEN}", Host="tools.example.com")).status_code == 200


async def test_a_token_is_asked_for_on_this_machine_if_there_is_one(tools: ToolManager) -> None:
    async with serving(create_llmgine_mcp_server(tools), token=TOKEN) as url:
        assert (await post(url)).status_code == 401
        assert (await post(url, Authorization=f"Bearer {TOKEN}")).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1", 200),
        ("127.1.2.3:1", 200),
        ("[::1]:8000", 200),
        ("evil.example.com", 403),
        ("localhost.evil.example.com", 403),
        ("localhost@evil.example.com", 403),
        ("127.0.0.1:x", 403),
        ("[", 403),
        ("192.168.1.5:8000", 403),
        ("", 403),
    ],
)
async def test_a_name_that_is_not_this_machines_is_turned_away(tools: ToolManager, host: str, status: int) -> None:
    async with serving(create_llmgine_mcp_server(tools)) as url:
        assert (await post(url, Host=host)).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:5173", 200),
        ("https://app.example.com", 200),
        ("https://app.example.com:8443", 403),
        ("http://app.example.com", 403),
        ("https://evil.example.com", 403),
        ("http://localhost.evil.example.com", 403),
        ("file://localhost", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_pages_of_other_origins_are_turned_away(tools: ToolManager, origin: str, status: int) -> None:
    server = create_llmgine_mcp_server(tools)
    async with serving(server, allowed_origins=["https://app.example.com"]) as url:
        assert (await post(url, Origin=origin)).status_code == status


async def test_beyond_this_machine_only_the_origins_that_are_named_may_speak(tools: ToolManager) -> None:
    server = create_llmgine_mcp_server(tools)
    origins = ["https://app.example.com"]
    async with serving(server, host="0.0.0.0", token=TOKEN, allowed_origins=origins) as everywhere:  # noqa: S104
        url = everywhere.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        token = f"Bearer {TOKEN}"
        assert (await post(url, Authorization=token, Origin="http://localhost:3000")).status_code == 403
        answer = await post(url, Authorization=token, Origin=origins[0])
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == origins[0]
        async with httpx2.AsyncClient(trust_env=False) as client:
            asked = {"Origin": origins[0], "Access-Control-Request-Method": "POST"}
            asked["Access-Control-Request-Headers"] = "authorization, content-type, mcp-method"
            assert (await client.options(url, headers=asked)).status_code == 200


async def test_a_body_that_is_too_large_is_not_read(tools: ToolManager) -> None:
    async with serving(create_llmgine_mcp_server(tools)) as url:
        assert (await post(url, body=b" " * 5_000_000)).status_code == 413


async def test_what_is_not_there_is_not_found(tools: ToolManager) -> None:
    async with serving(create_llmgine_mcp_server(tools)) as url:
        assert (await post(url.replace("/mcp", "/"))).status_code == 404


# Beginning and end


async def test_a_port_that_is_taken_is_told(tools: ToolManager) -> None:
    server = create_llmgine_mcp_server(tools)
    async with serving(server) as url:
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}.*Choose another"):
            await create_llmgine_mcp_server(tools).run_http(port=port)


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("127.0.0.1", 70_000, "0 to 65535"),
        ("127.0.0.1", -1, "0 to 65535"),
        ("no.such.host.invalid", 0, "Choose another"),
    ],
)
async def test_what_cannot_be_listened_on_is_told(tools: ToolManager, host: str, port: int, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        await create_llmgine_mcp_server(tools).run_http(host, port, token=TOKEN)


async def test_the_bus_runs_as_long_as_the_server(tools: ToolManager) -> None:
    bus = MessageBus.isolated()
    async with serving(create_llmgine_mcp_server(tools, bus=bus)):
        assert bus.loop is asyncio.get_running_loop()
    assert bus.loop is None


async def test_a_bus_that_ran_before_runs_on(tools: ToolManager) -> None:
    bus = MessageBus.isolated()
    await bus.start()
    async with serving(create_llmgine_mcp_server(tools, bus=bus)):
        pass
    assert bus.loop is not None
    await bus.stop()


async def test_a_cancellation_ends_it_and_leaves_nothing_behind(tools: ToolManager) -> None:
    async with serving(create_llmgine_mcp_server(tools)) as url, Client(url) as client:
        await client.list_tools()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(httpx2.ConnectError):
        await post(url)


PROGRAM = """
import asyncio, sys
from dataclasses import dataclass
from llmgine.bus import MessageBus
from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp.serving import http
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server
from llmgine.messages import Event

http._GRACE = 0.1

@dataclass
class Cleaned(Event):
    pass

bus = MessageBus()
bus.register_event_handler(Cleaned, lambda event: print("cleaned up", flush=True))
tools = ToolManager()

@tools.register_tool
async def wait() -> None:
    print("begun", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await bus.publish(Cleaned(), await_processing=False)

server = create_llmgine_mcp_server(tools, bus=bus)
asyncio.run(server.run_http(port=0, on_listening=lambda url: print(url, flush=True)))
print("ended", bus.loop, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_good_order(mode: str, number: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(sys.executable, program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with Client(url, mode=mode) as client:
        call = asyncio.create_task(client.call_tool("wait"))
        assert await process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        rest = await asyncio.wait_for(process.stdout.read(), 10)
        call.cancel()
        await asyncio.wait([call])
    assert rest == b"cleaned up\nended None\n"
    assert await process.wait() == 0
