"""Handlers whose `handle` is a coroutine: for code that awaits it, and for a manager, which adapts them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from os import PathLike

from llmgine.messages import Event
from llmgine.observability.handlers.console_sync import SyncConsoleEventHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler

__all__ = ["ConsoleEventHandler", "FileEventHandler", "ObservabilityEventHandler"]


class ObservabilityEventHandler(ABC):
    """Does something with every event, and may wait while it does."""

    @abstractmethod
    async def handle(self, event: Event) -> None:
        """Take an event."""

    async def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Give back what the handler holds."""


class ConsoleEventHandler(ObservabilityEventHandler):
    """Logs every event at INFO, in the line that `SyncConsoleEventHandler` describes."""

    def __init__(self) -> None:
        self._handler = SyncConsoleEventHandler()

    async def handle(self, event: Event) -> None:
        """Log a line about the event."""
        self._handler.handle(event)


class FileEventHandler(ObservabilityEventHandler):
    """Appends every event to a JSON Lines file, as `SyncFileEventHandler` does.

    An event is written without a pause in between, so that a task which is cancelled leaves no half line.
    """

    def __init__(self, log_dir: str | PathLike[str] = "logs", filename: str | None = None) -> None:
        """Open the file, and make the folders on its way.

        Args:
            log_dir: the folder.
            filename: the file in it; by default a new one, `events_<UTC time>.jsonl`.

        Raises:
            ConfigurationError: the file would be outside the folder.
            OSError: the file cannot be made or opened.
        """
        self._handler = SyncFileEventHandler(log_dir, filename)
        self.log_file = self._handler.log_file
        """The file's path, inside `log_dir` as that was given."""

    async def handle(self, event: Event) -> None:
        """Append the event.

        Raises:
            OSError: it could not be written.
        """
        self._handler.handle(event)

    async def close(self) -> None:
        """Close the file. Does nothing the second time."""
        self._handler.close()
