"""Events that are published now and delivered later: kept in a database if there is one, released when they are due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime

from llmgine.bus.clocks import utc_now
from llmgine.bus.memory_schedule import MemoryScheduleStore
from llmgine.bus.release import Deliver, Release
from llmgine.bus.stores import Held, ScheduleStore
from llmgine.errors import StoreError
from llmgine.messages import SessionID

__all__ = ["ScheduleReport", "Scheduler"]

_log = logging.getLogger("llmgine.bus.scheduling")
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0
"""Seconds from one attempt to reach a database that is away to the next: they double."""
_RESUME_AFTER = 0.1
"""Seconds after which the work goes on if its task was cancelled, and that was not the end of the event loop."""
_RECOVER_AFTER = 60.0
"""The same if it failed."""
_BATCH = 500


@dataclass(frozen=True)
class ScheduleReport:
    """What is left when a scheduler has stopped."""

    kept: int | None = 0
    """Events in the database, for whoever starts next; None if it does not say."""
    lost: int = 0
    """Events in memory only: they go with the process."""


class Scheduler:
    """Keeps events until they are due, on one event loop.

    One task releases them. It sleeps until the next is due, or a delivery has ended; where nothing is kept, for ever.
    """

    def __init__(
        self,
        deliver: Deliver,
        store: ScheduleStore | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        lease: float = 60.0,
    ) -> None:
        """Make a scheduler that has not started.

        Args:
            deliver: see `Deliver`; not called before `start`, nor after `pause`.
            store: where events outlive the process; None to keep them in memory.
            clock: the date: aware, UTC.
            lease: for how many seconds the store gives its claims. They are renewed in time.
        """
        self._deliver = deliver
        self._store = store
        self._clock = clock
        self._lease = lease
        self.after_fork()

    def after_fork(self) -> None:
        """Be as new: the loop, what is in memory and what is being delivered are the parent process's."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._cancelling = asyncio.Lock()
        self._stopping = False
        self._failures = 0  # of the database in its present outage; 0 while it is there
        self._retry_at = 0.0
        self._memory = MemoryScheduleStore(lease=self._lease, clock=self._clock)
        self._saving: set[str] = set()
        self._local = self._release(self._memory)
        self._shared = None if self._store is None else self._release(self._store)

    def _release(self, store: ScheduleStore) -> Release:
        return Release(store, self._deliver, clock=self._clock, lease=self._lease, rouse=self._rouse)

    def _rouse(self) -> None:
        self._wake.set()

    # What is held

    async def hold(self, held: Held) -> None:
        """Keep an event until it is due; it is on disk when this returns.

        While the database is away it is kept in memory, and delivered from there or written when the database is back.

        Raises:
            CodecError: it cannot be stored.
        """
        away = self._failures and self._task is not None  # then the task finds out when it is back
        if self._store is not None and self._shared is not None and not away and held.id not in self._saving:
            try:
                await self._store.add((held,))
            except StoreError as error:
                self._fail(error)
            else:
                if len(self._memory):
                    await self._memory.cancel((held.id,))  # which this one replaces
                self._shared.expect(held.due)
                return
        await self._memory.add((held,))
        self._local.expect(held.due)

    async def cancel(self, ids: Sequence[str]) -> int:
        """Forget events, of one that is being delivered only further occurrences. Return how many.

        Raises:
            StoreError: the database cannot be reached, and not all of them were in memory.
        """
        async with self._cancelling:
            cancelled = await self._memory.cancel(ids)
            if self._store is None:
                return cancelled
            several = len(set(ids))
            try:
                # Also those that were in memory: a write that seemed to fail may have come through.
                return min(several, cancelled + await self._store.cancel(ids))
            except StoreError:
                if cancelled == several:
                    return cancelled
                raise

    async def count(self) -> int:
        """Return how many events are kept.

        Raises:
            StoreError: the database cannot be reached.
        """
        async with self._cancelling:
            return len(self._memory) + (0 if self._store is None else await self._store.count())

    @property
    def unsaved(self) -> int:
        """How many events are in memory because the database is away."""
        return 0 if self._store is None else len(self._memory) + len(self._saving)

    @property
    def under_way(self) -> int:
        """How many events are being delivered."""
        return self._local.under_way + (0 if self._shared is None else self._shared.under_way)

    # Life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to release events, first those that came due before. Does nothing if it runs on this loop."""
        if self._task is not None and self._loop is loop:
            return
        self._loop = loop
        self._wake, self._cancelling, self._stopping = asyncio.Event(), asyncio.Lock(), False
        self._saving.clear()
        self._retry_at = 0.0
        for release in self._releases:
            release.restart()
        self._begin()

    def pause(self) -> None:
        """Release nothing more. What is being delivered may end, and is settled."""
        for release in self._releases:
            release.paused = True
        self._wake.set()

    async def stop(self) -> ScheduleReport:
        """End: settle what has been delivered, give back what has not, and write what is in memory only.

        To have nothing delivered again that still ends, `pause`, wait for it, and stop then.
        """
        self.pause()
        task, self._task, self._stopping = self._task, None, True
        if self._loop is not asyncio.get_running_loop():  # the loop that the task was on is gone
            task, self._cancelling = None, asyncio.Lock()
        if task is not None:
            try:
                await asyncio.wait((task,))
            finally:
                task.cancel()
        await self._local.end()
        if self._shared is None or self._store is None:
            return ScheduleReport(kept=0, lost=len(self._memory))
        kept: int | None = None
        try:
            while await self._save():
                pass
            await self._shared.end()
            kept = await self._store.count()
        except StoreError as error:
            self._fail(error)
            if unsettled := self._shared.unsettled:
                _log.error("%d scheduled events were delivered that the database still holds as waiting", unsettled)
        if lost := len(self._memory):
            _log.error("%d scheduled events could not be written, and end with this process", lost)
        return ScheduleReport(kept, lost)

    # The task

    @property
    def _releases(self) -> tuple[Release, ...]:
        return (self._local,) if self._shared is None else (self._local, self._shared)

    def _begin(self) -> None:
        loop = self._loop
        if loop is None or self._stopping:
            return
        # Handlers run in a context of their own, not in that of whoever happens to start this.
        self._task = loop.create_task(self._work(loop), name="llmgine scheduler", context=Context())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Go on, if the task was ended by somebody else."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("The scheduler failed, and goes on in a minute", exc_info=error)
        if self._task is task and self._loop is not None:
            self._loop.call_later(_RECOVER_AFTER if error else _RESUME_AFTER, self._begin, context=Context())

    async def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._wake.clear()
            await self._turn(loop)
            if self._stopping:
                return
            delay = self._delay(loop)
            timer = None if delay is None else loop.call_later(delay, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        shared = self._shared
        # While the database is there, everything is released from it, and so in one order.
        await self._local.turn(claiming=shared is None or self._failures > 0)
        if shared is None or (self._failures and (loop.time() < self._retry_at or self._stopping)):
            return
        try:
            more = await self._save()
            await shared.turn()
        except StoreError as error:
            self._fail(error)
            return
        if self._failures:
            self._failures = 0
            _log.info("The database of scheduled events is back")
        if more:
            self._wake.set()

    def _delay(self, loop: asyncio.AbstractEventLoop) -> float | None:
        shared = self._shared
        delays = [self._local.delay(claiming=shared is None or self._failures > 0)]
        if shared is not None:
            delays.append(max(0.0, self._retry_at - loop.time()) if self._failures else shared.delay())
        return min((delay for delay in delays if delay is not None), default=None)

    def _fail(self, error: StoreError) -> None:
        """Note that the database is away, and when to try again."""
        now = 0.0 if self._loop is None else self._loop.time()
        if self._failures and now < self._retry_at:
            return
        if not self._failures:
            _log.info("The database of scheduled events is away; new ones are kept in memory meanwhile: %s", error)
        self._retry_at = now + min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(self._failures, 10))
        self._failures += 1
        if self._shared is not None:
            self._shared.ask_again()
        self._wake.set()

    async def _save(self) -> bool:
        """Write a batch of what is in memory only, and further ones until nothing is left that is due.

        Returns:
            Whether there is more.
        """
        more = self._store is not None and len(self._memory) > 0
        while more and self._store is not None and self._shared is not None:
            async with self._cancelling:
                taken = self._memory.take(_BATCH)
                if not taken:  # what there is is being delivered
                    return False
                self._saving = {each.id for each in taken}
                try:
                    await self._store.add(taken)
                except BaseException:
                    await self._memory.put_back(taken)
                    raise
                finally:
                    self._saving = set()
            self._shared.expect(taken[0].due)
            more = len(taken) == _BATCH
            if taken[-1].due > self._clock():
                break
        return more

    # Last, because it hides the type of its name.
    async def list(self, *, session_id: SessionID | None = None, limit: int | None = None) -> list[Held]:
        """Return events by the time they are due; not those that are being delivered here and do not repeat.

        Raises:
            StoreError: the database cannot be reached.
        """
        async with self._cancelling:
            released = {id_ for release in self._releases for id_ in release.released}
            enough = None if limit is None else limit + len(released)
            held = await self._memory.list(session_id=session_id, limit=enough)
            if self._store is not None:
                held += await self._store.list(session_id=session_id, limit=enough)
                held.sort(key=lambda each: each.due)
        return [each for each in held if each.recurrence is not None or each.id not in released][:limit]
