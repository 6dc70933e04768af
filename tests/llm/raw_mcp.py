"""A server that misbehaves, and how tests connect to it."""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.tools.mcp import MCPServerConfig
from llmgine.llm.tools.result import ToolResult

Connect = Callable[..., Awaitable[ToolManager]]

_RAW = str(Path(__file__).parent / "tools" / "mcp_client" / "servers" / "raw.py")


def config(*arguments: str, **options: Any) -> MCPServerConfig:
    return MCPServerConfig(command=sys.executable, args=("-S", _RAW, *arguments), **options)


async def run(manager: ToolManager, tool: str, **arguments: Any) -> ToolResult:
    return await manager.run(ToolCall(id="1", name=tool, arguments=json.dumps(arguments)))
