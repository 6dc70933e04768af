"""What an engine can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from llmgine.messages import Command

__all__ = ["ClearHistoryCommand", "PromptCommand", "SystemPromptCommand", "ToolChatEngineCommand"]


@dataclass
class PromptCommand(Command[str]):
    """Ask the model something. The result is the text of its reply."""

    result_is_content: ClassVar[bool] = True

    prompt: str = field(default="", metadata={"content": True})


@dataclass
class ToolChatEngineCommand(PromptCommand):
    """Ask the model something, with the tools of a `ToolChatEngine`."""


@dataclass
class SystemPromptCommand(Command[None]):
    """Tell the model something else before the conversation of this session."""

    system_prompt: str = field(default="", metadata={"content": True})


@dataclass
class ClearHistoryCommand(Command[None]):
    """Forget what was said in this session; what the model is told first stays."""
