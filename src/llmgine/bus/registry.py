"""Who handles what, in which scope. No look-up, registration or end of a session depends on how many sessions are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias

from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerPriority
from llmgine.errors import ConfigurationError, HandlerAlreadyRegisteredError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandErrorEvent, CommandStartedEvent
from llmgine.messages.ids import BUS

__all__ = ["EventHandlerEntry", "EventPlan", "HandlerRegistry"]

EventPlan: TypeAlias = tuple[tuple[tuple[EventHandler, EventHandler], ...], ...]
"""An event's handlers in groups of one priority; each as it was registered, and as it is called in its middleware."""

_LIFECYCLE = {*CommandStartedEvent.__mro__, *CommandErrorEvent.__mro__}


@dataclass(order=True)
class EventHandlerEntry:
    """One registered event handler; entries sort by priority."""

    priority: int
    handler: EventHandler = field(compare=False)


class _Scope:
    """The handlers of one session, or of the bus, with what has been worked out from them."""

    __slots__ = ("command_chains", "commands", "event_plans", "events", "version")

    def __init__(self) -> None:
        self.commands: dict[type, CommandHandler] = {}
        self.events: dict[type, list[EventHandlerEntry]] = {}
        self.forget(-1)

    def forget(self, version: int) -> None:
        self.version = version
        self.command_chains: dict[type, CommandHandler | None] = {}
        self.event_plans: dict[type, EventPlan] = {}


def _unchanged(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return handler


class HandlerRegistry:
    """Holds the handlers of a bus."""

    def __init__(
        self,
        wrap_command: Callable[[CommandHandler], CommandHandler] = _unchanged,
        wrap_event: Callable[[EventHandler], EventHandler] = _unchanged,
    ) -> None:
        self._wrap_command = wrap_command
        self._wrap_event = wrap_event
        self._bus_scope = _Scope()
        self._scopes: dict[SessionID, _Scope] = {BUS: self._bus_scope}
        self._version = 0
        self.lifecycle_handlers = 0
        """How many handlers hear that commands start or end; without any, those events need not be made."""

    def register_command_handler(
        self, command_type: type[Command[Any]], handler: CommandHandler, session_id: SessionID = BUS
    ) -> None:
        """Make `handler` answer commands of a type, and of its subclasses that have no handler of their own.

        Raises:
            HandlerAlreadyRegisteredError: the type has a handler in this scope.
        """
        _check(command_type, Command, handler)
        scope = self._scope(session_id)
        if command_type in scope.commands:
            name = command_type.__name__
            msg = f"{name} is already registered in scope {session_id}; a command has exactly one handler."
            raise HandlerAlreadyRegisteredError(msg)
        scope.commands[command_type] = handler
        self._changed(scope)

    def register_event_handler(
        self,
        event_type: type[Event],
        handler: EventHandler,
        session_id: SessionID = BUS,
        priority: int = HandlerPriority.NORMAL,
    ) -> None:
        """Make `handler` hear events of a type and of its subclasses."""
        _check(event_type, Event, handler)
        scope = self._scope(session_id)
        scope.events.setdefault(event_type, []).append(EventHandlerEntry(priority, handler))
        self.lifecycle_handlers += event_type in _LIFECYCLE
        self._changed(scope)

    def unregister_session(self, session_id: SessionID) -> None:
        """Forget the handlers of a session. The bus's own stay."""
        if session_id != BUS and (scope := self._scopes.pop(session_id, None)):
            self.lifecycle_handlers -= sum(len(scope.events[t]) for t in scope.events if t in _LIFECYCLE)

    def recompose(self) -> None:
        """Wrap handlers anew from now on, because the middleware has changed."""
        self._version += 1

    def command_chain(self, command_type: type, session_id: SessionID) -> CommandHandler | None:
        """Return the wrapped handler of a command: the session's before the bus's, the nearest class first."""
        scope = self._scopes.get(session_id, self._bus_scope)
        if scope.version != self._version:
            scope.forget(self._version)
        try:
            return scope.command_chains[command_type]
        except KeyError:
            handler = self.get_command_handler(command_type, session_id)
            chain = scope.command_chains[command_type] = None if handler is None else self._wrap_command(handler)
            return chain

    def event_plan(self, event_type: type, session_id: SessionID) -> EventPlan:
        """Return the wrapped handlers of an event, in groups by ascending priority."""
        scope = self._scopes.get(session_id, self._bus_scope)
        if scope.version != self._version:
            scope.forget(self._version)
        try:
            return scope.event_plans[event_type]
        except KeyError:
            entries = self.get_event_handler_entries(event_type, session_id)
            plan = scope.event_plans[event_type] = tuple(
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

    def get_event_handlers(self, event_type: type, session_id: SessionID = BUS) -> list[EventHandler]:
        """Return an event's handlers as they were registered, in the order of their priorities."""
        return [entry.handler for entry in self.get_event_handler_entries(event_type, session_id)]

    def get_event_handler_entries(self, event_type: type, session_id: SessionID = BUS) -> list[EventHandlerEntry]:
        """Return an event's handlers with their priorities, sorted; the bus's before the session's."""
        return sorted(
            entry
            for scope in reversed(list(self._visible(session_id)))
            for base in event_type.__mro__
            for entry in scope.events.get(base, ())
        )

    def get_all_sessions(self) -> set[SessionID]:
        """Return every scope that has handlers, and the bus's."""
        return set(self._scopes)

    def get_handler_stats(self) -> dict[str, int]:
        """Count sessions (the bus's scope is one) and handlers."""
        scopes = self._scopes.values()
        return {
            "total_sessions": len(self._scopes),
            "total_command_handlers": sum(len(scope.commands) for scope in scopes),
            "total_event_handlers": sum(len(entries) for scope in scopes for entries in scope.events.values()),
            "bus_command_handlers": len(self._bus_scope.commands),
            "bus_event_handlers": sum(len(entries) for entries in self._bus_scope.events.values()),
        }

    def _scope(self, session_id: SessionID) -> _Scope:
        scope = self._scopes.get(session_id)
        if scope is None:
            scope = self._scopes[session_id] = _Scope()
        return scope

    def _visible(self, session_id: SessionID) -> Iterator[_Scope]:
        if session_id != BUS and session_id in self._scopes:
            yield self._scopes[session_id]
        yield self._bus_scope

    def _changed(self, scope: _Scope) -> None:
        if scope is self._bus_scope:
            self._version += 1
        else:
            scope.forget(self._version)


def _check(message_type: Any, base: type, handler: Any) -> None:
    if not (isinstance(message_type, type) and issubclass(message_type, base)):
        msg = f"Handlers are registered for a subclass of {base.__name__}, not for {message_type!r}."
        raise ConfigurationError(msg)
    if not callable(handler):
        msg = f"The handler of {message_type.__name__} must be callable; {handler!r} is not."
        raise ConfigurationError(msg)
