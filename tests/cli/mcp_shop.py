"""An MCP server made with the SDK alone: what the command line talks to in its tests."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("shop", version="3.1", instructions="Ask for prices first.")


@server.tool()
def price(item: str, count: int = 1) -> dict[str, object]:
    """Return what something costs."""
    return {"item": item, "euros": 2.5 * count}


@server.tool()
def say(text: str) -> str:
    """Return a text as it is."""
    return text


@server.tool(structured_output=False)
def picture() -> list[object]:
    """Show the shop."""
    return ["The shop:", Image(data=b"\x89PNG not really", format="png")]


@server.tool()
def sell(item: str) -> str:
    """Sell what there is none of."""
    raise ToolError(f"there is no {item} left")


@server.tool()
async def count(context: Context) -> str:
    """Count what there is, which takes for ever after the second piece."""
    await context.report_progress(1, 3, "first shelf")
    await context.report_progress(2, 3, "second shelf")
    await asyncio.sleep(3600)
    return "three"


@server.tool(structured_output=False)
def surroundings() -> str:
    """Name the environment variables."""
    return json.dumps(sorted(os.environ))


@server.resource("shop://hours")
def hours() -> str:
    """When it is open."""
    return "always"


@server.prompt()
def greet(name: str) -> str:
    """Greet a customer."""
    return f"Welcome, {name}."


if __name__ == "__main__":
    sys.stderr.write("the shop opens\n")
    server.run()
