"""`llmgine mcp inspect`: everything that a server offers, for people and as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from llmgine.cli.failure import ExitCode
from llmgine.cli.mcp_connect import connected
from llmgine.cli.mcp_page import page
from llmgine.cli.mcp_target import Target, find_target
from llmgine.cli.signals import until_stopped
from llmgine.llm.tools.mcp.pages import all_pages
from llmgine.llm.tools.mcp.remote_tool import RemoteTool

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["run_mcp_inspect"]


def run_mcp_inspect(target: Target, *, as_json: bool) -> int:
    """Show what the server is and what it offers; return the exit code.

    Raises:
        ConfigurationError: there is no such server.
        MCPConnectionError: it does not come up.
    """
    return asyncio.run(until_stopped(_inspect(target, as_json=as_json)))


async def _inspect(target: Target, *, as_json: bool) -> int:
    name, config = find_target(target)
    async with connected(name, config) as tools:
        offer = await tools.mcp._server(name).connection.request(lambda client: _offer(name, client))
        used = {tool.function.name for tool in tools.tools if isinstance(tool.function, RemoteTool)}
    for tool in offer["tools"]:
        tool["used"] = tool["name"] in used
    if as_json:
        print(json.dumps(offer, indent=2))  # noqa: T201
    else:
        _print(page(offer))
    return ExitCode.OK


async def _offer(name: str, client: Client) -> dict[str, Any]:
    """Return what a server offers, in the words of the protocol."""
    can = client.server_capabilities
    tools = await all_pages(name, client.list_tools, "tools") if can.tools else []
    resources = await all_pages(name, client.list_resources, "resources") if can.resources else []
    templates = await all_pages(name, client.list_resource_templates, "resource_templates") if can.resources else []
    prompts = await all_pages(name, client.list_prompts, "prompts") if can.prompts else []
    return {
        "server": _data(client.server_info) if client.server_info is not None else {},
        "protocolVersion": client.protocol_version,
        "instructions": client.instructions,
        "capabilities": _data(can),
        "tools": list(map(_data, tools)),
        "resources": list(map(_data, resources)),
        "resourceTemplates": list(map(_data, templates)),
        "prompts": list(map(_data, prompts)),
    }


def _data(model: Any) -> dict[str, Any]:
    data: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return data


def _print(parts: Iterable[RenderableType]) -> None:
    """Write parts for people; in a pipe without line breaks of our own, and without what fills up columns."""
    piped = not sys.stdout.isatty()
    console = Console(highlight=False, width=100_000 if piped else None)
    for part in parts:
        if piped:
            with console.capture() as captured:
                console.print(part)
            sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
        else:
            console.print(part)
