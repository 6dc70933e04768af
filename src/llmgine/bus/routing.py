"""What a bus does with messages, as plain data: who handles what, in which scope and order, and what nobody handles.

A class is listed once for all scopes. What a session makes of it is what is listed for the bus and for that session.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from inspect import isabstract, unwrap
from linecache import getlines
from operator import attrgetter
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from llmgine.bus.event_names import hears
from llmgine.bus.handler_check import name_of
from llmgine.bus.interfaces import HandlerPriority
from llmgine.bus.registry import HandlerRegistry
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.ids import BUS

if TYPE_CHECKING:
    from llmgine.bus.bus import MessageBus

__all__ = [
    "CommandHandlerRoute",
    "CommandRoute",
    "EventHandlerRoute",
    "EventRoute",
    "Part",
    "PatternRoute",
    "Routing",
    "describe_routing",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """A message class, a handler, a middleware or a filter."""

    name: str
    """Module and qualified name; of an object that has none, its class's."""
    module: str
    file: str | None
    """None where it cannot be told, such as for what is written in C. So is the line."""
    line: int | None
    """Counted from 1. Where there are decorators, it is the first one's."""


@dataclass(frozen=True, slots=True)
class CommandHandlerRoute:
    """Who answers a command in one scope."""

    scope: SessionID
    handler: Part
    registered_for: str
    """The command's class, or a base of it."""


@dataclass(frozen=True, slots=True)
class CommandRoute:
    """A command class and who answers it: for the bus, then for each session that has its own answer."""

    command: Part
    handlers: tuple[CommandHandlerRoute, ...]


@dataclass(frozen=True, slots=True)
class EventHandlerRoute:
    """Who hears an event."""

    scope: SessionID
    priority: int
    priority_name: str | None
    """None for a number that is no `HandlerPriority`."""
    handler: Part
    registered_for: str
    """The event's class, a base of it, or a dotted name."""


@dataclass(frozen=True, slots=True)
class EventRoute:
    """An event class and who hears it, in the order in which they run; those of one priority run concurrently."""

    event: Part
    event_name: str
    handlers: tuple[EventHandlerRoute, ...]


