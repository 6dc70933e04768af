"""What the application can be asked to do."""

from commands.process_data import ProcessDataCommand

__all__ = ["ProcessDataCommand"]
