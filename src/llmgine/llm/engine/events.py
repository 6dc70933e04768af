"""What an engine publishes while it answers a prompt.

In each turn, in order: `EngineStatusEvent`, `TextChunkEvent`s, `ModelCallEndedEvent`, `ToolCallEvent`s,
`EngineStatusEvent`, and the `ToolExecuteResultEvent`s in the order of the calls. At the end, exactly one of
`LLMResponseEvent`, `PromptCancelledEvent`, `PromptFailedEvent`.

Fields marked `content` hold what people and models say. Logs and traces tell how long it is, and what it says only when
they are asked to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmgine.llm.types import FinishReason, Usage
from llmgine.messages import Event

__all__ = [
    "EngineEvent",
    "EngineStatusEvent",
    "LLMResponseEvent",
    "ModelCallEndedEvent",
    "PartialOutputEvent",
    "PromptCancelledEvent",
    "PromptFailedEvent",
    "ReplyRestartedEvent",
    "TextChunkEvent",
    "ToolChatEngineStatusEvent",
]


@dataclass
class EngineEvent(Event):
    """Something happened in an engine."""

    engine_id: str = ""


@dataclass
class EngineStatusEvent(EngineEvent):
    """The engine has begun something else: `"calling model"`, `"running tools"`."""

    status: str = ""


@dataclass
class ToolChatEngineStatusEvent(EngineStatusEvent):
    """The same of a `ToolChatEngine`; its first is `"processing"`, its last `"finished"`."""


@dataclass
class TextChunkEvent(EngineEvent):
    """A piece of the reply's text has arrived."""

    text: str = field(default="", metadata={"content": True})


@dataclass
class PartialOutputEvent(EngineEvent):
    """More of an answer that must have a form has arrived. Nothing is checked yet."""

    output: Any = field(default=None, metadata={"content": True})
    """As much as there is, as JSON data; None if that is nothing yet."""


@dataclass
class ReplyRestartedEvent(EngineEvent):
    """What has come of the reply so far is void: another provider begins it anew."""

    reason: str = ""


@dataclass
class ModelCallEndedEvent(EngineEvent):
    """One request to the model has ended. Once for each, whether it was answered, has failed or was cancelled."""

    turn: int = 1
    """Which request of the prompt it was, from 1."""
    provider: str = ""
    model: str = ""
    """The one that answered, or, where it did not say, the one that was asked."""
    finish_reason: FinishReason | None = None
    """None if it did not finish."""
    usage: Usage = field(default_factory=Usage)
    """Of this request alone; zeros where the provider does not count, or did not come to it."""
    duration: float = 0.0
    """Seconds from the request to its end."""
    time_to_first_token: float | None = None
    """Seconds from the request to the first text or tool call."""
    error: str = ""
    """`"RateLimitedError: text"`; "" if it did not fail."""


@dataclass
class LLMResponseEvent(EngineEvent):
    """The reply is complete."""

    text: str = field(default="", metadata={"content": True})
    """The text of the last turn."""
    finish_reason: FinishReason = FinishReason.STOP
    usage: Usage = field(default_factory=Usage)
    """Of all turns together; zeros where the provider does not count."""
    provider: str = ""
    model: str = ""
    turns: int = 1
    """How often the model was asked."""
    duration: float = 0.0
    """Seconds from the prompt to the end of the reply."""
    time_to_first_token: float | None = None
    """Seconds from the prompt to the first text or tool call."""
    tokens_per_second: float | None = None
    """While the model wrote; None if it wrote too little at a time to tell, or its tokens are not counted."""


@dataclass
class PromptCancelledEvent(EngineEvent):
    """The prompt was cancelled. What tools had done by then, and the text, stay in the history."""

    text: str = field(default="", metadata={"content": True})
    """As much of the last turn's text as had arrived."""


@dataclass
class PromptFailedEvent(EngineEvent):
    """The prompt could not be answered."""

    error: str = ""
    """`"RateLimitedError: text"`"""
    text: str = field(default="", metadata={"content": True})
    """As much of the last turn's text as had arrived."""
