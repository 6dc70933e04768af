"""Functions that a model may call: described to it, checked, run, and their results turned into text."""

from typing import TYPE_CHECKING

from llmgine.llm.tools.toolCall import ToolCall

if TYPE_CHECKING:
    from llmgine.llm.tools.tool_manager import ToolManager

__all__ = ["ToolCall", "ToolManager"]


def __getattr__(name: str) -> object:
    # On first use: it brings pydantic with it, which whoever only passes tool calls around need not load.
    if name == "ToolManager":
        from llmgine.llm.tools.tool_manager import ToolManager

        return ToolManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
