"""The ports of the bus: what an application may plug in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.ids import BUS

if TYPE_CHECKING:
    from llmgine.bus.bus import StopReport
    from llmgine.bus.registry import EventHandlerEntry
    from llmgine.bus.session import BusSession

__all__ = [
    "AsyncCommandHandler",
    "AsyncEventHandler",
    "CommandHandler",
    "EventFilter",
    "EventHandler",
    "HandlerMiddleware",
    "HandlerPriority",
    "IEventQueue",
    "IHandlerRegistry",
    "IMessageBus",
    "Observer",
]

R = TypeVar("R")

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


# For annotations in applications. `HandlerRegistry` and `MessageBus` fit without deriving from these.


class _Registers(Protocol):
    """What registry and bus have in common."""

    def register_command_handler(
        self, command_type: type[Command[Any]], handler: CommandHandler, session_id: SessionID = BUS
    ) -> None:
        """Make `handler` answer commands of a type."""
        ...

    def register_event_handler(
        self,
        event_type: type[Event] | str,
        handler: EventHandler,
        session_id: SessionID = BUS,
        priority: int = HandlerPriority.NORMAL,
    ) -> None:
        """Make `handler` hear events of a type or a dotted name."""
        ...


class IHandlerRegistry(_Registers, Protocol):
    """Who handles what, in which scope: what `HandlerRegistry` offers."""

    def get_command_handler(self, command_type: type, session_id: SessionID = BUS) -> CommandHandler | None:
        """Return the handler of a command: the session's, or else the bus's, or else None."""
        ...

    def get_event_handlers(self, event_type: type[Event], session_id: SessionID = BUS) -> list[EventHandler]:
        """Return an event's handlers in the order of their priorities."""
        ...

    def get_event_handler_entries(
        self, event_type: type[Event], session_id: SessionID = BUS
    ) -> list[EventHandlerEntry]:
        """Return an event's handlers with their priorities, sorted."""
        ...

    def unregister_session(self, session_id: SessionID) -> None:
        """Forget the handlers of a session. The bus's own stay."""
        ...

    def get_all_sessions(self) -> set[SessionID]:
        """Return every scope that has handlers, and the bus's."""
        ...

    def get_handler_stats(self) -> dict[str, int]:
        """Count sessions and handlers."""
        ...


class IEventQueue(Protocol):
    """A queue of events that may be bounded."""

    async def put(self, item: Event) -> bool:
        """Add an event at the end, without waiting. Return whether it was accepted."""
        ...

    async def get(self) -> Event:
        """Take the first event; wait for one if the queue is empty."""
        ...

    def get_nowait(self) -> Event:
        """Take the first event.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        ...

    def qsize(self) -> int:
        """Return how many events wait."""
        ...

    def empty(self) -> bool:
        """Return whether no event waits."""
        ...

    def full(self) -> bool:
        """Return whether no more events fit."""
        ...

    def task_done(self) -> None:
        """Say that an event that was taken has been dealt with."""
        ...

    async def join(self) -> None:
        """Wait until every event that was added has been dealt with."""
        ...


class IMessageBus(_Registers, Protocol):
    """What `MessageBus` offers to those who send, and to those who set it up."""

    async def start(self) -> None:
        """Begin to deliver."""
        ...

    async def stop(self) -> StopReport:
        """Deliver what was accepted, and end."""
        ...

    async def reset(self) -> None:
        """Stop, and forget handlers, middleware, filters, buffered events and errors."""
        ...

    async def execute(self, command: Command[R]) -> CommandResult[R]:
        """Run a command's handler and return what came of it."""
        ...

    async def publish(self, event: Event, await_processing: bool = True) -> None:  # noqa: FBT001, FBT002  # published
        """Deliver an event to its handlers."""
        ...

    async def wait_for_events(self) -> None:
        """Wait until no event is queued or being handled."""
        ...

    def unregister_session_handlers(self, session_id: SessionID) -> None:
        """Forget the handlers of a session."""
        ...

    def add_command_middleware(self, middleware: HandlerMiddleware) -> None:
        """Wrap every command handler in another layer."""
        ...

    def add_event_middleware(self, middleware: HandlerMiddleware) -> None:
        """Wrap every event handler in another layer."""
        ...

    def add_event_filter(self, event_filter: EventFilter) -> None:
        """Ask `event_filter` about every event."""
        ...

    def set_observability_manager(self, observability: SupportsObserveEvent) -> None:
        """Show every event to `observability`."""
        ...

    def create_session(self, session_id: str | None = None) -> BusSession:
        """Return a session that has not begun."""
        ...

    def session(self, session_id: str | None = None) -> BusSession:
        """Return a session for `async with`."""
        ...

    def set_batch_processing(self, batch_size: int, batch_timeout: float) -> None:
        """Set how many queued events of a session are delivered before other tasks get their turn."""
        ...

    def suppress_event_errors(self) -> None:
        """Keep the failures of event handlers from their publishers."""
        ...

    def unsuppress_event_errors(self) -> None:
        """Raise the failures of event handlers to their waiting publishers."""
        ...

    def set_error_history_limit(self, limit: int) -> None:
        """Keep at most `limit` failures in `event_handler_errors`."""
        ...

    @property
    def event_handler_errors(self) -> list[BaseException]:
        """The latest failures of event handlers, oldest first."""
        ...

    async def get_stats(self) -> dict[str, Any]:
        """Return how the bus is doing."""
        ...

    async def get_metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return counters, histograms and gauges by name."""
        ...
