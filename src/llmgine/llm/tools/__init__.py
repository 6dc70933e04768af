"""Functions that a model may call: described to it, checked, run, and their results turned into text."""

from importlib import import_module
from typing import TYPE_CHECKING

from llmgine.llm.tools.toolCall import ToolCall

if TYPE_CHECKING:
    from llmgine.llm.tools.effects import Effect
    from llmgine.llm.tools.injection import Inject
    from llmgine.llm.tools.tool_context import ToolContext
    from llmgine.llm.tools.tool_manager import ToolManager

__all__ = ["Effect", "Inject", "ToolCall", "ToolContext", "ToolManager"]

_MODULES = {"Effect": "effects", "Inject": "injection", "ToolContext": "tool_context", "ToolManager": "tool_manager"}


def __getattr__(name: str) -> object:
    # On first use: they bring pydantic with them, which whoever only passes tool calls around need not load.
    if name in _MODULES:
        found: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
