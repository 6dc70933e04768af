"""MCP, the Model Context Protocol: the tools of servers, and tools for clients. It needs the extra `mcp`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmgine.llm.tools.mcp.command_tool import expose
    from llmgine.llm.tools.mcp.config import MCPServerConfig
    from llmgine.llm.tools.mcp.file import read_mcp_file
    from llmgine.llm.tools.mcp.server import LLMgineMCPServer, create_llmgine_mcp_server
    from llmgine.llm.tools.mcp.servers import MCPServers, MCPServerStatus
    from llmgine.llm.tools.mcp.serving.context import MCPToolContext

__all__ = [
    "LLMgineMCPServer",
    "MCPServerConfig",
    "MCPServerStatus",
    "MCPServers",
    "MCPToolContext",
    "create_llmgine_mcp_server",
    "expose",
    "read_mcp_file",
]

_MODULES = {
    "LLMgineMCPServer": "server",
    "MCPServerConfig": "config",
    "MCPServerStatus": "servers",
    "MCPServers": "servers",
    "MCPToolContext": "serving.context",
    "create_llmgine_mcp_server": "server",
    "expose": "command_tool",
    "read_mcp_file": "file",
}


def __getattr__(name: str) -> object:
    # On first use: whoever has no servers need not load what connects to them.
    if name in _MODULES:
        found: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
