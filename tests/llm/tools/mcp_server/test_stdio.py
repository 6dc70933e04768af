"""The server on standard input and output: real processes, the SDK's own client."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters

PROGRAM = """
import asyncio, os, subprocess, sys
from dataclasses import dataclass
from llmgine.bus import MessageBus
from llmgine.llm.tools import ToolManager
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server
from llmgine.messages import Event

@dataclass
class Cleaned(Event):
    pass

bus = MessageBus()
bus.register_event_handler(Cleaned, lambda event: print("cleaned up", file=sys.stderr, flush=True))
tools = ToolManager()
print("before anybody listens")

@tools.register_tool
def noisy() -> str:
    print("from Python")
    sys.stdout.flush()
    os.write(1, b"from below\\n")
    subprocess.run(["echo", "from a child"], check=True)
    print("left in the buffer")
    return "quiet"

@tools.register_tool
def curious() -> str:
    return repr((os.read(0, 9), subprocess.run(["cat"], capture_output=True).stdout))

@tools.register_tool
async def wait() -> None:
    print("begun", file=sys.stderr, flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await bus.publish(Cleaned(), await_processing=False)

class SlowBus(MessageBus):
    async def stop(self, timeout=30.0):
        print("stopping", file=sys.stderr, flush=True)
        await asyncio.sleep(0.3)
        return await super().stop(timeout)

bus.__class__ = SlowBus if "slow" in sys.argv else MessageBus
server = create_llmgine_mcp_server(tools, name="program", bus=bus)
asyncio.run(server.run_stdio())
print("ended", bus.loop, file=sys.stderr, flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def text_of(result: types.CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, types.TextContent)
    return block.text


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_what_tools_print_does_not_get_between_the_messages(program: Path, mode: str) -> None:
    server = StdioServerParameters(command=sys.executable, args=[str(program)], env=dict(os.environ))
    async with Client(server, mode=mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "program"
        assert text_of(await client.call_tool("noisy")) == "quiet"
        assert text_of(await client.call_tool("curious")) == "(b'', b'')"
        assert text_of(await client.call_tool("noisy")) == "quiet"


async def start(program: Path, *options: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return await asyncio.create_subprocess_exec(
        sys.executable, program, *options, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )


async def rest_of(process: asyncio.subprocess.Process) -> bytes:
    """Return what is yet to come of standard error, without what was printed before and is written at the end."""
    assert process.stderr is not None
    text = await asyncio.wait_for(process.stderr.read(), 10)
    return text.replace(b"before anybody listens\n", b"")


def message(method: str, number: int | None = None, **params: Any) -> bytes:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    data = {"jsonrpc": "2.0", "method": method, "params": {"_meta": meta, **params}}
    return json.dumps(data if number is None else {**data, "id": number}).encode() + b"\n"


async def test_standard_output_has_messages_only_and_standard_error_the_rest(program: Path) -> None:
    process = await start(program)
    output, errors = await process.communicate(message("tools/call", 1, name="noisy"))
    # Standard input has ended, and so may the call have.
    for line in output.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert b"before anybody listens" in errors
    assert process.returncode == 0


async def test_the_end_of_standard_input_ends_it_and_cancels_what_runs(program: Path) -> None:
    process = await start(program)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(message("tools/call", 1, name="wait"))
    await process.stderr.readuntil(b"begun\n")
    process.stdin.close()
    assert await rest_of(process) == b"cleaned up\nended None\n"
    assert await process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_while_standard_input_is_open(program: Path, number: int) -> None:
    process = await start(program)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(message("tools/call", 1, name="wait"))
    await process.stderr.readuntil(b"begun\n")
    process.send_signal(number)
    assert await rest_of(process) == b"cleaned up\nended None\n"
    assert await process.wait() == 0
    process.stdin.close()


async def test_a_signal_does_not_cut_short_what_it_does_at_the_end(program: Path) -> None:
    process = await start(program, "slow")
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.close()
    await process.stderr.readuntil(b"stopping\n")
    process.terminate()
    assert await rest_of(process) == b"ended None\n"
    assert await process.wait() == 0


async def test_a_signal_ends_it_while_nothing_runs(program: Path) -> None:
    process = await start(program)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(message("tools/list", 1))
    await process.stdout.readline()
    process.terminate()
    assert await rest_of(process) == b"ended None\n"
    assert await process.wait() == 0
    process.stdin.close()


async def test_garbage_is_survived(program: Path) -> None:
    process = await start(program)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(message("tools/list", 1) + b"\xff\xfe garbage\n{}\n[1]\n\n" + message("tools/list", 2))
    answers: list[dict[str, Any]] = []
    while len(answers) < 2:
        answer = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
        if answer.get("id") is not None:
            answers.append(answer)
    assert [each["id"] for each in answers] == [1, 2]
    assert [tool["name"] for tool in answers[1]["result"]["tools"]] == ["noisy", "curious", "wait"]
    await process.communicate(b"")
    assert process.returncode == 0
