"""What answers commands: each handler calls a service and says what has happened."""

from handlers.process_data_handler import ProcessDataHandler

__all__ = ["ProcessDataHandler"]
