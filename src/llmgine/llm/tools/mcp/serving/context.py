"""What a tool knows of the MCP request that it runs for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from llmgine.llm.tools.tool_context import ToolContext

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

__all__ = ["MCPToolContext"]


@dataclass(slots=True)
class _Reported:
    """How far the client has been told that the call has got."""

    progress: float = -inf


@dataclass(frozen=True, slots=True)
class MCPToolContext(ToolContext):
    """The `ToolContext` of a tool that an MCP client has called. The client hears of its progress, too."""

    request: ServerRequestContext[Any, Any] | None = None
    """The request, as the SDK describes it: who asks, what it can do, and what it was sent with."""
    _reported: _Reported = field(default_factory=_Reported, repr=False, compare=False)

    async def report_progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        """Publish a `ToolProgressEvent`, and tell the client if it has asked for progress.

        The protocol allows it to be told of an increase only, and of nothing once the call has ended.

        Args:
            progress: how much is done.
            total: how much there is to do, in the same unit; None if that is not known.
            message: what is being done, for people.
        """
        await ToolContext.report_progress(self, progress, total, message)
        if self.request is not None and not self.cancelled and progress > self._reported.progress:
            self._reported.progress = progress
            await self.request.session.report_progress(progress, total, message or None)
