"""What passes between an engine, a provider and a tool. Conversations are lists of OpenAI-style message dicts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from llmgine.llm.tools.toolCall import ToolCall

__all__ = [
    "AsyncOrSyncToolFunction",
    "AsyncToolFunction",
    "Chunk",
    "ContextType",
    "Finish",
    "FinishReason",
    "JSONSchema",
    "LLMConversation",
    "LLMMessage",
    "LLMResponse",
    "ModelFormattedDictTool",
    "ModelNameStr",
    "Restart",
    "TextDelta",
    "ToolCallDelta",
    "ToolChoiceOrDictType",
    "ToolChoiceType",
    "ToolFunction",
    "Usage",
]

ToolFunction: TypeAlias = Callable[..., Any]
AsyncToolFunction: TypeAlias = Callable[..., Awaitable[Any]]
AsyncOrSyncToolFunction: TypeAlias = ToolFunction | AsyncToolFunction
ModelNameStr: TypeAlias = str
LLMMessage: TypeAlias = dict[str, Any]
"""`{"role": "system" | "user" | "assistant" | "tool", "content": …}`; an assistant's may have `tool_calls`
(`[{"id", "type": "function", "function": {"name", "arguments"}}]`), a tool's has the `tool_call_id` it answers."""
LLMConversation: TypeAlias = list[LLMMessage]
ContextType: TypeAlias = LLMConversation
ModelFormattedDictTool: TypeAlias = dict[str, Any]
"""`{"type": "function", "function": {"name", "description", "parameters": <JSON schema>}}`"""
ToolChoiceType: TypeAlias = Literal["auto", "none", "required"]
ToolChoiceOrDictType: TypeAlias = ToolChoiceType | dict[str, Any]


class FinishReason(StrEnum):
    """Why a model stopped writing."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, or of several added up."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input tokens, those that the provider had read before."""
    reasoning_tokens: int = 0
    """Of the output tokens, those that were thought and not said."""

    @property
    def total_tokens(self) -> int:
        """Tokens read and written."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the reply's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. Pieces of one call share their `index`; their strings are joined in order."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The last chunk of a reply. A stream that ends without one has broken off."""

    reason: FinishReason
    usage: Usage | None = None
    """None where the provider does not count."""
    model: str = ""
    """The model that answered, where the provider says so; it may differ from the one asked for."""
    provider: str = ""
    """The provider that answered, where it is not the one that was asked but one of those behind it."""


@dataclass(frozen=True, slots=True)
class Restart:
    """What has come so far is void: the reply begins anew. Only a fallback that was allowed to do so sends it."""

    reason: str
    """Why, in a sentence for people."""


Chunk: TypeAlias = TextDelta | ToolCallDelta | Restart | Finish


@dataclass(frozen=True, slots=True)
class JSONSchema:
    """The form that a reply's text must have: JSON that fits a schema."""

    name: str
    """1 to 64 letters, digits, `_` and `-`."""
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LLMResponse:
    """A whole reply: what a stream of chunks folds to."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage | None
    model: str
