"""The ports of the bus: what an application may plug in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any, Protocol, TypeAlias

from llmgine.messages import Command, CommandResult, Event, SessionID

__all__ = [
    "AsyncCommandHandler",
    "AsyncEventHandler",
    "CommandHandler",
    "EventFilter",
    "EventHandler",
    "HandlerMiddleware",
    "HandlerPriority",
    "Observer",
]

CommandHandler: TypeAlias = Callable[[Any], Any]
"""Takes a command; returns a `CommandResult` or a plain value, or an awaitable of either."""
EventHandler: TypeAlias = Callable[[Any], Any]
"""Takes an event; what it returns is awaited if it can be, and otherwise ignored."""
AsyncCommandHandler: TypeAlias = Callable[[Any], Awaitable[CommandResult[Any]]]
AsyncEventHandler: TypeAlias = Callable[[Any], Awaitable[None]]
Observer: TypeAlias = Callable[[Event], object]
"""Sees every event once, synchronously, before anything else happens to it. What it raises is logged."""


class HandlerPriority(IntEnum):
    """The order of an event's handlers: groups by ascending number, each finished before the next begins."""

    HIGHEST = 0
    HIGH = 10
    NORMAL = 50
    LOW = 90
    LOWEST = 100


class HandlerMiddleware:
    """A layer around handlers. Override the side you care about; the other one passes through."""

    async def process_command(
        self,
        command: Command[Any],
        handler: CommandHandler,
        next_middleware: Callable[[Command[Any], CommandHandler], Awaitable[CommandResult[Any]]],
    ) -> CommandResult[Any]:
        """Handle a command by way of `await next_middleware(command, handler)`, or answer it without."""
        return await next_middleware(command, handler)

    async def process_event(
        self, event: Event, handler: EventHandler, next_middleware: Callable[[Event, EventHandler], Awaitable[Any]]
    ) -> Any:
        """Handle an event by way of `await next_middleware(event, handler)`, once for each of its handlers."""
        return await next_middleware(event, handler)


class EventFilter(ABC):
    """Decides whether an event is delivered at all."""

    @abstractmethod
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        """Return False to turn the event away. If this raises, the error is logged and the event passes."""


class SupportsObserveEvent(Protocol):
    """Anything with an `observe_event`, such as an observability manager."""

    def observe_event(self, event: Event) -> object:
        """See an event."""
        ...
