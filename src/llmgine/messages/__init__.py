"""Messages are data: commands, their results, events. Nothing here knows a bus."""

from llmgine.messages.approvals import ApprovalCommand, ApprovalResult
from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.events import Event
from llmgine.messages.ids import SessionID, new_id
from llmgine.messages.scheduled_events import EVENT_CLASSES, ScheduledEvent, register_scheduled_event_class

__all__ = [
    "EVENT_CLASSES",
    "ApprovalCommand",
    "ApprovalResult",
    "Command",
    "CommandResult",
    "Event",
    "ScheduledEvent",
    "SessionID",
    "new_id",
    "register_scheduled_event_class",
]
