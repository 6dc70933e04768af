"""The message bus and what plugs into it. Needs the standard library only."""

from llmgine.bus.bus import MessageBus, StopReport
from llmgine.bus.interfaces import EventFilter, HandlerMiddleware, HandlerPriority
from llmgine.bus.session import BusSession
from llmgine.bus.stream import EventStream

__all__ = [
    "BusSession",
    "EventFilter",
    "EventStream",
    "HandlerMiddleware",
    "HandlerPriority",
    "MessageBus",
    "StopReport",
]
