"""How far a tool has got, in a few words."""

from __future__ import annotations

from llmgine.cli.stderr import printable
from llmgine.llm.tools.tool_events import ToolProgressEvent

__all__ = ["progress_of"]


def progress_of(event: ToolProgressEvent) -> str:
    """Return what a report of progress says, safe to print: `count: 2 of 3, second shelf`."""
    total = "" if event.total is None else f" of {event.total:g}"
    message = f", {event.message}" if event.message else ""
    return printable(f"{event.tool_name}: {event.progress:g}{total}{message}")
