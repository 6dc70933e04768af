"""The faces for programs: the answer alone, or one JSON object per event."""

from __future__ import annotations

from typing import TextIO

from llmgine.llm.engine import LLMResponseEvent, PromptCancelledEvent, PromptFailedEvent
from llmgine.messages import Event
from llmgine.observability.serialize import to_line

__all__ = ["AnswerAlone", "JsonLines"]


class AnswerAlone:
    """Writes the text of the last turn, once it is known to be the last; of a reply that breaks off, what there is."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        """Write the answer, if the event brings it."""
        if isinstance(event, LLMResponseEvent | PromptFailedEvent | PromptCancelledEvent) and event.text:
            self._out.write(event.text.rstrip("\n") + "\n")
            self._out.flush()


class JsonLines:
    """Writes each event as one line, its class in `event_type`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        """Write an event."""
        self._out.write(to_line(event).decode())
        self._out.flush()
