"""What a call of an MCP tool costs here, beside the SDK's own client, in the same run.

    python benchmarks/mcp_calls.py [--quick]

`tool`: what runs when the tool is called, which is the SDK's call in the task that owns the connection, with progress,
trace and result. `manager`: all that a model's call goes through besides, as any tool's does: its JSON read, the
arguments checked and written down, its turn, its time limit, its task; the last rows are those of functions which are
tools, in the event loop and in a thread.

All check what comes back against the output schema. They take turns, a block of calls each, so that what else the
machine does meets all alike.
"""

import argparse
import asyncio
import gc
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from time import perf_counter, process_time

from mcp import Client, StdioServerParameters
from mcp.server.mcpserver import MCPServer

from llmgine.llm.tools import ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.mcp import MCPServerConfig

BLOCK = 25
"""Calls of one before it is the other's turn."""
GOALS = {"stdio": 1.3, "in memory": 1.5}
ARGUMENTS = {"a": 1, "b": 2}
WRITTEN = '{"a": 1, "b": 2}'

CLOCKS = ("CPU", "wall")

Call = Callable[[], Awaitable[object]]

server = MCPServer("sums")


@server.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def add_in_thread(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure calls of MCP tools, ours beside the SDK's own.")
    parser.add_argument("--quick", action="store_true", help="fewer calls: a first impression")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        server.run()
    else:
        asyncio.run(measure(10 if arguments.quick else 60))


async def measure(blocks: int) -> None:
    tools = ToolManager()
    tools.register_tool(add)
    tools.register_tool(add_in_thread)
    command = [sys.executable, __file__, "--serve"]
    await tools.mcp.connect("stdio", MCPServerConfig(command=command[0], args=tuple(command[1:]), prefix="stdio_"))
    await tools.mcp.connect("memory", MCPServerConfig(server=server, prefix="memory_"))
    print("| a call | clock | the SDK's own | tool | | manager | | goal |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    async with AsyncExitStack() as stack:
        process = StdioServerParameters(command=command[0], args=command[1:])
        for where, target, name in (("stdio", process, "stdio_add"), ("in memory", server, "memory_add")):
            client = await stack.enter_async_context(Client(target))
            await client.list_tools()
            print(await rows(where, [sdk(client), tool(tools, name), manager(tools, name)], blocks))
    for what, function in (("a coroutine function", add), ("a function", add_in_thread)):
        call = manager(tools, function.__name__)
        await block(call)
        local = [await block(call) for _ in range(blocks)]
        for clock, name in enumerate(CLOCKS):
            print(f"| {what} | {name} | | | | {median(each[clock] for each in local) * 1e6:.0f} µs | | |")
    await tools.cleanup_mcp_servers()
    versions = f"CPython {platform.python_version()}, mcp {version('mcp')}, llmgine {version('llmgine')}"
    print(
        f"\n{datetime.now(UTC).date()}, median of {blocks} blocks of {BLOCK} calls. {versions}. {os.cpu_count()} cores."
    )


def sdk(client: Client) -> Call:
    return lambda: client.call_tool("add", ARGUMENTS)


def tool(tools: ToolManager, name: str) -> Call:
    [found] = [tool for tool in tools.tools if tool.name == name]
    [context] = found.injected
    return lambda: found.call({**ARGUMENTS, context: ToolContext()})


def manager(tools: ToolManager, name: str) -> Call:
    return lambda: tools.run(ToolCall(id="1", name=name, arguments=WRITTEN))


async def rows(where: str, calls: Sequence[Call], blocks: int) -> str:
    for call in calls:
        await block(call)
    figures = [[await block(call) for call in calls] for _ in range(blocks)]
    lines: list[str] = []
    for clock, name in enumerate(CLOCKS):
        theirs = median(each[0][clock] for each in figures)
        cells = [where, name, f"{theirs * 1e6:.0f} µs"]
        for who in (1, 2):
            ratio = median(each[who][clock] / each[0][clock] for each in figures)
            cells += [f"{median(each[who][clock] for each in figures) * 1e6:.0f} µs", f"{ratio:.2f} ×"]
        lines.append(f"| {' | '.join([*cells, f'≤ {GOALS[where]} ×'])} |")
    return "\n".join(lines)


async def block(call: Call) -> tuple[float, float]:
    """Return the seconds of CPU and of the clock that a call took."""
    gc.collect()
    gc.disable()
    cpu, wall = process_time(), perf_counter()
    for _ in range(BLOCK):
        await call()
    taken = (process_time() - cpu) / BLOCK, (perf_counter() - wall) / BLOCK
    gc.enable()
    return taken


if __name__ == "__main__":
    main()
