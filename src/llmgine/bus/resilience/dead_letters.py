"""Commands that failed for good: written down before the failure is reported, looked at, and tried again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Literal

from llmgine.bus.clocks import utc_now
from llmgine.bus.options import check_number
from llmgine.bus.resilience.letter_writing import LetterWriting, id_of
from llmgine.bus.resilience.outcomes import Announce, attempts_made
from llmgine.bus.stores import DeadLetterEntry, DeadLetterStore
from llmgine.errors import BusError, ConfigurationError, StoreError
from llmgine.messages import Command, CommandResult
from llmgine.messages.events import DeadLetterCommandEvent

__all__ = ["DeadLetters"]

_log = logging.getLogger("llmgine.bus.resilience")


class DeadLetters(LetterWriting):
    """The dead letters of a bus.

    While the store cannot be reached they are kept in memory, as many as `max_size`, and written at the next occasion.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        *,
        max_size: int = 1000,
        when_full: Literal["drop_oldest", "reject_new"] = "drop_oldest",
        announce: Announce | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Say where and how many.

        Args:
            store: keeps them.
            max_size: how many.
            when_full: "drop_oldest" makes room for a new one; "reject_new" does not keep it.
            announce: publishes a `DeadLetterCommandEvent` for each new one, also for one that could not be kept.
            clock: what time it is.

        Raises:
            ConfigurationError: `max_size` is no whole number above 0, or `when_full` is something else.
        """
        check_number("max_size", max_size, int, "a whole number, 1 or more", least=1)
        if when_full not in {"drop_oldest", "reject_new"}:
            msg = f'when_full must be "drop_oldest" or "reject_new"; got {when_full!r}.'
            raise ConfigurationError(msg)
        super().__init__(store, max_size, rejects=when_full == "reject_new")
        self.recorded = 0
        """How many commands have become dead letters here."""
        self._announce = announce
        self.clock = clock
        """What time it is."""
        self._retrying: dict[str, DeadLetterEntry] = {}

    # Recording

    async def record(
        self, command: Command[Any], result: CommandResult[Any], attempts: int, began: datetime
    ) -> tuple[DeadLetterEntry, str | None]:
        """Write down a command that has failed for good, or, where it was a letter that is retried, how that went.

        Being cancelled meanwhile waits until it has been written.

        Returns:
            The entry; and why it is not in the store, or None if it is.
        """
        retried = self._retrying.get(command.command_id)
        entry = self._entry(command, result, attempts, began, retried)
        if retried is not None:
            self._retrying[command.command_id] = entry
        else:
            self.recorded += 1
        problem, cancelled = await self._write_to_the_end(entry, new=retried is None)
        if retried is None and self._announce is not None:
            event = DeadLetterCommandEvent(
                command=command, error=entry.error, attempts=attempts, session_id=command.session_id
            )
            self._announce(event, command)
        if cancelled is not None:
            raise cancelled
        return entry, problem

    # Looking at them

    async def entries(self, limit: int | None = None, command_type: str | None = None) -> list[DeadLetterEntry]:
        """Return letters, the oldest first: all, or those of a class of commands by its name.

        Raises:
            StoreError: the store cannot be reached.
        """
        await self.flush()
        entries = await self._store.list(limit, command_type=command_type, since=self.since)
        known = {id_of(each) for each in entries}
        entries += [
            each
            for command_id, each in self._unwritten.items()
            if command_id not in known and command_type in {None, each.metadata["command_type"]}
        ]
        return entries[:limit]

    async def edit(self, entry: DeadLetterEntry) -> bool:
        """Put an entry in the place of the one with the same command id. Return False if there is none.

        Raises:
            StoreError: the store cannot be reached, or the entry has no command.
        """
        command_id = id_of(entry)
        async with self._lock():
            if command_id in self._unwritten:
                self._unwritten[command_id] = entry
                return True
            if await self._store.get(command_id) is None:
                return False
            await self._store.add(entry)
        return True

    async def discard(self, command_ids: Iterable[str]) -> int:
        """Forget letters, also those kept in memory only. Return how many there were.

        Raises:
            StoreError: the store cannot be reached.
        """
        ids = list(command_ids)
        async with self._lock():
            await self._write_unwritten()  # so that no letter is in both places
            removed = sum(self._unwritten.pop(command_id, None) is not None for command_id in ids)
            removed += await self._store.remove(ids)
            await self._recount()
        return removed

    async def retry(
        self, command_id: str, execute: Callable[[Command[Any]], Awaitable[CommandResult[Any]]]
    ) -> CommandResult[Any] | None:
        """Execute the command of a letter again. If it succeeds, the letter is forgotten; else it is updated.

        Args:
            command_id: whose.
            execute: executes a command, such as `bus.execute`.

        Returns:
            The result; None if there is no such letter.

        Raises:
            BusError: the letter is being retried already, or cannot be read.
            StoreError: the store cannot be reached.
        """
        await self.flush()
        entry = self._unwritten.get(command_id)
        stored = entry is None
        if command_id in self._retrying or (entry is None and not await self._store.lease(command_id)):
            if entry is None and await self._store.get(command_id) is None:
                return None
            msg = f"The dead letter of command {command_id} is being retried already. Wait until that has ended."
            raise BusError(msg)
        try:
            entry = entry or await self._store.get(command_id)
            if entry is None:
                return None
            if entry.command is None:
                why = entry.metadata.get("unreadable", "its class may be missing")
                msg = f"The dead letter of command {command_id} cannot be read ({why}), and so not be retried."
                raise BusError(msg)
            if lost := entry.metadata.get("lossy"):
                msg = (
                    f"The dead letter of command {command_id} lacks what could not be stored ({', '.join(lost)}). Edit "
                    "it first: llmgine dlq edit."
                )
                raise BusError(msg)
            return await self._execute_again(entry, entry.command, execute)
        finally:
            if stored:
                await self._give_back(command_id)

    async def _execute_again(
        self,
        entry: DeadLetterEntry,
        command: Command[Any],
        execute: Callable[[Command[Any]], Awaitable[CommandResult[Any]]],
    ) -> CommandResult[Any]:
        command_id = command.command_id
        self._retrying[command_id] = entry
        began = self.clock()
        try:
            result = await execute(command)
            if result.success:
                await self._forget(command_id)
            # A middleware of ours, if `execute` leads through one, has recorded the failure already.
            elif self._retrying[command_id] is entry and (attempts := attempts_made(result, command)):
                await self.record(command, result, attempts, began)
            return result
        finally:
            del self._retrying[command_id]

    async def _forget(self, command_id: str) -> None:
        try:
            await self.discard((command_id,))
        except StoreError as error:
            # The command has succeeded, and its caller is to know that.
            _log.error(
                "Command %s has succeeded, but its dead letter may still be there, and must not be retried: %s",
                command_id,
                error,
            )

    async def _give_back(self, command_id: str) -> None:
        try:
            await self._store.unlease(command_id)
        except StoreError as error:
            _log.warning("The dead letter of command %s stays taken until its lease ends: %s", command_id, error)

    def _entry(
        self,
        command: Command[Any],
        result: CommandResult[Any],
        attempts: int,
        began: datetime,
        retried: DeadLetterEntry | None,
    ) -> DeadLetterEntry:
        metadata: dict[str, Any] = {
            "command_id": command.command_id,
            "command_type": type(command).__name__,
            "session_id": command.session_id,
        }
        if result.exception is not None:
            metadata["exception_type"] = type(result.exception).__name__
        for name in ("traceback", "circuit_breaker_state"):
            if isinstance(result.metadata.get(name), str):
                metadata[name] = result.metadata[name]
        if retried is not None and "original" in retried.metadata:  # what it was before somebody edited it
            metadata["original"] = retried.metadata["original"]
        return DeadLetterEntry(
            command=command,
            error=result.error or "no reason given",
            attempts=attempts + (0 if retried is None else retried.attempts),
            first_attempt=began if retried is None else retried.first_attempt,
            last_attempt=self.clock(),
            metadata=metadata,
        )
