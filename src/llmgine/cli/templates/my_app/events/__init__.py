"""What can happen in the application."""

from events.data_processed import DataProcessedEvent

__all__ = ["DataProcessedEvent"]
