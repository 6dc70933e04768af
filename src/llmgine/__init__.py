"""Event-driven applications around language models: a typed message bus and an engine with one set of guarantees."""

from llmgine.bus import MessageBus
from llmgine.messages import Command, CommandResult, Event, SessionID

__all__ = ["Command", "CommandResult", "Event", "MessageBus", "SessionID", "__version__"]

__version__ = "0.1.0"
