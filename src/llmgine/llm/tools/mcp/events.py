"""What is published about MCP servers."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmgine.messages import Event

__all__ = [
    "MCPServerConnectedEvent",
    "MCPServerEvent",
    "MCPServerFailedEvent",
    "MCPServerLostEvent",
    "MCPToolsChangedEvent",
]


@dataclass
class MCPServerEvent(Event):
    """Something happened to a connection."""

    server: str = ""
    """The name that it is registered under."""


@dataclass
class MCPServerConnectedEvent(MCPServerEvent):
    """A server is there, for the first time or again."""

    protocol_version: str = ""
    server_info: str = ""
    """The name and version that it gives itself; empty if it gives none."""
    restarts: int = 0
    """How often it has been started again."""


@dataclass
class MCPServerLostEvent(MCPServerEvent):
    """A server has died, or does not come up again; it is about to be started again."""

    reason: str = ""
    delay: float = 0.0
    """Seconds until it is."""


@dataclass
class MCPServerFailedEvent(MCPServerEvent):
    """A server has died too often. It is started again when one of its tools is called."""

    reason: str = ""


@dataclass
class MCPToolsChangedEvent(MCPServerEvent):
    """The tools of a server are other ones than before."""

    added: list[str] = field(default_factory=list[str])
    """Names, as models know them."""
    removed: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])
