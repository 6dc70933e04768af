"""What came of a tool call, for the application and, as a text of bounded size, for the model."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from traceback import format_exception_only
from typing import Any, Literal

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from llmgine.llm.tools.toolCall import ToolCall

__all__ = ["ToolResult", "ToolReturn", "as_data", "as_text", "bounded"]

_BYTES_MODES: tuple[Literal["utf8", "base64"], ...] = ("utf8", "base64")


@dataclass(frozen=True)
class ToolResult:
    """The outcome of one tool call."""

    call: ToolCall
    content: str
    """What the model gets to read: the value as text, or the error. Bounded in size, and always valid UTF-8."""
    succeeded: bool = False
    value: Any = None
    """What the tool returned; None if it failed."""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    """As the tool received them. Where they did not fit, as the model sent them: `{"__raw__": text}` if not in JSON."""
    duration: float = 0.0
    """Seconds that it ran, in all attempts, without the waits for its turn; 0.0 if it never started."""
    attempts: int = 0
    """How often it was started."""
    timed_out: bool = False
    """Whether the last attempt was cut off by the time limit, so that what it has done is not known."""


@dataclass(frozen=True)
class ToolReturn:
    """What a tool returns that tells the model something else than the application."""

    value: Any
    """What the application gets: `ToolResult.value`."""
    text: str
    """What the model reads."""


def as_text(value: Any) -> str:
    """Return a string as it is, anything else as JSON, and what has no JSON form as Python shows it."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value
    for bytes_mode in _BYTES_MODES:
        with suppress(PydanticSerializationError):
            return to_json(value, bytes_mode=bytes_mode, fallback=_shown).decode()
    return _shown(value)


def as_data(value: Any) -> Any:
    """Return a value as data that JSON can express, and what has no such form as Python shows it."""
    for bytes_mode in _BYTES_MODES:
        with suppress(ValueError):
            return to_jsonable_python(value, bytes_mode=bytes_mode, fallback=_shown)
    return _shown(value)


def _shown(value: Any) -> str:
    return "".join(format_exception_only(value)).strip() if isinstance(value, BaseException) else str(value)


def bounded(text: str, max_chars: int) -> str:
    """Return the beginning of a long text, with a mark that says how much was left out."""
    left_out = len(text) - max_chars
    if left_out > 0:
        text = f"{text[:max_chars]}\n[{left_out:,} of {len(text):,} characters left out]"
    # Half of a surrogate pair, as in the name of a file that is not UTF-8, could not be sent to a provider.
    return text.encode(errors="backslashreplace").decode()
