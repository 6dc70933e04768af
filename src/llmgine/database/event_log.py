"""The log of events: taken down when they are published, written in batches by the database's thread."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Lock
from weakref import WeakSet

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from llmgine.bus.options import check_number
from llmgine.database.access import Access
from llmgine.database.log_row import TakenEvent, take
from llmgine.database.retention import Retention, Trimmer
from llmgine.errors import LLMgineError, StoreError
from llmgine.messages import Event

__all__ = ["DatabaseEventLog"]

_log = logging.getLogger("llmgine.database")

_BATCH = 1000
"""How many rows are written at once."""
_LINGER_S = 0.02
"""How long the first event waits for others to be written with it."""
_FIRST_RETRY_S, _LAST_RETRY_S = 0.25, 15.0
"""From one attempt to write while the database is away to the next: they double."""
_MOMENT_S = 0.05
"""How long a publisher is held up while the database is away."""
_PATIENCE_S = 1.0
"""How long one write may take before publishers are not held up for longer than a moment either."""
_TRIM_EVERY = 1000
"""Rows written from one look at what is to be deleted to the next."""


class DatabaseEventLog:
    """An `EventLog` in a table, with exactly one row for each event that was published.

    What is written down is what the event was when it was published; what it holds that cannot be stored is replaced by
    a text. While the database is away nothing is dropped and nothing stops: events are kept in memory and written
    when it is back. From `capacity` on publishers are slowed down to one event in 50 ms each, and at that pace the
    memory grows. What has not been written when the process is killed is lost: the last 20 ms or so in ordinary
    operation.
    """

    def __init__(self, access: Access, *, capacity: int = 10_000, retention: Retention | None = None) -> None:
        """Write to the log in a database.

        Args:
            access: the database.
            capacity: how many events may wait to be written before publishers wait.
            retention: what is kept; all, if it is left out.

        Raises:
            ConfigurationError: `capacity` is no number, or below 1.
        """
        check_number("capacity", capacity, int, "a number of events, at least 1", least=1)
        self._access = access
        self._capacity = capacity
        self._retention = retention or Retention()
        self._insert = access.tables.insert(access.tables.event_log).on_conflict_do_nothing(
            index_elements=["record_id"]  # a write whose outcome was in doubt is done again
        )
        self._begin()
        _every.add(self)

    def _begin(self) -> None:
        """Begin with nothing, in a new process too."""
        self._lock = Lock()
        self._waiting: deque[TakenEvent] = deque()
        self._batch: Sequence[TakenEvent] = ()
        """What is being written."""
        self._suspects = 0
        """How many rows are written one by one, because one of them cannot be written."""
        self._trimmer = Trimmer(self._access, self._retention)
        self._watchers: list[asyncio.Future[None]] = []
        """Of those who wait until the write that is under way, or the next, has ended."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        """How many writes have failed since the last that did not."""
        self._stalled = False
        """Whether a write takes too long."""
        self._written = 0
        """Since the log was last trimmed."""
        self._started = False

    @property
    def unwritten(self) -> int:
        """How many events have been published and not been written yet."""
        return len(self._waiting) + len(self._batch)

    @property
    def is_full(self) -> bool:
        """Whether publishers are to be slowed down, because too much has not been written yet."""
        return len(self._waiting) + len(self._batch) >= self._capacity

    def append(self, event: Event) -> None:
        """Take an event in, to be written soon. Never blocks, never raises. Only one thread may call this at a time."""
        try:
            self._waiting.append(take(event, self._access.clock()))
            if not self._batch:
                self._write_soon()
        except Exception:  # noqa: BLE001  # whatever is wrong with an application's class is no reason to stop the bus
            _log.exception("A %s is missing in the log of events", type(event).__name__)

    async def wait_for_room(self) -> None:
        """Wait until there is room; while the database is away or stuck, 50 ms or so."""
        while self.is_full:
            hurries = self._failures > 0 or self._stalled
            if not await self._next_write(_MOMENT_S if hurries else _PATIENCE_S):
                self._stalled = True
                return

    async def flush(self) -> None:
        """Wait until everything has been written, or a write has failed."""
        while self.unwritten:
            watcher = self._watch()
            self._write()
            await watcher
            if self._failures:
                return

    async def aclose(self) -> None:
        """Write what waits, and delete what is not to be kept. What could not be written stays in memory."""
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._failures:
            _log.error("%d events have not been written to the log: the database is away", self.unwritten)
        elif self._written:
            self._written = 0
            await asyncio.wrap_future(self._trimmer.run())

    def _write_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            self._loop, self._timer = loop, None
        if loop is None or not self._started or (len(self._waiting) >= _BATCH and not self._failures):
            self._started = True  # at once, so that the thread is there when the program ends: none can begin then
            self._write()
        elif self._timer is None:
            delay = min(_FIRST_RETRY_S * 2.0 ** (self._failures - 1), _LAST_RETRY_S) if self._failures else _LINGER_S
            self._timer = loop.call_later(delay, self._write)

    def _write(self) -> None:
        """Begin to write, unless that is under way."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        with self._lock:
            if self._batch or not self._waiting:
                return
            count = 1 if self._suspects else min(len(self._waiting), _BATCH)
            batch = self._batch = [self._waiting.popleft() for _ in range(count)]
        try:
            job = self._access.submit(partial(self._put, batch))
        except StoreError as error:
            self._ended(error)
        else:
            job.add_done_callback(lambda done: self._ended(done.exception()))

    def _put(self, batch: Sequence[TakenEvent], connection: Connection) -> None:
        connection.execute(self._insert, [taken.row() for taken in batch])

    def _ended(self, error: BaseException | None) -> None:
        """See to what a write has come to, in the thread of the database."""
        with self._lock:
            batch, watchers = self._batch, self._watchers
            self._watchers = []
            self._stalled = False
            one_by_one, self._suspects = self._suspects > 0, max(0, self._suspects - 1)
            if error is None:
                self._batch = ()
                self._failures = 0
                self._written += len(batch)
            elif not _blames_rows(error):
                self._keep(batch)
                self._suspects += one_by_one
                self._failures += 1
            elif len(batch) > 1:  # which of them it is, will be seen
                self._keep(batch)
                self._suspects = len(batch)
            else:
                self._batch = ()
                _log.error("A %s cannot be written to the log of events: %s", batch[0].event_type, error)
        if self._failures == 1 and self._access.worker.health.available:  # which otherwise has said so
            _log.info("Events cannot be written to the log: %s. They are kept until they can.", error)
        for watcher in watchers:
            with suppress(RuntimeError):  # its event loop is closed
                watcher.get_loop().call_soon_threadsafe(_wake, watcher)
        self._go_on()

    def _keep(self, batch: Sequence[TakenEvent]) -> None:
        self._waiting.extendleft(reversed(batch))
        self._batch = ()

    def _go_on(self) -> None:
        """After a write: delete what is not to be kept, and write what has come meanwhile."""
        if self._written >= _TRIM_EVERY:
            self._written = 0
            self._trimmer.run()
        if not self._waiting:
            return
        loop = self._loop
        if loop is None:
            if not self._failures:  # otherwise the next event tries again
                self._write()
            return
        with suppress(RuntimeError):  # it is closed; the next event, or the end of the program, goes on
            loop.call_soon_threadsafe(self._write_next)

    def _write_next(self) -> None:
        if self._waiting and not self._batch:
            self._write_soon()

    def _watch(self) -> asyncio.Future[None]:
        """Return what is done when the write that is under way, or the next, has ended; at once if nothing waits."""
        watcher = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._batch or self._waiting:
                self._watchers.append(watcher)
            else:
                watcher.set_result(None)
        return watcher

    async def _next_write(self, patience: float) -> bool:
        """Wait until a write has ended. Return whether it has, in so many seconds."""
        watcher = self._watch()
        await asyncio.wait((watcher,), timeout=patience)
        return watcher.done()

    def _write_last(self) -> None:
        """Have everything written that waits, before the program ends; also what may have been written."""
        with self._lock:
            rest = [*self._batch, *self._waiting]
        if rest:
            try:
                self._access.submit(partial(self._put, rest)).add_done_callback(partial(_report_lost, len(rest)))
            except StoreError as error:
                _log.error("%d events have not been written to the log: %s", len(rest), error)


def _wake(watcher: asyncio.Future[None]) -> None:
    if not watcher.done():
        watcher.set_result(None)


def _report_lost(count: int, job: Future[None]) -> None:
    if (error := job.exception()) is not None:
        _log.error("%d events have not been written to the log: %s", count, error)


def _blames_rows(error: BaseException) -> bool:
    """Return whether a write failed because of what was to be written."""
    return isinstance(error.__cause__, DataError | IntegrityError) or not isinstance(error, LLMgineError)


_every: WeakSet[DatabaseEventLog] = WeakSet()


def _at_exit() -> None:
    for log in list(_every):
        log._write_last()  # the thread of the database, whose end comes later, does what waits


def _after_fork_in_child() -> None:
    for log in list(_every):
        log._begin()  # what waits belongs to the parent


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
