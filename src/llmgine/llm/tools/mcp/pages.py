"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from llmgine.errors import MCPError

__all__ = ["all_pages"]

_MOST = 1000


async def all_pages(server: str, page: Callable[..., Awaitable[Any]], items: str) -> list[Any]:
    """Return what is on all pages.

    Args:
        server: the name of the server.
        page: gets the page at a `cursor`, which is None for the first.
        items: what they have on them.

    Raises:
        MCPError: there is no end to them.
    """
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_MOST):
        result = await page(cursor=cursor)
        found += getattr(result, items)
        cursor = result.next_cursor
        if cursor is None:
            return found
    msg = f"MCP server '{server}' has no end to its {items}: {len(found)} on {_MOST} pages."
    raise MCPError(msg, server=server)
