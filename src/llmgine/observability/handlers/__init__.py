"""Handlers that come with the package."""

from llmgine.observability.handlers.console_lines import ConsoleMetricsHandler, ConsoleTracesHandler
from llmgine.observability.handlers.console_sync import SyncConsoleEventHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler

__all__ = ["ConsoleMetricsHandler", "ConsoleTracesHandler", "SyncConsoleEventHandler", "SyncFileEventHandler"]
