"""Messages are data: commands, their results, events. Nothing here knows a bus."""

from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.events import Event
from llmgine.messages.ids import SessionID, new_id

__all__ = ["Command", "CommandResult", "Event", "SessionID", "new_id"]
