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
from llmgine.llm.tools.mcp.http_refusals import HttpRefusals
from llmgine.llm.tools.mcp.life import told
from llmgine.llm.tools.mcp.process_pipes import MAX_LINE
from llmgine.llm.tools.mcp.server_environment import server_environment
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
        self._refusals = HttpRefusals()

    def client(self, ended: Callable[[], None]) -> Client:
        """Return a client that has not been entered."""
        from mcp import Client
        from mcp_types import Implementation

        config = self._config
        target: Any = config.server
        if config.command and sys.platform == "win32":
            target = _of_the_sdk(self.name, config)
        elif config.command:
            target = self._process = ServerProcess(self.name, config, ended)
        elif config.url:
            target = _http(config, self._refusals)
        return Client(
            target,
            cache=None,  # lists are kept here, and what is read is to be as it is
            client_info=Implementation(name="llmgine", version=__version__),
            **self._callbacks,
        )

    def not_reached(self, exc: Exception) -> str:
        """Return what is wrong if there is no connection, as the rest of a sentence that begins with the server."""
        if ended := self.ended():
            return f"has ended {ended} before it answered"
        said = told(exc).partition("\n")[0]
        if (status := self.explained(said)) != said:
            return f"refuses: {status}"
        what = "started" if self._process is not None and isinstance(exc, OSError) else "reached"
        return f"cannot be {what}: {said}{self._broken_rule()}"

    def lost(self, problem: str) -> str:
        """Return what has happened if the connection has ended, in the same way.

        Args:
            problem: what is known of it; empty if it has just ended.
        """
        ended = self.ended()
        if problem:
            how = f" (it has ended {ended})" if ended else self._broken_rule()
            return f"has been lost: {self.explained(problem)}{how}"
        return f"has ended{f' {ended}' if ended else ''}{self._broken_rule()}"

    def explained(self, text: str) -> str:
        """Return what the SDK says of a failure, with the HTTP status if it means one."""
        return self._refusals.explained(text)

    def ended(self) -> str:
        """Return how the last process has ended, as far as that is known: "with exit code 1"."""
        return "" if self._process is None else self._process.ended()

    def _broken_rule(self) -> str:
        problem = "" if self._process is None else self._process.problem()
        return f" ({problem})" if problem else ""

    def said(self) -> str:
        """Return the last lines that it has written to standard error."""
        return "" if self._process is None else self._process.said()


def _of_the_sdk(name: str, config: MCPServerConfig) -> Any:
    """Return the SDK's own transport for processes: there are no process groups, but its job objects do as well."""
    from mcp import StdioServerParameters

    environment = server_environment(name, config)
    return StdioServerParameters(command=config.command, args=[*config.args], env=environment, cwd=config.cwd)


@asynccontextmanager
async def _http(config: MCPServerConfig, refusals: HttpRefusals) -> AsyncGenerator[Any]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(_CONNECT, read=None)
    async with (
        httpx2.AsyncClient(
            headers=dict(config.headers), timeout=timeout, event_hooks={"response": [refusals.note]}
        ) as http,
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