@dataclass(frozen=True, slots=True)
class PatternRoute:
    """A dotted name that handlers are registered for."""

    pattern: str
    stands_for: tuple[str, ...]
    """Event classes: the application's, and others that a handler is registered for."""
    handlers: tuple[EventHandlerRoute, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """Who handles what on a bus. Classes and patterns are in alphabetical order."""

    sessions: tuple[SessionID, ...]
    """Those that have handlers, in the order in which they got their first."""
    command_middleware: tuple[Part, ...]
    """Outermost first."""
    event_middleware: tuple[Part, ...]
    """Outermost first."""
    filters: tuple[Part, ...]
    """In the order in which they are asked."""
    observers: int
    commands: tuple[CommandRoute, ...]
    """Those that have handlers: the application's classes, and others that a handler is registered for."""
    events: tuple[EventRoute, ...]
    """Likewise."""
    patterns: tuple[PatternRoute, ...]
    unhandled_commands: tuple[Part, ...]
    """The application's command classes without a handler in any scope: executing one fails."""
    unheard_events: tuple[Part, ...]
    """The application's event classes without a handler in any scope: nobody hears one."""


def describe_routing(bus: MessageBus) -> Routing:
    """Return who handles what on a bus, as it is now.

    The application's message classes are those that have been imported, are not `llmgine`'s own, and are found in their
    module by their name. One that others derive from is taken for a mere base: without a handler, it is not listed.
    """
    registered = _Registered(bus._registry)
    known_commands, known_events = _known(Command), _known(Event)
    commands = {kind: registered.answering(kind) for kind in _sorted(known_commands | registered.command_types)}
    events = {kind: registered.hearing(kind) for kind in _sorted(known_events | registered.event_types)}
    return Routing(
        sessions=tuple(scope for scope in registered.scopes if scope != BUS),
        command_middleware=_parts(bus._command_middleware),
        event_middleware=_parts(bus._event_middleware),
        filters=_parts(bus._gate.filters),
        observers=len(bus._gate.observers),
        commands=tuple(CommandRoute(_part(kind), handlers) for kind, handlers in commands.items() if handlers),
        events=tuple(EventRoute(_part(kind), kind.event_name, them) for kind, them in events.items() if them),
        patterns=tuple(
            PatternRoute(name, tuple(name_of(kind) for kind in events if hears(name, kind)), registered.named(name))
            for name in sorted(registered.patterns)
        ),
        unhandled_commands=_parts(kind for kind, handlers in commands.items() if not (handlers or _is_base(kind))),
        unheard_events=_parts(kind for kind, handlers in events.items() if not (handlers or _is_base(kind))),
    )


class _Registered:
    """What a registry holds at one moment, by what the registry itself finds for a message class."""

    def __init__(self, registry: HandlerRegistry) -> None:
        self._registry = registry
        by_scope = registry.registered()
        self.scopes = [scope for scope, (commands, events) in by_scope.items() if scope == BUS or commands or events]
        self._commands = {scope: by_scope[scope][0] for scope in self.scopes}
        entries = [
            (scope, key, entry)
            for scope in self.scopes
            for key, entries in by_scope[scope][1].items()
            for entry in entries
        ]
        self._entries = {id(entry): (scope, key, entry) for scope, key, entry in entries}
        self.command_types: set[type[Command[Any]]] = {
            kind for commands in self._commands.values() for kind in commands
        }
        self.event_types = {key for _, key, _ in entries if not isinstance(key, str)}
        self.patterns = {key for _, key, _ in entries if isinstance(key, str)}

    def answering(self, kind: type[Command[Any]]) -> tuple[CommandHandlerRoute, ...]:
        routes: list[CommandHandlerRoute] = []
        for scope in self.scopes:
            handler = self._registry.get_command_handler(kind, scope)
            own = self._commands[scope]
            base = next((base for base in kind.__mro__ if handler is not None and own.get(base) is handler), None)
            if base is not None:  # otherwise the session leaves the command to the bus
                routes.append(CommandHandlerRoute(scope, _part(handler), name_of(base)))
        return tuple(routes)

    def hearing(self, kind: type[Event]) -> tuple[EventHandlerRoute, ...]:
        found = [entry for scope in self.scopes for entry in self._registry.get_event_handler_entries(kind, scope)]
        return self._routes(dict.fromkeys(map(id, found)))

    def named(self, pattern: str) -> tuple[EventHandlerRoute, ...]:
        return self._routes(each for each, (_, key, _) in self._entries.items() if key == pattern)

    def _routes(self, ids: Iterable[int]) -> tuple[EventHandlerRoute, ...]:
        # The bus's handlers come before a session's, and those of one priority stay in the order of the registry.
        entries = [self._entries[each] for each in ids if each in self._entries]
        return tuple(
            EventHandlerRoute(
                scope,
                entry.priority,
                _priority_names.get(entry.priority),
                _part(entry.handler),
                key if isinstance(key, str) else name_of(key),
            )
            for scope, key, entry in sorted(entries, key=lambda each: each[2])
        )


_priority_names = {int(priority): priority.name for priority in HandlerPriority}


def _known(base: type[T]) -> set[type[T]]:
    found: set[type[T]] = set()
    for kind in base.__subclasses__():
        found |= _known(kind)
        if kind.__module__.partition(".")[0] != "llmgine" and _is_at_home(kind):
            found.add(kind)
    return found


def _is_at_home(kind: type) -> bool:
    """Whether the class is found by its name; not so one of a function's own, nor what a decorator has replaced."""
    try:
        return attrgetter(kind.__qualname__)(sys.modules.get(kind.__module__)) is kind
    except AttributeError:
        return False


def _is_base(kind: type[Any]) -> bool:
    return isabstract(kind) or any(_is_at_home(each) for each in kind.__subclasses__())


def _sorted(kinds: Iterable[type[T]]) -> list[type[T]]:
    return sorted(kinds, key=name_of)


def _parts(things: Iterable[Any]) -> tuple[Part, ...]:
    return tuple(_part(each) for each in things)


def _part(thing: Any) -> Part:
    while isinstance(thing, partial):
        thing = thing.func
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    file, line = _source(unwrap(thing) if named is thing else named)
    return Part(name_of(thing), getattr(named, "__module__", None) or "", file, line)


def _source(defined: Any) -> tuple[str | None, int | None]:
    """Return the file and the line of a function or a class."""
    function = defined.__func__ if isinstance(defined, MethodType) else defined
    if isinstance(function, FunctionType):
        file, line = function.__code__.co_filename, function.__code__.co_firstlineno
        return (None, None) if file.startswith("<") else (file, line)
    if isinstance(function, type):
        file = getattr(sys.modules.get(function.__module__), "__file__", None) or ""
        if function.__qualname__ in _class_lines(file):
            return file, _class_lines(file)[function.__qualname__]
    return None, None


@cache
def _class_lines(file: str) -> dict[str, int]:
    # `inspect` would parse the whole file again for each of its classes.
    lines: dict[str, int] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inside = prefix
            if isinstance(child, ast.ClassDef):
                lines[prefix + child.name] = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                inside = f"{prefix}{child.name}."
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = f"{prefix}{child.name}.<locals>."
            visit(child, inside)

    if file.endswith(".py"):
        with suppress(SyntaxError):  # it has been changed since it was imported
            visit(ast.parse("".join(getlines(file))), "")
    return lines
