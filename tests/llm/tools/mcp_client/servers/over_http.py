"""A server over HTTP: `python over_http.py PORT`."""

import asyncio
import os
import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import TextContent

server = MCPServer("web")


@server.tool()
def pid() -> int:
    return os.getpid()


@server.tool()
async def much(ctx: Context, n: int) -> list[TextContent]:
    await ctx.report_progress(1)  # so that the answer is a stream of events
    return [TextContent(text="x" * n)]


@server.tool()
async def hang() -> None:
    await asyncio.sleep(600)


@server.tool()
async def headers(ctx: Context) -> str:
    return str(ctx.headers and ctx.headers.get("authorization"))


@server.tool()
async def grow(ctx: Context) -> str:
    server.add_tool(lambda: "new", name="new")
    await ctx.notify_tools_changed()
    return "grown"


server.run(transport="streamable-http", port=int(sys.argv[1]))
