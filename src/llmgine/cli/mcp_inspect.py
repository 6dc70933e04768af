"""`llmgine mcp inspect`: everything that a server offers, for people and as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType

from llmgine.cli.failure import ExitCode
from llmgine.cli.mcp_connect import connected
from llmgine.cli.mcp_page import page
from llmgine.cli.mcp_target import Target, find_target
from llmgine.cli.signals import until_stopped
from llmgine.llm.tools.mcp.remote_tool import RemoteTool
from llmgine.llm.tools.mcp.servers import MCPServers

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
        offer = await _offer(name, tools.mcp)
        used = {tool.function.name for tool in tools.tools if isinstance(tool.function, RemoteTool)}
    for tool in offer["tools"]:
        tool["used"] = tool["name"] in used
    if as_json:
        print(json.dumps(offer, indent=2))  # noqa: T201
    else:
        _print(page(offer))
    return ExitCode.OK


async def _offer(name: str, servers: MCPServers) -> dict[str, Any]:
    """Return what a server offers, in the words of the protocol."""
    status = servers.status(name)
    can = status.capabilities
    tools = await servers.list_tools(name) if "tools" in can else []
    resources = await servers.list_resources(name) if "resources" in can else []
    templates = await servers.list_resource_templates(name) if "resources" in can else []
    prompts = await servers.list_prompts(name) if "prompts" in can else []
    return {
        "server": status.server_info,
        "protocolVersion": status.protocol_version,
        "instructions": status.instructions or None,
        "capabilities": can,
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
