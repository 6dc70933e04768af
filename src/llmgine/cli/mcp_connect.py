"""Connections to MCP servers for the time of one command, and a line at the terminal while one is waited for."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from llmgine.bus import MessageBus
from llmgine.cli.stderr import printable, warn
from llmgine.errors import MCPConnectionError
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.file import read_mcp_file
from llmgine.llm.tools.tool_manager import ToolManager

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Waiting", "connect_all", "connected", "server_tools", "servers_beside", "waiting"]


@asynccontextmanager
async def server_tools() -> AsyncGenerator[ToolManager]:
    """Give a manager for the tools of servers, which has no limits of its own; end its servers."""
    tools = ToolManager(default_timeout_s=math.inf, max_result_chars=sys.maxsize)
    try:
        yield tools
    finally:
        await tools.cleanup_mcp_servers()


async def connect_all(tools: ToolManager, servers: Mapping[str, MCPServerConfig]) -> dict[str, str]:
    """Connect to servers at the same time. Return what is wrong with those that do not come up, by their names.

    Raises:
        MissingExtraError: the extra `mcp` is not installed.
    """
    problems: dict[str, str] = {}
    missing = list(servers)

    async def connect(name: str, config: MCPServerConfig) -> None:
        try:
            await tools.mcp.connect(name, config)
        except MCPConnectionError as error:
            problems[name] = " ".join(str(error).split())
        missing.remove(name)
        line.tell(f"connecting to {', '.join(missing)}")

    with waiting(f"connecting to {', '.join(missing)}") as line:
        await asyncio.gather(*map(connect, servers, servers.values()))
    return problems


@asynccontextmanager
async def servers_beside(tools: ToolManager, file: str | None, bus: MessageBus) -> AsyncGenerator[None]:
    """Have the tools of a file's servers beside the others; which servers do not come up is said in a line each.

    Raises:
        ConfigurationError: there is no such file, or it is wrong.
        MissingExtraError: the extra `mcp` is not installed.
    """
    if file is None:
        yield
        return
    servers = read_mcp_file(file)
    tools.mcp.bus = bus
    try:
        for problem in (await connect_all(tools, servers)).values():
            warn(f"{problem} Its tools are left out")
        yield
    finally:
        await tools.cleanup_mcp_servers()


@asynccontextmanager
async def connected(name: str, config: MCPServerConfig) -> AsyncGenerator[ToolManager]:
    """Give a manager with the tools of one server.

    Raises:
        MCPConnectionError: it does not come up.
        MissingExtraError: the extra `mcp` is not installed.
    """
    async with server_tools() as tools:
        with waiting(f"connecting to {name}"):
            await tools.mcp.connect(name, config)
        yield tools


@contextmanager
def waiting(text: str) -> Generator[Waiting]:
    """Show what is waited for, if a person is watching; give what changes it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield Waiting(None)
        return
    from rich.console import Console

    with Console(stderr=True).status(_line(text)) as status:
        yield Waiting(status)


class Waiting:
    """A line at the terminal."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def tell(self, text: str) -> None:
        """Change what it says."""
        if self._status is not None:
            self._status.update(_line(text))

    @contextmanager
    def aside(self) -> Generator[None]:
        """Take it away, so that something else can be written within the block."""
        if self._status is None:
            yield
            return
        self._status.stop()
        try:
            yield
        finally:
            self._status.start()


def _line(text: str) -> Text:
    return Text(printable(text), "dim")
