"""Handlers that come with the package."""

from llmgine.observability.handlers.asynchronous import (
    ConsoleEventHandler,
    FileEventHandler,
    ObservabilityEventHandler,
)
from llmgine.observability.handlers.console import ConsoleHandler
from llmgine.observability.handlers.console_lines import ConsoleMetricsHandler, ConsoleTracesHandler
from llmgine.observability.handlers.console_sync import SyncConsoleEventHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler
from llmgine.observability.handlers.jsonl import JsonlHandler

__all__ = [
    "ConsoleEventHandler",
    "ConsoleHandler",
    "ConsoleMetricsHandler",
    "ConsoleTracesHandler",
    "FileEventHandler",
    "JsonlHandler",
    "ObservabilityEventHandler",
    "SyncConsoleEventHandler",
    "SyncFileEventHandler",
]
