"""The message bus and what plugs into it. Needs the standard library only."""

from typing import TYPE_CHECKING, Any

from llmgine.bus.bus import MessageBus, StopReport
from llmgine.bus.interfaces import EventFilter, HandlerMiddleware, HandlerPriority
from llmgine.bus.session import BusSession
from llmgine.bus.stream import EventStream

if TYPE_CHECKING:
    from llmgine.bus.backpressure import BackpressureStrategy, BoundedEventQueue
    from llmgine.bus.resilience import ResilientMessageBus

__all__ = [
    "BackpressureStrategy",
    "BoundedEventQueue",
    "BusSession",
    "EventFilter",
    "EventStream",
    "HandlerMiddleware",
    "HandlerPriority",
    "MessageBus",
    "ResilientMessageBus",
    "StopReport",
]

if not TYPE_CHECKING:
    # What a bus without policies and bounds does not need.
    _LATER = {
        "BackpressureStrategy": "llmgine.bus.backpressure",
        "BoundedEventQueue": "llmgine.bus.backpressure",
        "ResilientMessageBus": "llmgine.bus.resilience",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from importlib import import_module

        return getattr(import_module(_LATER[name]), name)
