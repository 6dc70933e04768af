"""`llmgine mcp list`: the servers of a file, all of them tried at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmgine.cli.failure import ExitCode
from llmgine.cli.listing import Column, print_list
from llmgine.cli.mcp_connect import connect_all, server_tools
from llmgine.cli.mcp_target import servers_of
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import notice, printable
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.servers import MCPServerStatus

__all__ = ["run_mcp_list"]


def run_mcp_list(file: str | None, *, as_json: bool) -> int:
    """Show what the servers are; return the exit code.

    Raises:
        ConfigurationError: there is no such file, or it is wrong.
        MissingExtraError: the extra `mcp` is not installed.
    """
    found, servers = servers_of(file)
    if not servers:
        notice(f"There is no server in {found}.")
    return asyncio.run(until_stopped(_list(servers, as_json=as_json)))


@dataclass(frozen=True)
class _Tried:
    """What came of trying a server."""

    name: str
    config: MCPServerConfig
    status: MCPServerStatus | None
    problem: str


async def _list(servers: Mapping[str, MCPServerConfig], *, as_json: bool) -> int:
    async with server_tools() as tools:
        problems = await connect_all(tools, servers)
        statuses = {name: tools.mcp.status(name) for name in tools.mcp.names}
    rows = [_Tried(name, config, statuses.get(name), problems.get(name, "")) for name, config in servers.items()]
    at_terminal = sys.stdout.isatty() and not as_json
    print_list(rows, _COLUMNS[:-1] if at_terminal else _COLUMNS, _as_data, as_json=as_json)
    if at_terminal and problems:
        _print_below(problems.values())
    return ExitCode.FAILURE if problems else ExitCode.OK


def _print_below(problems: Iterable[str]) -> None:
    """Write in full what has no room in the table."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for problem in problems:
        grid.add_row("-", Text(printable(problem)), style="red")
    Console(highlight=False).print("", grid, sep="\n")


def _state(row: _Tried) -> str:
    return row.status.state if row.status else "failed"


def _server(row: _Tried) -> str:
    return f"{row.status.server_name} {row.status.server_version}".strip() if row.status else ""


_COLUMNS: list[Column[_Tried]] = [
    Column(title="NAME", plain=lambda row: row.name, style="bold cyan"),
    Column(title="STATE", plain=_state, shown=lambda row: Text(_state(row), "red" if row.status is None else "green")),
    Column(title="SERVER", plain=_server, gives_way=True),
    Column(title="PROTOCOL", plain=lambda row: row.status and row.status.protocol_version),
    Column(title="TOOLS", plain=lambda row: len(row.status.tools) if row.status else None, right=True),
    Column(title="PROBLEM", plain=lambda row: row.problem),
]


def _as_data(row: _Tried) -> dict[str, Any]:
    status = row.status
    return {
        "name": row.name,
        "transport": "stdio" if row.config.command else "http",
        "state": _state(row),
        "server": status and status.server_name,
        "version": status and status.server_version,
        "protocol": status and status.protocol_version,
        "tools": status and list(status.tools),
        "problem": row.problem or None,
    }
