"""Dead letters as the command line sees them: which are meant, and how they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from llmgine.bus.stores import DeadLetterEntry
from llmgine.cli.database import match_ids
from llmgine.cli.listing import Column, iso, local, print_list, shortest_ids
from llmgine.cli.stored_text import data_of
from llmgine.database.dead_letter_store import DeadLetterRecord
from llmgine.errors import ConfigurationError, LLMgineError
from llmgine.messages.codec import encode

__all__ = ["Letter", "LetterChoice", "is_command_type", "print_letters"]


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A dead letter, whether or not its command's class is there."""

    command_id: str
    command_type: str
    session_id: str
    data: dict[str, Any]
    """What is stored of the command."""
    error: str
    attempts: int
    first_attempt: datetime
    last_attempt: datetime
    metadata: dict[str, Any]

    @classmethod
    def of_record(cls, record: DeadLetterRecord) -> Letter:
        """Return a letter as it is stored."""
        return cls(
            command_id=record.command_id,
            command_type=record.command_type,
            session_id=record.session_id,
            data=data_of(record.payload),
            **_outcome(record),
        )

    @classmethod
    def of_entry(cls, entry: DeadLetterEntry) -> Letter:
        """Return a letter as a bus has it."""
        return cls(
            command_id=str(entry.metadata["command_id"]),
            command_type=str(entry.metadata["command_type"]),
            session_id=str(entry.metadata["session_id"]),
            data={} if entry.command is None else encode(entry.command, lossy=True).data,
            **_outcome(entry),
        )

    def as_data(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "command_id": self.command_id,
            "command_type": self.command_type,
            "session_id": self.session_id,
            "error": self.error,
            "attempts": self.attempts,
            "first_attempt": iso(self.first_attempt),
            "last_attempt": iso(self.last_attempt),
            "command": self.data,
            "metadata": self.metadata,
        }


class _Failed(Protocol):
    """What records and entries have in common."""

    @property
    def error(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def first_attempt(self) -> datetime: ...
    @property
    def last_attempt(self) -> datetime: ...
    @property
    def metadata(self) -> dict[str, Any]: ...


def _outcome(failed: _Failed) -> dict[str, Any]:
    names = ("error", "attempts", "first_attempt", "last_attempt", "metadata")
    return {name: getattr(failed, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class LetterChoice:
    """Which dead letters are meant: some by their ids, those of a type, or all.

    Raises:
        ConfigurationError: that is not said, or said twice.
    """

    ids: tuple[str, ...] = ()
    """Or how they begin."""
    type: str | None = None
    all: bool = False

    def __post_init__(self) -> None:
        if bool(self.ids) + (self.type is not None) + self.all != 1:
            msg = (
                "Say which dead letters are meant, in one of these ways: by their ids, with --type TYPE, or with --all."
            )
            raise ConfigurationError(msg)

    def of(self, letters: Sequence[Letter]) -> list[Letter]:
        """Return those that are meant, in their order.

        Raises:
            LLMgineError: an id stands for none or several, or there is none of the type.
        """
        if self.ids:
            ids = set(match_ids(self.ids, (letter.command_id for letter in letters), "dead letter"))
            return [letter for letter in letters if letter.command_id in ids]
        if self.type is None:
            return list(letters)
        of_type = [letter for letter in letters if is_command_type(self.type, letter)]
        if not of_type and letters:
            types = ", ".join(sorted({letter.command_type for letter in letters}))
            msg = f"there is no dead letter of type {self.type!r}; there are some of {types}"
            raise LLMgineError(msg)
        return of_type


def is_command_type(asked: str, letter: Letter) -> bool:
    """Tell whether a letter's command is of a class, whose name may go without its `Command`."""
    return asked in {letter.command_type, letter.command_type.removesuffix("Command")}


def print_letters(letters: Sequence[Letter], *, as_json: bool) -> None:
    """List dead letters, the oldest first."""
    short = shortest_ids(letter.command_id for letter in letters)
    columns = [
        Column[Letter](
            title="ID",
            plain=lambda letter: letter.command_id,
            shown=lambda letter: short(letter.command_id),
            style="dim",
        ),
        Column[Letter](title="COMMAND", plain=lambda letter: letter.command_type, style="bold"),
        Column[Letter](title="SESSION", plain=lambda letter: letter.session_id, style="cyan"),
        Column[Letter](
            title="FAILED",
            plain=lambda letter: iso(letter.last_attempt),
            shown=lambda letter: local(letter.last_attempt),
        ),
        Column[Letter](title="TRIES", plain=lambda letter: letter.attempts, right=True),
        Column[Letter](title="ERROR", plain=lambda letter: letter.error, style="red", gives_way=True),
    ]
    print_list(letters, columns, Letter.as_data, as_json=as_json)
