"""Who handles what, in which scope. No look-up, registration or end of a session depends on how many sessions are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from math import inf
from threading import Lock
from typing import Any, TypeAlias

from llmgine.bus.event_names import check_pattern, hears
from llmgine.bus.handler_check import check_handler, check_message, check_message_type
from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerPriority
from llmgine.bus.options import check_number
from llmgine.bus.tracing import TraceEvent
from llmgine.errors import HandlerAlreadyRegisteredError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandErrorEvent, CommandResultEvent, CommandStartedEvent
from llmgine.messages.ids import BUS

__all__ = ["EventHandlerEntry", "EventKey", "EventPlan", "HandlerRegistry"]

EventKey: TypeAlias = type[Event] | str
"""What a handler is registered for: a class, or a dotted name with wildcards."""
EventPlan: TypeAlias = tuple[tuple[tuple[EventHandler, EventHandler], ...], ...]
"""An event's handlers in groups of one priority; each as it was registered, and as it is called in its middleware."""


@dataclass(order=True)
class EventHandlerEntry:
    """One registered event handler; entries sort by priority."""

    priority: int
    handler: EventHandler = field(compare=False)


_NOTHING: dict[type, Any] = {}
"""What has been worked out for a scope that was never asked. Never written to."""


class Scope:
    """The handlers of one session, or of the bus, with what has been worked out from them."""

    __slots__ = ("command_chains", "commands", "event_plans", "events", "version")

    def __init__(self) -> None:
        self.commands: dict[type, CommandHandler] = {}
        self.events: dict[EventKey, list[EventHandlerEntry]] = {}
        self.command_chains: dict[type, CommandHandler | None] = _NOTHING
        self.event_plans: dict[type, EventPlan] = _NOTHING
        self.version = -1

    def forget(self, version: int) -> None:
        self.command_chains = {}
        self.event_plans = {}
        self.version = version  # last, for a reader in another thread


def _unchanged(handler: Callable[[Any], Any], _: type | None = None) -> Callable[[Any], Any]:
    return handler


