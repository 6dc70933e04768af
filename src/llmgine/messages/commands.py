"""Commands ask for something to be done; exactly one handler answers, with a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time_ns
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from llmgine.messages.ids import new_id
from llmgine.messages.message import Message

__all__ = ["Command", "CommandResult"]

R = TypeVar("R")


@dataclass(kw_only=True)
class Command(Message, Generic[R]):
    """A request for an action, named in the imperative. `Command[R]` says that its result carries an `R`."""

    command_id: str = field(default_factory=new_id)

    _id_field: ClassVar[str] = "command_id"
    _left_out: ClassVar[Mapping[str, Callable[[], Any]]] = {**Message._left_out, "command_id": new_id}


@dataclass
class CommandResult(Message, Generic[R]):
    """What came of a command. A handler may leave the command's id out: the bus fills it in."""

    __slots__ = ("_command_id",)

    success: bool
    result: R | None = None
    """What the handler returned."""
    error: str | None = None
    """`"ValueError: text"` where the handler raised; what it says itself where it reports a failure."""
    command_id: str = field(default="", kw_only=True)

    _id_field: ClassVar[str] = "command_id"
    _left_out: ClassVar[Mapping[str, Callable[[], Any]]] = {**Message._left_out, "command_id": new_id}

    @classmethod
    def of(cls, outcome: R | CommandResult[R], command: Command[Any]) -> CommandResult[R]:
        """Return the result that a handler's outcome stands for, with the command's id and session if it has none.

        A plain value becomes a success, at half of what the constructor costs.
        """
        result: Any = outcome
        if isinstance(outcome, CommandResult):
            if not result._command_id:
                result._command_id = command.command_id
                result.session_id = command.session_id
        else:
            result = cls.__new__(cls)
            result._timestamp = time_ns()
            result._command_id = command.command_id
            result.session_id = command.session_id
            result.success = True
            result.result = outcome
        return result  # type: ignore[no-any-return]  # a cast would be a call


def _read_command_id(result: Any) -> str:
    if not result._command_id:
        result._command_id = new_id()
    return cast("str", result._command_id)


if not TYPE_CHECKING:
    # A result that no bus has seen has an id of its own, and the bus can tell that none was given.
    CommandResult.command_id = property(_read_command_id, CommandResult._command_id.__set__)
