"""Messages are data: commands, their results, events. Nothing here knows a bus."""

from typing import TYPE_CHECKING, Any

from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.events import Event
from llmgine.messages.ids import SessionID, new_id

if TYPE_CHECKING:
    from llmgine.messages.approvals import ApprovalCommand, ApprovalResult
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

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load what few programs need."""
        if name not in __all__:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from llmgine.messages import approvals, scheduled_events

        return getattr(approvals if name.startswith("Approval") else scheduled_events, name)
