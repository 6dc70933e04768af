"""A model's wish to have a tool run."""  # noqa: N999  # the name is part of the published interface

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ToolCall"]


@dataclass(frozen=True)
class ToolCall:
    """One call of one tool, as the model asked for it; nothing in it has been checked."""

    id: str
    type: str = "function"
    name: str = ""
    arguments: str = "{}"
    """JSON text of an object, if the model kept to the format."""

    def to_dict(self) -> dict[str, Any]:
        """Return the form that an assistant message carries in `tool_calls`."""
        return {
            "id": self.id,
            "type": self.type,
            "function": {"name": self.name, "arguments": self.arguments},
        }
