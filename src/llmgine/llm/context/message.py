"""One message of a conversation, and what it comes to for whoever has to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import LLMMessage
from llmgine.messages import new_id

__all__ = ["IMAGE_TOKENS", "ChatMessage", "Content", "Role", "as_tool_call", "image_count", "texts"]

Content: TypeAlias = str | Sequence[dict[str, Any]]
"""A text, or parts such as `{"type": "text", "text": …}` and `{"type": "image_url", "image_url": {"url": …}}`."""

IMAGE_TOKENS = 1_600
"""What a part that is no text counts as. Anthropic's vision guide: width · height / 750, after scaling to at most 1.15
megapixels, hence up to 1,533; OpenAI's: 85 + 170 for each of up to 8 tiles, hence up to 1,445."""
_IMAGE_SIZE = 4 * IMAGE_TOKENS


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    content: Content | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    id: str = field(default_factory=new_id, compare=False)
    """Stays with it: where a conversation is stored, and where it is forked."""

    def __post_init__(self) -> None:
        if self.content is not None and not isinstance(self.content, str):
            object.__setattr__(self, "content", tuple(dict(part) for part in self.content))

    def to_dict(self) -> LLMMessage:
        """Return the OpenAI-style form. Servers refuse what they do not know: the id is not in it."""
        content = self.content
        if content is not None and not isinstance(content, str):
            content = [dict(part) for part in content]
        message: LLMMessage = {"role": self.role.value, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message

    def to_stored(self) -> LLMMessage:
        """Return the form in which it is stored: with its id."""
        return {"id": self.id, **self.to_dict()}

    @classmethod
    def from_dict(cls, message: LLMMessage) -> ChatMessage:
        """Return the message that `to_dict` or `to_stored` described. Without an id it gets a new one."""
        return cls(
            Role(message["role"]),
            message.get("content"),
            tuple(as_tool_call(call) for call in message.get("tool_calls") or ()),
            message.get("tool_call_id"),
            message.get("id") or new_id(),
        )

    @property
    def size(self) -> int:
        """Characters that a model has to read; an image counts as 6,400."""
        size = len(self.content) if isinstance(self.content, str) else 0
        if self.content and not isinstance(self.content, str):
            size = sum(map(len, texts(self.content))) + _IMAGE_SIZE * image_count(self.content)
        for call in self.tool_calls:
            size += len(call.name) + len(call.arguments)
        return size


def texts(content: Content | None) -> list[str]:
    """Return the texts of a content."""
    if content is None or isinstance(content, str):
        return [content or ""]
    return [text for part in content if isinstance(text := part.get("text"), str)]


def image_count(content: Content | None) -> int:
    """Return how many parts of a content are no text."""
    if content is None or isinstance(content, str):
        return 0
    return sum(not isinstance(part.get("text"), str) for part in content)


def as_tool_call(call: ToolCall | dict[str, Any]) -> ToolCall:
    """Return a tool call, also of its OpenAI-style form."""
    if isinstance(call, ToolCall):
        return call
    function = call.get("function", {})
    return ToolCall(call["id"], call.get("type", "function"), function.get("name", ""), function.get("arguments", "{}"))
