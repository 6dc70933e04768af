"""Ready-made handlers by function, for code that need not know their classes."""

from __future__ import annotations

from os import PathLike

from llmgine.observability.handlers.console_sync import SyncConsoleEventHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler

__all__ = ["create_sync_console_handler", "create_sync_file_handler"]


def create_sync_console_handler() -> SyncConsoleEventHandler:
    """Return a handler that logs a line about every event."""
    return SyncConsoleEventHandler()


def create_sync_file_handler(
    log_dir: str | PathLike[str] = "logs", filename: str | None = None
) -> SyncFileEventHandler:
    """Return a handler that writes every event to a file in `log_dir`; see `SyncFileEventHandler`."""
    return SyncFileEventHandler(log_dir, filename)
