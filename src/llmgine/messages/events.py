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
    "CommandErrorEvent",
    "CommandResultEvent",
    "CommandStartedEvent",
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


@dataclass
class CommandErrorEvent(CommandResultEvent):
    """A command has ended in failure."""


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
