"""The engine for language models: providers, tools, context, and the loop that joins them on the bus."""

from llmgine.llm.types import (
    AsyncOrSyncToolFunction,
    AsyncToolFunction,
    ContextType,
    LLMConversation,
    ModelFormattedDictTool,
    ModelNameStr,
    ToolChoiceOrDictType,
    ToolChoiceType,
    ToolFunction,
)
from llmgine.messages import SessionID

__all__ = [
    "AsyncOrSyncToolFunction",
    "AsyncToolFunction",
    "ContextType",
    "LLMConversation",
    "ModelFormattedDictTool",
    "ModelNameStr",
    "SessionID",
    "ToolChoiceOrDictType",
    "ToolChoiceType",
    "ToolFunction",
]
