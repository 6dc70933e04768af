"""What is published about a conversation that has become too long."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmgine.llm.types import Usage
from llmgine.messages import Event

__all__ = ["ContextCompactedEvent"]


@dataclass
class ContextCompactedEvent(Event):
    """The model reads some messages no longer, which it read until now. The history still has them."""

    engine_id: str = ""
    strategy: str = ""
    """`"drop_oldest"`, `"drop_middle"` or `"summarise"`."""
    message_ids: list[str] = field(default_factory=list[str])
    """Of the messages that were left out or summarised, oldest first; not those of earlier events."""
    messages_before: int = 0
    """How many messages the model would have read, with the system prompt."""
    messages_after: int = 0
    tokens_before: int = 0
    """Of messages and tools, as the window counts them."""
    tokens_after: int = 0
    summary: str = field(default="", metadata={"content": True})
    """What the model reads in their place; "" if nothing."""
    usage: Usage = field(default_factory=Usage)
    """What the summary has cost."""
    error: str = ""
    """Why there is no summary though there should be one: `"ProviderUnavailableError: text"`."""
