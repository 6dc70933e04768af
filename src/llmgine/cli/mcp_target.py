"""Which MCP servers are meant on the command line: those of a file, one under a URL, or one that a command starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from llmgine.cli.stderr import notice
from llmgine.errors import ConfigurationError
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.file import read_mcp_file

__all__ = ["DEFAULT_FILES", "Target", "find_target", "servers_of"]

DEFAULT_FILES = ("mcp.json", ".mcp.json")
_FETCHING_S = 300.0
"""For commands like uvx and npx, which may have to fetch the server first, while somebody is watching."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the command line says of one server. If it says `command`, that is the server."""

    server: str | None = None
    """A name in the file, or a URL."""
    command: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    """Each as `NAME: VALUE`, for a URL."""
    file: str | None = None


def servers_of(file: str | None, *, quietly: bool = False) -> tuple[str, dict[str, MCPServerConfig]]:
    """Return the name of a file, by default of the first of `DEFAULT_FILES` that is there, and the servers in it.

    Args:
        file: its name, if it has been given.
        quietly: whether not to say which one it is.

    Raises:
        ConfigurationError: there is no such file, or it is wrong.
    """
    found = file or next((name for name in DEFAULT_FILES if Path(name).is_file()), None)
    if found is None:
        msg = (
            f"there is no {' and no '.join(DEFAULT_FILES)} here. Name a file with --file, or give a server's URL, or "
            "the command that starts one: llmgine mcp inspect -- uvx mcp-server-time"
        )
        raise ConfigurationError(msg)
    if file is None and not quietly:
        notice(f"servers of {found}")
    return found, read_mcp_file(found)


def find_target(target: Target) -> tuple[str, MCPServerConfig]:
    """Return the name of the one server that is meant, and how it is reached.

    Raises:
        ConfigurationError: there is no such server, or what is said of it is wrong.
    """
    if target.command:
        command, *arguments = target.command
        config = MCPServerConfig(command=command, args=tuple(arguments), connect_timeout=_FETCHING_S)
        return Path(command).name, config
    server = target.server or ""
    if server.startswith(("http://", "https://")):
        config = MCPServerConfig(url=server, headers=_headers(target.headers))
        return urlsplit(server).netloc.rpartition("@")[2], config
    if target.headers:
        msg = "--header is sent to a URL; the headers of a server of the file are in the file"
        raise ConfigurationError(msg)
    file, servers = servers_of(target.file)
    if server not in servers:
        near = get_close_matches(server, servers, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(servers) or 'none'}"
        what = f"there is no server {server!r} in {file}" if server else f"name a server of {file}"
        raise ConfigurationError(f"{what}; {hint}")
    return server, servers[server]


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon:
            msg = "--header: expected NAME: VALUE, such as 'Authorization: Bearer …'"
            raise ConfigurationError(msg)
        headers[name.strip()] = value.strip()
    return headers
