"""What an engine can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from llmgine.messages import Command

__all__ = ["PromptCommand"]


@dataclass
class PromptCommand(Command[str]):
    """Ask the model something. The result is the text of its reply."""

    result_is_content: ClassVar[bool] = True

    prompt: str = field(default="", metadata={"content": True})
