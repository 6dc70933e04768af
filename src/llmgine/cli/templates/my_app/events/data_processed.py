"""The event that a text was processed."""

from dataclasses import dataclass

from llmgine import Event


@dataclass
class DataProcessedEvent(Event):
    """A text has been processed."""

    words: int
    """How many it had."""
