"""What an engine can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Generic

from typing_extensions import TypeVar

from llmgine.llm.context.message import Content
from llmgine.messages import Command

R = TypeVar("R", default=str)

__all__ = ["ClearHistoryCommand", "PromptCommand", "ResumeCommand", "SystemPromptCommand", "ToolChatEngineCommand"]


@dataclass
class PromptCommand(Command[R], Generic[R]):
    """Ask the model something. The result is the text of its reply, or a value of `output_type`."""

    result_is_content: ClassVar[bool] = True

    prompt: Content = field(default="", metadata={"content": True})
    """A text, or a list of parts with images in it: `[{"type": "text", "text": …}, image_part(path)]`."""
    output_type: type[R] | None = None
    """What the result must be, in place of a text: a pydantic model, or a type like it."""


@dataclass
class ToolChatEngineCommand(PromptCommand[R], Generic[R]):
    """Ask the model something, with the tools of a `ToolChatEngine`."""


@dataclass
class ResumeCommand(Command[R | None], Generic[R]):
    """Go on with the prompt of this session that a process was answering when it ended. The result is the answer.

    It is None if there is no such prompt.
    """

    result_is_content: ClassVar[bool] = True

    output_type: type[R] | None = None
    """As with the prompt."""


@dataclass
class SystemPromptCommand(Command[None]):
    """Tell the model something else before the conversation of this session."""

    system_prompt: str = field(default="", metadata={"content": True})


@dataclass
class ClearHistoryCommand(Command[None]):
    """Forget what was said in this session; what the model is told first stays."""
