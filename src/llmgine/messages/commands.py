"""Commands ask for something to be done; exactly one handler answers, with a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from llmgine.errors import CommandFailedError
from llmgine.messages.ids import next_number
from llmgine.messages.message import Message, id_of, origin_of

if TYPE_CHECKING:
    from llmgine.messages.resources import CreateResourceCommand, DeleteResourceCommand, UpdateResourceCommand

__all__ = ["Command", "CommandResult", "CreateResourceCommand", "DeleteResourceCommand", "UpdateResourceCommand"]

R = TypeVar("R")


@dataclass(kw_only=True)
class Command(Message, Generic[R]):
    """A request for an action, named in the imperative. `Command[R]` says that its result carries an `R`."""

    command_id: str = field(default_factory=cast("Callable[[], str]", next_number))

    result_is_content: ClassVar[bool] = False
    """Whether a text in its result is what people or models say, which logs leave out unless told otherwise."""

    _id_field: ClassVar[str] = "command_id"
    _asks: ClassVar[bool] = False
    """Whether it asks for approval."""


@dataclass
class CommandResult(Message, Generic[R]):
    """What came of a command. A handler may leave the command's id out: the bus fills it in."""

    success: bool
    result: R | None = None
    """What the handler returned."""
    error: str | None = None
    """`"ValueError: text"` where the handler raised; what it says itself where it reports a failure."""
    command_id: str = field(default="", kw_only=True)

    _exception = cast("Exception | None", None)  # not a field: an error belongs to the process that it happened in

    _id_field: ClassVar[str] = "command_id"

    @property
    def exception(self) -> Exception | None:
        """What the handler raised, if it did so in this process."""
        return self._exception

    def unwrap(self) -> R:
        """Return what the handler returned.

        Raises:
            CommandFailedError: the handler reported a failure without raising.
            HandlerNotFoundError: nobody handles the command.
            Exception: what the handler raised.
        """
        if self.success:
            return cast("R", self.result)
        raise self._exception or CommandFailedError(self.error or "The command failed.", result=self)

    @classmethod
    def of(cls, outcome: R | CommandResult[R], command: Command[Any]) -> CommandResult[R]:
        """Return the result that a handler's outcome stands for, with the command's id and session if it has none."""
        result = outcome if isinstance(outcome, CommandResult) else cls(success=True, result=outcome)
        if not result._identity:
            result._identity = origin_of(command)[0]
            result.session_id = command.session_id
        return result


if not TYPE_CHECKING:
    Command.command_id = CommandResult.command_id = property(id_of, Message._identity.__set__)

    # Those that are built in are commands too, and are defined in terms of the above.
    def __getattr__(name: str) -> Any:
        if name not in __all__:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from llmgine.messages import resources

        return getattr(resources, name)
