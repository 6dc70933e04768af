"""A server over HTTP is one like any other: what it is sent, and what happens when it dies and comes back."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from raw_mcp import run

from llmgine.bus import MessageBus
from llmgine.errors import MCPConnectionError
from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp import MCPServerConfig
from llmgine.llm.tools.mcp.connection import State
from llmgine.llm.tools.mcp.events import MCPToolsChangedEvent

SERVER = str(Path(__file__).with_name("servers") / "over_http.py")


class Server:
    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.start()

    def start(self) -> None:
        command = [sys.executable, SERVER, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        while b"Uvicorn running" not in self.process.stderr.readline():
            assert self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.kill()


class _Answering(BaseHTTPRequestHandler):
    """Answers every message with a status, and no more."""

    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    """Where somebody answers who is no MCP server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/mcp"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "refuses: HTTP 401 Unauthorized: it wants a token that it knows, in headers (Authorization)."),
        (403, "refuses: HTTP 403 Forbidden: the token in headers (Authorization) gives no right to this, or there is"),
        (404, "refuses: HTTP 404 Not Found: this may not be the path at which it speaks MCP, such as /mcp."),
        (405, "refuses: HTTP 405 Method Not Allowed: this may not be the path"),
        (503, "refuses: HTTP 503 Service Unavailable."),
        (599, "refuses: HTTP 599."),
    ],
)
async def test_a_refusal_is_told_with_its_status_and_what_can_be_done(
    manager: ToolManager, refusing: str, monkeypatch: pytest.MonkeyPatch, status: int, told: str
) -> None:
    monkeypatch.setattr(_Answering, "status", status)
    with pytest.raises(MCPConnectionError) as caught:
        await manager.mcp.connect("web", MCPServerConfig(url=refusing))
    assert f"MCP server 'web' ({refusing}) {told}" in str(caught.value)


async def test_a_call_that_is_refused_is_told_with_its_status(
    manager: ToolManager, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stray(httpx2.AsyncClient):
        async def send(self, request: httpx2.Request, **more: Any) -> httpx2.Response:
            if b"tools/call" in request.content:
                request.headers["host"] = "example.com"  # which the server says is not its name
            return await super().send(request, **more)

    monkeypatch.setattr(httpx2, "AsyncClient", Stray)
    assert await manager.register_mcp_server("web", url=server.url)
    result = await run(manager, "pid")
    assert result.content == "Error executing pid: MCP server 'web' refuses: HTTP 421 Misdirected Request"
    assert manager.mcp.status("web").restarts == 0


async def test_headers_are_sent_and_changes_are_heard(manager: ToolManager, server: Server) -> None:
    bus = MessageBus.isolated()
    await bus.start()
    manager.mcp.bus = bus
    changes: asyncio.Queue[MCPToolsChangedEvent] = asyncio.Queue()
    bus.register_event_handler(MCPToolsChangedEvent, changes.put_nowait)
    assert await manager.register_mcp_server("web", url=server.url, headers={"Authorization": "Bearer 1"})
    assert manager.mcp.status("web").protocol_version == "2026-07-28"
    assert (await run(manager, "headers")).content == "Bearer 1"
    await asyncio.sleep(0.2)
    await run(manager, "grow")
    assert (await asyncio.wait_for(changes.get(), 10)).added == ["new"]
    await bus.stop()


async def test_a_server_that_dies_in_mid_call_fails_the_call_and_is_there_again_when_it_is(
    manager: ToolManager, server: Server
) -> None:
    assert await manager.register_mcp_server("web", url=server.url)
    hanging = asyncio.create_task(run(manager, "hang"))
    await asyncio.sleep(0.3)
    server.kill()
    result = await asyncio.wait_for(hanging, 5)
    assert "MCP server 'web'" in result.content
    result = await asyncio.wait_for(run(manager, "pid"), 5)
    assert "cannot be reached" in result.content
    assert manager.mcp.status("web").state is State.FAILED
    server.start()
    assert (await run(manager, "pid")).value == {"result": server.process.pid}


async def test_calls_of_others_are_not_disturbed_by_one_that_is_cancelled(manager: ToolManager, server: Server) -> None:
    assert await manager.register_mcp_server("web", url=server.url)
    first, second = (asyncio.create_task(run(manager, "hang")) for _ in range(2))
    await asyncio.sleep(0.3)
    first.cancel()
    await asyncio.wait([first])
    assert (await run(manager, "pid")).value == {"result": server.process.pid}
    assert not second.done()
    second.cancel()
    await asyncio.wait([second])
    assert manager.mcp.status("web").restarts == 0


async def test_a_result_may_be_as_large_as_that_of_a_process(manager: ToolManager, server: Server) -> None:
    assert await manager.register_mcp_server("web", url=server.url)
    result = await run(manager, "much", n=5_000_000)
    assert len(result.value) == 5_000_000
    assert len(result.content) < 70_000
    assert "x" in (await run(manager, "much", n=1)).content
    assert manager.mcp.status("web").restarts == 0


async def test_a_server_that_stops_does_not_hold_up_the_end(manager: ToolManager, server: Server) -> None:
    assert await manager.register_mcp_server("web", url=server.url)
    os.kill(server.process.pid, signal.SIGSTOP)
    hanging = asyncio.create_task(run(manager, "hang"))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(manager.cleanup_mcp_servers(), 5)
    assert "has been closed" in (await hanging).content
