"""Dead letters in memory: for a bus without a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from llmgine.bus.stores import Added, DeadLetterEntry
from llmgine.errors import StoreError

__all__ = ["MemoryDeadLetterStore"]


class MemoryDeadLetterStore:
    """A `DeadLetterStore` that ends with the process."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, DeadLetterEntry]] = {}
        """By command id, the oldest first: the position, and the entry."""
        self._position = 0
        self._leased: set[str] = set()

    async def add(self, entry: DeadLetterEntry, limit: int | None = None) -> Added:
        """Keep an entry, in the place of one with the same command id."""
        if entry.command is None:
            msg = "A dead letter needs its command; this one has none."
            raise StoreError(msg)
        command_id = entry.command.command_id
        kept = self._entries.get(command_id)
        if kept is None:
            self._position += 1
        self._entries[command_id] = (self._position if kept is None else kept[0], _copy(entry))
        too_many = 0 if limit is None else max(0, len(self._entries) - limit)
        gone = list(islice(self._entries, too_many))
        await self.remove(gone)
        return Added(kept is None, gone)

    async def list(
        self, limit: int | None = None, *, command_type: str | None = None, since: int = 0
    ) -> list[DeadLetterEntry]:
        """Return entries, the oldest first."""
        wanted = (
            _copy(entry)
            for position, entry in self._entries.values()
            if position > since and (command_type is None or type(entry.command).__name__ == command_type)
        )
        return list(islice(wanted, limit))

    async def get(self, command_id: str) -> DeadLetterEntry | None:
        """Return one entry; None if there is no such."""
        kept = self._entries.get(command_id)
        return None if kept is None else _copy(kept[1])

    async def remove(self, command_ids: Iterable[str]) -> int:
        """Forget entries. Return how many there were."""
        removed = 0
        for command_id in command_ids:
            removed += self._entries.pop(command_id, None) is not None
            self._leased.discard(command_id)
        return removed

    async def lease(self, command_id: str) -> bool:
        """Take an entry to retry it. Return False while somebody else does, or if there is no such entry."""
        if command_id not in self._entries or command_id in self._leased:
            return False
        self._leased.add(command_id)
        return True

    async def unlease(self, command_id: str) -> None:
        """Give an entry back."""
        self._leased.discard(command_id)

    async def count(self, *, since: int = 0) -> int:
        """Return how many are kept of those that were added after position `since`."""
        return sum(position > since for position, _ in self._entries.values()) if since else len(self._entries)

    async def position(self) -> int:
        """Return the position of the entry that was added last; 0 if there was none."""
        return self._position


def _copy(entry: DeadLetterEntry) -> DeadLetterEntry:
    """Return an entry that may be changed without changing what is kept."""
    return replace(entry, metadata=dict(entry.metadata))
