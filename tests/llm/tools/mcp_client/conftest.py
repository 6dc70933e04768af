"""A manager whose servers are ended, and a server that misbehaves."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from raw_mcp import Connect, config

from llmgine.llm.tools import ToolManager


@pytest.fixture
async def manager() -> AsyncIterator[ToolManager]:
    manager = ToolManager(max_concurrency=100, sleep=_at_once)
    yield manager
    await manager.cleanup_mcp_servers()


@pytest.fixture
def raw(manager: ToolManager) -> Connect:
    """Connects the manager to the server that misbehaves, under the name "raw"."""

    async def connect(*arguments: str, **options: Any) -> ToolManager:
        await manager.mcp.connect("raw", config(*arguments, **options))
        return manager

    return connect


async def _at_once(seconds: float) -> None:
    """Do not wait before a server is started again."""
