"""Events report something that has happened; any number of handlers hear them. Here are also the bus's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.ids import next_number
from llmgine.messages.message import Message, id_of

if TYPE_CHECKING:
    from llmgine.messages.resources import (
        ResourceCreatedEvent,
        ResourceDeletedEvent,
        ResourceEvent,
        ResourceUpdatedEvent,
        SystemErrorEvent,
        SystemEvent,
        SystemStartedEvent,
        SystemStoppedEvent,
        WorkflowCompletedEvent,
        WorkflowEvent,
        WorkflowFailedEvent,
        WorkflowStartedEvent,
        WorkflowStepCompletedEvent,
    )

__all__ = [
    "CircuitBreakerChangedEvent",
    "CommandErrorEvent",
    "CommandResultEvent",
    "CommandRetriedEvent",
    "CommandStartedEvent",
    "DeadLetterCommandEvent",
    "Event",
    "EventHandlerFailedEvent",
    "ResourceCreatedEvent",
    "ResourceDeletedEvent",
    "ResourceEvent",
    "ResourceUpdatedEvent",
    "SystemErrorEvent",
    "SystemEvent",
    "SystemStartedEvent",
    "SystemStoppedEvent",
    "WorkflowCompletedEvent",
    "WorkflowEvent",
    "WorkflowFailedEvent",
    "WorkflowStartedEvent",
    "WorkflowStepCompletedEvent",
]


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z_]+")


@dataclass(kw_only=True)
class Event(Message):
    """Something that has happened, named in the past tense."""

    event_name: ClassVar[str] = "event"
    """Its name in subscriptions: `ResourceCreatedEvent` is "resource.created". A class may set its own."""

    event_id: str = field(default_factory=cast("Callable[[], str]", next_number))

    _id_field: ClassVar[str] = "event_id"
    _has_time: ClassVar[bool] = False
    """Whether it may have to wait until it is due."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.__dict__.get("event_name"), str):
            words = _WORD.findall(cls.__name__.removesuffix("Event") or cls.__name__)
            cls.event_name = ".".join(words).lower()


if not TYPE_CHECKING:
    Event.event_id = property(id_of, Message._identity.__set__)


@dataclass
class CommandStartedEvent(Event):
    """A command's handler is about to run. Once per command, whatever the retries."""

    command: Command[Any] | None = None


@dataclass
class CommandResultEvent(Event):
    """A command has ended. Once per command, whatever the retries."""

    command_result: CommandResult[Any] | None = None
    result_is_content: bool = True
    """Whether a text in the result is what people or models say, as the command's class says by a class variable of
    this name. Where nobody has said, it may be."""


@dataclass
class CommandErrorEvent(CommandResultEvent):
    """A command has ended in failure."""


@dataclass
class CommandRetriedEvent(Event):
    """An attempt at a command has failed, and there will be another."""

    command: Command[Any] | None = None
    attempt: int = 0
    """Which one has failed, counted from 1."""
    delay: float = 0.0
    """Seconds until the next."""
    error: str | None = None


@dataclass
class DeadLetterCommandEvent(Event):
    """A command has failed for good, and is kept as a dead letter if that can be. Once per command."""

    command: Command[Any] | None = None
    error: str | None = None
    """What the last attempt said."""
    attempts: int = 0


@dataclass
class CircuitBreakerChangedEvent(Event):
    """A circuit breaker has changed its state: "closed", "open" or "half_open"."""

    name: str = ""
    state: str = ""
    previous: str = ""
    failure_count: int = 0


@dataclass
class EventHandlerFailedEvent(Event):
    """A handler raised while it handled an event. Never published about a failure of its own handlers."""

    event: Event | None = None
    handler: str | None = None
    """Module and qualified name."""
    exception: BaseException | None = None


if not TYPE_CHECKING:
    # The families that are built in are defined in terms of the above.
    def __getattr__(name: str) -> Any:
        if name not in __all__:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from llmgine.messages import resources

        return getattr(resources, name)
