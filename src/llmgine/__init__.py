"""Event-driven applications around language models: a typed message bus and an engine with one set of guarantees."""

from typing import TYPE_CHECKING, Any

from llmgine.bus import MessageBus
from llmgine.messages import Command, CommandResult, Event, SessionID

if TYPE_CHECKING:
    from llmgine.bus import ResilientMessageBus

__all__ = ["Command", "CommandResult", "Event", "MessageBus", "ResilientMessageBus", "SessionID", "__version__"]

__version__ = "0.1.0"

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name != "ResilientMessageBus":
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from llmgine.bus import ResilientMessageBus  # what a plain bus does not need

        return ResilientMessageBus
