"""Events report something that has happened; any number of handlers hear them. Here are also the bus's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.ids import new_id
from llmgine.messages.message import Message

__all__ = [
    "CommandErrorEvent",
    "CommandResultEvent",
    "CommandStartedEvent",
    "Event",
    "EventHandlerFailedEvent",
]


@dataclass(kw_only=True)
class Event(Message):
    """Something that has happened, named in the past tense."""

    event_id: str = field(default_factory=new_id)

    _id_field: ClassVar[str] = "event_id"
    _left_out: ClassVar[Mapping[str, Callable[[], Any]]] = {**Message._left_out, "event_id": new_id}


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
