"""Getting dead letters written, though the store may be away, and whoever writes may be cancelled."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from llmgine.bus.stores import DeadLetterEntry, DeadLetterStore
from llmgine.errors import StoreError

__all__ = ["LetterWriting", "id_of"]

_log = logging.getLogger("llmgine.bus.resilience")


class LetterWriting:
    """The part of `DeadLetters` that writes. One writes at a time, what could not be written before comes first."""

    def __init__(self, store: DeadLetterStore, max_size: int, *, rejects: bool) -> None:
        """Write to `store`, up to `max_size` letters; `rejects` if then new ones are not kept."""
        self.since = 0
        """Only those that were added after this position of the store are listed and counted in `size`."""
        self.dropped = 0
        """How many letters gave way to newer ones."""
        self.rejected = 0
        """How many were not kept, because there was no room."""
        self._store = store
        self._max_size = max_size
        self._rejects = rejects
        self._stored = 0
        self._counted = False
        self._unwritten: dict[str, DeadLetterEntry] = {}
        self._away = False
        self._writing: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    @property
    def size(self) -> int:
        """How many there are, as far as is known without asking the store; see `refresh`."""
        return self._stored + len(self._unwritten)

    @property
    def unwritten(self) -> int:
        """How many are kept in memory only, because the store could not take them."""
        return len(self._unwritten)

    async def flush(self) -> int:
        """Write what is kept in memory only, if that is possible now. Return how many are left."""
        if self._unwritten:
            async with self._lock():
                await self._write_unwritten()
        return len(self._unwritten)

    async def refresh(self) -> int:
        """Ask the store how many there are, and return `size`.

        Raises:
            StoreError: it cannot be reached.
        """
        self._stored = await self._store.count(since=self.since)
        self._counted = True
        return self.size

    async def _write_to_the_end(
        self, entry: DeadLetterEntry, *, new: bool
    ) -> tuple[str | None, asyncio.CancelledError | None]:
        """Write an entry. Return why that failed, and what has cancelled us meanwhile."""
        cancelled: asyncio.CancelledError | None = None
        for _ in range(2):  # at its end a program cancels all tasks, also the first one that writes
            writing = asyncio.create_task(self._write(entry, new=new))
            while not writing.done():
                try:
                    await asyncio.wait((writing,))
                except asyncio.CancelledError as error:
                    cancelled = error
            if not writing.cancelled():
                return writing.result(), cancelled
        return self._keep_in_memory(entry, "the writing was cancelled"), cancelled

    async def _write(self, entry: DeadLetterEntry, *, new: bool) -> str | None:
        async with self._lock():
            try:
                await self._write_unwritten()
                if self._away:
                    return self._keep_in_memory(entry, "the store cannot be reached")
                if new and self._rejects and await self._store.count() >= self._max_size:
                    return self._reject(entry)
                await self._add(entry, limited=new)
            except Exception as error:  # noqa: BLE001  # whatever it is, the failure of the command has to be reported
                self._note_outage(error)
                return self._keep_in_memory(entry, f"{type(error).__name__}: {error}")
        return None

    async def _write_unwritten(self) -> None:
        for command_id, entry in list(self._unwritten.items()):
            try:
                await self._add(entry, limited=True)
            except StoreError as error:
                self._note_outage(error)
                return
            except Exception as error:  # noqa: BLE001  # one that cannot be written must not hold up the others
                _log.debug("The dead letter of command %s can still not be written: %s", command_id, error)
        self._away = False

    async def _add(self, entry: DeadLetterEntry, *, limited: bool) -> None:
        is_new, gone = await self._store.add(entry, self._max_size if limited and not self._rejects else None)
        self._unwritten.pop(id_of(entry), None)
        if self._away:
            self._away = False
            _log.info("Dead letters are written again")
        if gone:
            self.dropped += len(gone)
            _log.warning("Dead letters were dropped, because there are %d: %s", self._max_size, ", ".join(gone))
        if self._counted and not self.since:
            self._stored += is_new - len(gone)  # without a second turn of the store
        else:
            await self._recount()

    async def _recount(self) -> None:
        with suppress(StoreError):  # what was to be done has been done
            await self.refresh()

    def _keep_in_memory(self, entry: DeadLetterEntry, why: str) -> str:
        command_id = id_of(entry)
        if command_id not in self._unwritten and len(self._unwritten) >= self._max_size:
            if self._rejects:
                return self._reject(entry)
            oldest = next(iter(self._unwritten))
            del self._unwritten[oldest]
            self.dropped += 1
            _log.warning("The dead letter of command %s was dropped, because it could not be written", oldest)
        self._unwritten[command_id] = entry
        return why

    def _reject(self, entry: DeadLetterEntry) -> str:
        self.rejected += 1
        why = f"there are {self._max_size} dead letters already"
        _log.warning("The dead letter of command %s was not kept: %s", id_of(entry), why)
        return why

    def _note_outage(self, error: Exception) -> None:
        """Say once per outage what is wrong; what is no outage is said each time."""
        if not (self._away and isinstance(error, StoreError)):
            # An outage is logged by the store, which knows when it is over.
            level = logging.INFO if isinstance(error, StoreError) else logging.ERROR
            _log.log(level, "A dead letter cannot be written, and is kept in memory: %s", error)
        self._away = self._away or isinstance(error, StoreError)

    def _lock(self) -> asyncio.Lock:
        """Return what makes writers wait for each other; a lock belongs to one loop, and a bus may see several."""
        loop = asyncio.get_running_loop()
        if self._writing is None or self._writing[0] is not loop:
            self._writing = (loop, asyncio.Lock())
        return self._writing[1]


def id_of(entry: DeadLetterEntry) -> str:
    """Return the id of the command that an entry is about."""
    return entry.metadata["command_id"] if entry.command is None else entry.command.command_id
