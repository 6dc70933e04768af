"""How a server is reached: as a process, over HTTP, or in this process."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmgine import __version__
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.process_pipes import MAX_LINE
from llmgine.llm.tools.mcp.server_process import ServerProcess

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["ServerTarget"]

_CONNECT = 30.0
"""Seconds to connect over HTTP, and to send. How long an answer may take, every call says itself."""


class ServerTarget:
    """One server, as its configuration has it."""

    def __init__(self, name: str, config: MCPServerConfig, callbacks: dict[str, Any]) -> None:
        """Prepare to reach a server.

        Args:
            name: what it is called here.
            config: how it is reached.
            callbacks: what the SDK's client is to do with what the server asks for and tells.
        """
        self.name = name
        self.described = f"server '{name}' ({_place(config)})"
        self.connect_timeout = config.connect_timeout
        self._config = config
        self._callbacks = callbacks
        self._process: ServerProcess | None = None

    def client(self, ended: Callable[[], None]) -> Client:
        """Return a client that has not been entered."""
        from mcp import Client
        from mcp_types import Implementation

        config = self._config
        target: Any = config.server
        if config.command and sys.platform == "win32":
            target = _of_the_sdk(config)
        elif config.command:
            target = self._process = ServerProcess(self.name, config, ended)
        elif config.url:
            target = _http(config)
        return Client(
            target,
            cache=None,  # lists are kept here, and what is read is to be as it is
            client_info=Implementation(name="llmgine", version=__version__),
            **self._callbacks,
        )

    def ended(self) -> str:
        """Return how the last process has ended, as far as that is known: "exit code 1"."""
        return "" if self._process is None else self._process.ended()

    def said(self) -> str:
        """Return the last lines that it has written to standard error."""
        return "" if self._process is None else self._process.said()


def _of_the_sdk(config: MCPServerConfig) -> Any:
    """Return the SDK's own transport for processes: there are no process groups, but its job objects do as well."""
    from mcp import StdioServerParameters

    return StdioServerParameters(command=config.command, args=[*config.args], env={**config.env}, cwd=config.cwd)


@asynccontextmanager
async def _http(config: MCPServerConfig) -> AsyncGenerator[Any]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(_CONNECT, read=None)
    async with (
        httpx2.AsyncClient(headers=dict(config.headers), timeout=timeout) as http,
        streamable_http_client(config.url, http_client=http, max_sse_event_size=MAX_LINE) as streams,
    ):
        yield streams


def _place(config: MCPServerConfig) -> str:
    """Return where a server is, without what may be a secret: arguments, user names and queries of addresses."""
    if config.server is not None:
        return "in this process"
    if config.command:
        return shlex.quote(config.command) + (" …" if config.args else "")
    parts = urlsplit(config.url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
