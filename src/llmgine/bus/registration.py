"""How an application says who handles what: by calls and by decorators, with middleware around."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints, overload

from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerMiddleware, HandlerPriority
from llmgine.bus.pipeline import call, compose
from llmgine.bus.registry import EventKey, HandlerRegistry
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.ids import BUS

if TYPE_CHECKING:
    from llmgine.bus.resilience.dead_letters import DeadLetters
    from llmgine.bus.resilience.policy import Policies, Policy

__all__ = ["Registration"]

C = TypeVar("C", bound="Callable[..., Any]")


class Registration(ABC):
    """The part of a bus that owns its handlers, middleware and policies."""

    _policies: Policies | None = None
    _layered = False
    """Whether there is anything around command handlers."""

    def _forget_handlers(self, registry: HandlerRegistry | None = None) -> None:
        self._registry = registry or HandlerRegistry()
        self._registry.wrap_with(self._wrap_command, self._wrap_event)
        self._command_middleware: list[HandlerMiddleware] = []
        self._event_middleware: list[HandlerMiddleware] = []
        self._layered = self._policies is not None

    def _set_policies(
        self,
        default: Policy | None,
        by_type: Mapping[type[Command[Any]], Policy] | None,
        letters: DeadLetters | None,
        announce: Callable[[Event, Command[Any] | None], None],
    ) -> None:
        with suppress(AttributeError):  # where there are none, there is no attribute: see `Kept`
            del self._policies
        if default is not None or by_type:
            from llmgine.bus.resilience.policy import Policies  # which a bus without policies does not need

            self._policies = Policies(default, by_type, letters, announce)

    def register_command_handler(
        self, command_type: type[Command[Any]], handler: CommandHandler, session_id: SessionID = BUS
    ) -> None:
        """Make `handler` answer commands of a type, and of its subclasses that have no handler of their own.

        Raises:
            ConfigurationError: the type is no command class, or the handler cannot be called with its commands.
            HandlerAlreadyRegisteredError: the type has a handler in this scope.
        """
        self._registry.register_command_handler(command_type, handler, session_id)

    def register_event_handler(
        self,
        event_type: EventKey,
        handler: EventHandler,
        session_id: SessionID = BUS,
        priority: int = HandlerPriority.NORMAL,
    ) -> None:
        """Make `handler` hear events of a type and of its subclasses; in a session, only that session's.

        Instead of a type there may be a dotted name: "resource.created", "resource.*", "workflow.**".

        Raises:
            ConfigurationError: the type is no event class, the name is none, or the handler cannot be called with them.
        """
        self._registry.register_event_handler(event_type, handler, session_id, priority)

    def unregister_command_handler(
        self, command_type: type[Command[Any]], handler: CommandHandler, session_id: SessionID = BUS
    ) -> bool:
        """Undo the registration of `handler`. Return False if there is none."""
        return self._registry.unregister_command_handler(command_type, handler, session_id)

    def unregister_event_handler(
        self, event_type: EventKey, handler: EventHandler, session_id: SessionID = BUS
    ) -> bool:
        """Undo one registration of `handler`. Return False if there is none."""
        return self._registry.unregister_event_handler(event_type, handler, session_id)

    register_async_command_handler = register_command_handler
    register_async_event_handler = register_event_handler

    @overload
    def command_handler(
        self, command_type: type[Command[Any]] | None = None, /, *, session_id: SessionID = BUS
    ) -> Callable[[C], C]: ...
    @overload
    def command_handler(self, handler: C, /) -> C: ...
    def command_handler(self, target: Any = None, /, *, session_id: SessionID = BUS) -> Any:
        """Register the decorated function for the command that its first parameter is annotated with, or that is named.

        `@bus.command_handler`, `@bus.command_handler(Greet)`, `@bus.command_handler(session_id=…)`
        """
        if target is not None and not isinstance(target, type):
            self.register_command_handler(_annotated_command(target), target, session_id)
            return target

        def register(handler: C) -> C:
            self.register_command_handler(target or _annotated_command(handler), handler, session_id)
            return handler

        return register

    def on(
        self, event_type: EventKey, *, session_id: SessionID = BUS, priority: int = HandlerPriority.NORMAL
    ) -> Callable[[C], C]:
        """Register the decorated function for events of a type or a name: `@bus.on(Greeted)`, `@bus.on("greeted")`."""

        def register(handler: C) -> C:
            self.register_event_handler(event_type, handler, session_id, priority)
            return handler

        return register

    def unregister_session_handlers(self, session_id: SessionID) -> None:
        """Forget the handlers of a session."""
        self._registry.unregister_session(session_id)

    def add_command_middleware(self, middleware: HandlerMiddleware) -> None:
        """Wrap every command handler in another layer, inside those added before.

        Raises:
            ConfigurationError: it is no middleware.
        """
        _check_middleware(middleware)
        self._command_middleware.append(middleware)
        self._layered = True
        self._registry.recompose()

    def add_event_middleware(self, middleware: HandlerMiddleware) -> None:
        """Wrap every event handler in another layer, inside those added before.

        Raises:
            ConfigurationError: it is no middleware.
        """
        _check_middleware(middleware)
        self._event_middleware.append(middleware)
        self._registry.recompose()

    def _wrap_command(self, handler: CommandHandler, command_type: type) -> CommandHandler:
        asks: bool = getattr(command_type, "_asks", False)
        if asks:
            from llmgine.bus.approvals import approving  # which a bus without such commands does not need

            handler = approving(handler, self._announce)
        if not self._layered:
            return handler
        layers = [*self._command_middleware]
        # To be denied is an answer: nobody is to be asked again, and nothing has failed.
        if self._policies is not None and not asks:
            layers += [self._policies.statistics, *self._policies.layers_for(command_type)]
        return compose([each.process_command for each in layers], handler, self._call_command_handler)

    def _wrap_event(self, handler: EventHandler) -> EventHandler:
        if not self._event_middleware:
            return handler
        return compose([each.process_event for each in self._event_middleware], handler, call)

    @abstractmethod
    def _announce(self, event: Event, cause: Command[Any] | Event) -> None:
        """Publish an event of the bus's own, without waiting and without cost where nobody listens."""

    @abstractmethod
    async def _call_command_handler(self, command: Any, handler: CommandHandler) -> CommandResult[Any]:
        """Run a command's handler once, inside all of the middleware."""


def _annotated_command(handler: Callable[..., Any]) -> type[Command[Any]]:
    hints = get_type_hints(handler)
    hints.pop("return", None)
    for kind in hints.values():
        if isinstance(kind, type) and issubclass(kind, Command):
            return kind
    msg = (
        f"{getattr(handler, '__qualname__', handler)!r} does not say which command it handles. Annotate its parameter, "
        "or name the command: @bus.command_handler(MyCommand)."
    )
    raise ConfigurationError(msg)


def _check_middleware(candidate: object) -> None:
    from llmgine.bus.middleware import check_middleware  # which a bus without middleware does not need

    check_middleware(candidate)