class HandlerRegistry:
    """Holds the handlers of a bus. Handlers may be registered and unregistered from any thread."""

    def __init__(self) -> None:
        self._wrap_command: Callable[[CommandHandler, type], CommandHandler] = _unchanged
        self._wrap_event: Callable[[EventHandler], EventHandler] = _unchanged
        # What execution and lanes read themselves, because the call of a method costs as much as the look-up.
        self.bus_scope = Scope()
        self.scopes: dict[SessionID, Scope] = {BUS: self.bus_scope}
        self.version = 0
        """What a scope's chains and plans must have been worked out for, if they are to be used."""
        self.known_events: set[type] = set()
        """Event classes that have been checked; not those whose events wait for their time."""
        self._known_commands: set[type] = set()
        self.listeners = 0
        """How many handlers hear that commands start or end, or their spans; without any, nothing need be announced."""
        self.trace_handlers = 0
        """How many handlers are registered for spans."""
        self.count = 0
        """How many handlers there are."""
        self.after_fork()

    def wrap_with(
        self,
        wrap_command: Callable[[CommandHandler, type], CommandHandler],
        wrap_event: Callable[[EventHandler], EventHandler],
    ) -> None:
        """Take what puts each handler into its middleware; that of a command's, with the command's class."""
        self._wrap_command, self._wrap_event = wrap_command, wrap_event
        self.recompose()

    def after_fork(self) -> None:
        """Forget the threads of the parent process."""
        self._lock = Lock()

    def register_command_handler(
        self, command_type: type[Command[Any]], handler: CommandHandler, session_id: SessionID = BUS
    ) -> None:
        """Make `handler` answer commands of a type, and of its subclasses that have no handler of their own.

        Raises:
            ConfigurationError: the type is no command class, or the handler cannot be called with its commands.
            HandlerAlreadyRegisteredError: the type has a handler in this scope.
        """
        self._check_type(command_type, Command, self._known_commands)
        check_handler(handler, command_type)
        with self._lock:
            scope = self._scope(session_id)
            if command_type in scope.commands:
                name = command_type.__name__
                msg = f"{name} is already registered in scope {session_id}; a command has exactly one handler."
                raise HandlerAlreadyRegisteredError(msg)
            scope.commands[command_type] = handler
            self.count += 1
            self._changed(scope)

    def register_event_handler(
        self,
        event_type: EventKey,
        handler: EventHandler,
        session_id: SessionID = BUS,
        priority: int = HandlerPriority.NORMAL,
    ) -> None:
        """Make `handler` hear events of a type and of its subclasses, or of the classes that a dotted name stands for.

        Raises:
            ConfigurationError: the type is no event class, the name is none, the handler cannot be called with them, or
                the priority is no number.
        """
        if isinstance(event_type, str):
            check_pattern(event_type)
            check_handler(handler, Event, named=True)
        else:
            self._check_type(event_type, Event, self.known_events)
            check_handler(handler, event_type)
        if type(priority) is not HandlerPriority:
            check_number("priority", priority, int, "a whole number, such as HandlerPriority.HIGH", least=-inf)
        with self._lock:
            scope = self._scope(session_id)
            scope.events.setdefault(event_type, []).append(EventHandlerEntry(priority, handler))
            self._count(event_type, 1)
            self._changed(scope)

    def unregister_command_handler(
        self, command_type: type[Command[Any]], handler: CommandHandler, session_id: SessionID = BUS
    ) -> bool:
        """Undo the registration of `handler`. Return False if there is none."""
        with self._lock:
            scope = self.scopes.get(session_id)
            if scope is None or scope.commands.get(command_type) != handler:
                return False
            del scope.commands[command_type]
            self.count -= 1
            self._changed(scope)
            return True

    def unregister_event_handler(
        self, event_type: EventKey, handler: EventHandler, session_id: SessionID = BUS
    ) -> bool:
        """Undo one registration of `handler`, the first. Return False if there is none."""
        with self._lock:
            scope = self.scopes.get(session_id)
            entries = scope.events.get(event_type, []) if scope is not None else []
            index = next((i for i, entry in enumerate(entries) if entry.handler == handler), None)
            if scope is None or index is None:
                return False
            # Replaced, not changed: another thread may be reading the list.
            left = entries[:index] + entries[index + 1 :]
            if left:
                scope.events[event_type] = left
            else:
                del scope.events[event_type]
            self._count(event_type, -1)
            self._changed(scope)
            return True

    def unregister_session(self, session_id: SessionID) -> None:
        """Forget the handlers of a session. The bus's own stay."""
        if session_id != BUS and session_id in self.scopes:
            with self._lock:
                scope = self.scopes.pop(session_id, Scope())
                self.count -= len(scope.commands)
                for event_type, entries in scope.events.items():
                    self._count(event_type, -len(entries))

    def check_event(self, event: Any) -> None:
        """Refuse what is no event, or one of a broken class; remember a class that is right.

        Raises:
            ConfigurationError: what is wrong with it.
        """
        check_message(event, Event)
        self._remember(type(event), self.known_events)

    def recompose(self) -> None:
        """Wrap handlers anew from now on, because the middleware has changed."""
        self.version += 1

    def command_chain(self, command_type: type, session_id: SessionID) -> CommandHandler | None:
        """Return the wrapped handler of a command: the session's before the bus's, the nearest class first."""
        scope = self.scopes.get(session_id, self.bus_scope)
        if scope.version != self.version:
            scope.forget(self.version)
        chains = scope.command_chains  # another thread may replace it meanwhile, and then what is found here is old
        try:
            return chains[command_type]
        except KeyError:
            handler = self.get_command_handler(command_type, session_id)
            chain = chains[command_type] = None if handler is None else self._wrap_command(handler, command_type)
            return chain

    def event_plan(self, event_type: type[Event], session_id: SessionID) -> EventPlan:
        """Return the wrapped handlers of an event, in groups by ascending priority."""
        scope = self.scopes.get(session_id, self.bus_scope)
        if scope.version != self.version:
            scope.forget(self.version)
        plans = scope.event_plans
        try:
            return plans[event_type]
        except KeyError:
            entries = self.get_event_handler_entries(event_type, session_id)
            plan = plans[event_type] = tuple(
                tuple((entry.handler, self._wrap_event(entry.handler)) for entry in group)
                for _, group in groupby(entries, key=lambda entry: entry.priority)
            )
            return plan

    def get_command_handler(self, command_type: type, session_id: SessionID = BUS) -> CommandHandler | None:
        """Return the handler of a command as it was registered, or None."""
        for scope in self._visible(session_id):
            for base in command_type.__mro__:
                if base in scope.commands:
                    return scope.commands[base]
        return None

    def get_event_handlers(self, event_type: type[Event], session_id: SessionID = BUS) -> list[EventHandler]:
        """Return an event's handlers as they were registered, in the order of their priorities."""
        return [entry.handler for entry in self.get_event_handler_entries(event_type, session_id)]

    def get_event_handler_entries(
        self, event_type: type[Event], session_id: SessionID = BUS
    ) -> list[EventHandlerEntry]:
        """Return an event's handlers with their priorities, sorted; the bus's before the session's."""
        found: list[EventHandlerEntry] = []
        for scope in reversed(list(self._visible(session_id))):
            for base in event_type.__mro__:
                found += scope.events.get(base, ())
            for key in [key for key in list(scope.events) if isinstance(key, str) and hears(key, event_type)]:
                found += scope.events.get(key, ())
        return sorted(found)

    def registered(
        self,
    ) -> dict[SessionID, tuple[dict[type, CommandHandler], dict[EventKey, list[EventHandlerEntry]]]]:
        """Return what each scope has for commands and for events, the bus's first: copies, of this moment."""
        with self._lock:
            return {
                session_id: (dict(scope.commands), {key: list(entries) for key, entries in scope.events.items()})
                for session_id, scope in self.scopes.items()
            }

    def get_all_sessions(self) -> set[SessionID]:
        """Return every scope that has handlers, and the bus's."""
        return set(self.scopes)

    def get_handler_stats(self) -> dict[str, int]:
        """Count sessions (the bus's scope is one) and handlers."""
        scopes = self.scopes.values()
        return {
            "total_sessions": len(self.scopes),
            "total_command_handlers": sum(len(scope.commands) for scope in scopes),
            "total_event_handlers": sum(len(entries) for scope in scopes for entries in scope.events.values()),
            "bus_command_handlers": len(self.bus_scope.commands),
            "bus_event_handlers": sum(len(entries) for entries in self.bus_scope.events.values()),
        }

    def _scope(self, session_id: SessionID) -> Scope:
        scope = self.scopes.get(session_id)
        if scope is None:
            scope = self.scopes[session_id] = Scope()
        return scope

    def _visible(self, session_id: SessionID) -> Iterator[Scope]:
        if session_id != BUS and session_id in self.scopes:
            yield self.scopes[session_id]
        yield self.bus_scope

    def _changed(self, scope: Scope) -> None:
        if scope is self.bus_scope:
            self.version += 1
        else:
            scope.version = -1

    @staticmethod
    def _check_type(candidate: Any, base: type[Command[Any] | Event], known: set[type]) -> None:
        if not isinstance(candidate, type) or candidate not in known:
            check_message_type(candidate, base)
            HandlerRegistry._remember(candidate, known)

    @staticmethod
    def _remember(kind: type, known: set[type]) -> None:
        if not getattr(kind, "_has_time", False):
            known.add(kind)

    def _count(self, event_type: EventKey, change: int) -> None:
        self.count += change
        key: Any = event_type  # mypy takes a class of unhashable events for unhashable
        hears_traces, hears_lifecycle = _hears_what_announces(key)
        if hears_lifecycle:
            self.listeners += change
        if hears_traces:
            self.trace_handlers += change


@lru_cache(maxsize=1024)
def _hears_what_announces(event_type: EventKey) -> tuple[bool, bool]:
    """Return whether a handler asks for spans, and whether it hears spans or that commands start or end."""
    if isinstance(event_type, str):
        hears_traces = event_type == TraceEvent.event_name
    else:
        hears_traces = issubclass(event_type, TraceEvent)
    announced = (CommandStartedEvent, CommandResultEvent, CommandErrorEvent)
    return hears_traces, hears_traces or any(hears(event_type, kind) for kind in announced)
