"""The command to process a text."""

from dataclasses import dataclass

from llmgine import Command

from services.data_processor import Summary


@dataclass
class ProcessDataCommand(Command[Summary]):
    """Process a text. The result is its `Summary`."""

    text: str
