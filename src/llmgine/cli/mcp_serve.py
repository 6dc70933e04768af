"""`llmgine mcp serve`: the tools of an application, as an MCP server."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from operator import attrgetter

from llmgine.cli.failure import ExitCode
from llmgine.cli.stderr import notice, say
from llmgine.cli.user_modules import load_module
from llmgine.errors import ConfigurationError
from llmgine.llm.tools.mcp.server import LLMgineMCPServer, server_of
from llmgine.llm.tools.tool_manager import ToolManager

__all__ = ["ServeOptions", "run_mcp_serve"]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What the command line asked for."""

    spec: str
    http: bool = False
    host: str | None = None
    port: int | None = None
    token_env: str | None = None

    def __post_init__(self) -> None:
        if not self.http and (self.host is not None or self.port is not None or self.token_env is not None):
            msg = "--host, --port and --token-env are for --http: add it, or leave them out"
            raise ConfigurationError(msg)


def run_mcp_serve(options: ServeOptions) -> int:
    """Serve until the client goes, or until SIGTERM or Ctrl-C; return the exit code.

    Raises:
        ConfigurationError: there are no such tools, or they must not be served there.
        ToolRegistrationError: a function cannot be a tool.
    """
    token = _token(options.token_env)
    with redirect_stdout(sys.stderr):  # what the application prints is no part of the protocol
        server = _find_server(options.spec)
    if options.http:
        host, port = options.host or "127.0.0.1", 8000 if options.port is None else options.port
        asyncio.run(server.run_http(host, port, token=token, on_listening=lambda url: say(f"serving MCP on {url}")))
        return ExitCode.OK
    if sys.stdin is not None and sys.stdin.isatty():
        notice("An MCP client is to start this and to write here. --http serves over HTTP. Ctrl-C ends it.")
    asyncio.run(server.run_stdio())
    return ExitCode.OK


def _find_server(spec: str) -> LLMgineMCPServer:
    module, name = load_module("mcp serve", spec, "tools")
    try:
        found = getattr(module, "tools", module) if name is None else attrgetter(name)(module)
    except AttributeError as error:
        offers = [key for key, value in vars(module).items() if isinstance(value, ToolManager | LLMgineMCPServer)]
        msg = f"mcp serve {spec}: there is no {name!r} in it; its tools: {', '.join(offers) or 'none'}"
        raise ConfigurationError(msg) from error
    return server_of(found)


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        msg = f"--token-env {variable}: that variable is not set, or is empty"
        raise ConfigurationError(msg)
    return token
