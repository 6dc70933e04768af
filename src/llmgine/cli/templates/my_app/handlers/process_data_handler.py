"""The handler of `ProcessDataCommand`."""

from llmgine import MessageBus

from commands import ProcessDataCommand
from events import DataProcessedEvent
from services.data_processor import DataProcessor, Summary


class ProcessDataHandler:
    """Has a text processed. What it raises becomes the command's failed result."""

    def __init__(self, bus: MessageBus, processor: DataProcessor) -> None:
        """Take the bus to publish on, and the service that does the work."""
        self._bus = bus
        self._processor = processor

    async def __call__(self, command: ProcessDataCommand) -> Summary:
        """Return the summary, and publish that there is one."""
        summary = self._processor.summarise(command.text)
        await self._bus.publish(DataProcessedEvent(words=summary.words, session_id=command.session_id))
        return summary
