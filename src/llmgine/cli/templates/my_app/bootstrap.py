"""What the application is made of: the only place that knows all of its parts."""

from llmgine.bootstrap import ApplicationBootstrap
from llmgine.observability import LogLevel

from commands import ProcessDataCommand
from config import Settings
from events import DataProcessedEvent
from handlers import ProcessDataHandler
from services.data_processor import DataProcessor


class Application(ApplicationBootstrap[Settings]):
    """Starts with the handlers below, and takes them back when it is shut down."""

    def _register_command_handlers(self) -> None:
        processor = DataProcessor(max_words=self.config.max_words)
        self.register_command_handler(ProcessDataCommand, ProcessDataHandler(self.message_bus, processor))

    def _register_event_handlers(self) -> None:
        self.register_event_handler(DataProcessedEvent, self._on_data_processed)

    def _on_data_processed(self, event: DataProcessedEvent) -> None:
        self.observability.log(LogLevel.INFO, "A text was processed", words=event.words)
