"""What outlives the process: events that wait for their time, dead letters, the log of events, and where they are."""

from __future__ import annotations

import asyncio
import logging
import os
from abc import abstractmethod
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from llmgine.bus.causality import current, stamp
from llmgine.bus.interfaces import EventHandler
from llmgine.bus.kept import Kept
from llmgine.bus.publication import EventPublication
from llmgine.errors import BusNotRunningError, ConfigurationError, QueueFullError, StoreError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.ids import BUS

if TYPE_CHECKING:
    from llmgine.bus.replay import ReplayReport
    from llmgine.bus.resilience.dead_letters import DeadLetters
    from llmgine.bus.scheduling import Scheduler
    from llmgine.bus.stores import Held, Misfire, Stores

__all__ = ["Durability"]

_log = logging.getLogger("llmgine.bus")
_STATES = {"closed": 0, "open": 1, "half_open": 2, "isolated": 1}
"""Of circuit breakers, as figures."""
_DEFAULT_FILE = "message_bus.db"
"""Of a process in whose environment no other database is named."""


class Durability(EventPublication):
    """The part of a bus that keeps what must outlive it.

    The application's bus keeps things in the database that the environment names; another bus in the one that it is
    given, or else in memory.
    """

    _loop: asyncio.AbstractEventLoop | None

    @property
    @abstractmethod
    def _is_application(self) -> bool:
        """Whether it is the application's bus."""

    async def schedule(
        self,
        event: Event,
        *,
        at: datetime | None = None,
        after: float | timedelta | None = None,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        misfire: Misfire | Literal["once", "all", "skip"] = "once",
    ) -> str:
        """Publish an event later, or again and again. It is on disk when this returns, if there is a database.

        Args:
            event: delivered as if it were published then. Of one that repeats, each occurrence has an id of its own.
            at: when; a date without a zone is local time.
            after: how long from now, in seconds.
            every: how long from one occurrence to the next, in seconds; the first comes at `at`, after `after`, or when
                so long has passed.
            cron: five fields, minute, hour, day, month and weekday, such as "0 9 * * mon-fri".
            timezone: of `cron`, such as "Europe/Berlin"; UTC if it is left out.
            misfire: what becomes of occurrences that came due while nothing ran.

        Returns:
            What `cancel_scheduled` takes.

        Raises:
            ConfigurationError: the arguments contradict each other or make no sense.
            CodecError: the event holds something that cannot be stored.
            BusNotRunningError: the bus has been stopped.
        """
        from llmgine.bus.planning import plan

        self._registry.check_event(event)
        held = plan(event, at=at, after=after, every=every, cron=cron, timezone=timezone, misfire=misfire)
        await self._publish_later(held)
        return held.id

    async def cancel_scheduled(self, *ids: str) -> int:
        """Forget scheduled events. Return how many.

        One that is being delivered is forgotten, and counted, only if it repeats: it does not come again.

        Raises:
            StoreError: the database cannot be reached.
        """
        return await self._open_scheduler().cancel(ids)

    async def scheduled(self, session_id: SessionID | None = None, *, limit: int | None = None) -> list[Held]:
        """Return the events that wait for their time, by when they are due.

        Raises:
            StoreError: the database cannot be reached.
        """
        return await self._open_scheduler().list(session_id=session_id, limit=limit)

    async def replay(
        self,
        session_id: SessionID | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        types: Collection[type[Event] | str] = (),
        handlers: Collection[EventHandler] | None = None,
        tools: bool = False,
    ) -> ReplayReport:
        """Run handlers again on events of the log, in the order in which they were published.

        The events are copies whose `metadata["replay"]` is True. Only the handlers see them: no observer, no filter,
        and they are not written to the log again. What the handlers publish and execute is real.

        Args:
            session_id: only its events.
            since: only those from then on.
            until: only those from before then.
            types: only those of these classes, or of classes with these names; not of their subclasses.
            handlers: only these, as they were registered; by default all that hear an event.
            tools: let handlers use tools; otherwise each call of a tool fails and says why.

        Raises:
            ConfigurationError: this bus has no log of events.
            StoreError: the log cannot be read.
        """
        from llmgine.bus.replay import replay

        stores = self._open_stores()
        if stores is None:
            msg = "This bus keeps no log of events to replay. Give it a database: MessageBus(database=…)."
            raise ConfigurationError(msg)
        names = [each if isinstance(each, str) else each.__name__ for each in types]
        events = stores.read_events(session_id, since=since, until=until, types=names)
        return await replay(events, self._registry, handlers, tools=tools)

    @property
    def dead_letters(self) -> DeadLetters | None:
        """The commands that failed for good; None where no policy keeps them."""
        return self._kept.letters

    # Inside

    def _set_up_durability(self, options: dict[str, Any]) -> None:
        """Begin with nothing held, and nothing opened."""
        since = kept.letters_since if (kept := getattr(self, "_kept", None)) is not None else 0
        self._kept = Kept(options["database"], since)
        by_type = options["policies"]
        policies = [options["policy"], *(by_type.values() if isinstance(by_type, Mapping) else ())]
        if any(getattr(policy, "dead_letters", False) for policy in policies):
            self._kept.letters = self._make_letters(options["max_dead_letters"])
        self._set_policies(options["policy"], by_type, self._kept.letters, self._announce_policy)

    def _make_letters(self, max_size: int) -> DeadLetters:
        from llmgine.bus.resilience.dead_letters import DeadLetters
        from llmgine.bus.resilience.memory_dead_letters import MemoryDeadLetterStore

        stores = self._open_stores()
        store = MemoryDeadLetterStore() if stores is None else stores.dead_letters
        letters = DeadLetters(store, max_size=max_size, announce=self._announce_policy)
        letters.since = self._kept.letters_since
        return letters

    async def _forget_letters(self) -> None:
        """See no more of the letters that there are: they stay in the database for others."""
        if self._kept.letters is not None and self._kept.letters.size and self._kept.stores is not None:
            with suppress(StoreError):
                self._kept.letters_since = await self._kept.stores.dead_letters.position()

    def _announce_policy(self, event: Event, command: Command[Any] | None) -> None:
        """Publish what a policy has done; without a command, somebody has done it by hand."""
        from llmgine.messages.events import CircuitBreakerChangedEvent  # which a bus without policies does not need

        if isinstance(event, CircuitBreakerChangedEvent):
            gauge = self._metrics.gauges["circuit_breaker_state"]
            gauge.set(_STATES.get(event.state, 1), {"name": event.name})
        if command is None:
            self._offer(event)
        else:
            self._announce(event, command)

    def _breaker_figure(self) -> int:
        """Return 1 if any circuit breaker is open, or else 2 if any is half-open, or else 0."""
        breakers = self._policies.breakers.values() if self._policies is not None else ()
        figures = {_STATES.get(breaker.state.value, 1) for breaker in breakers}
        return 1 if 1 in figures else max(figures, default=0)

    def _open_stores(self) -> Stores | None:
        """Return where things are kept, or None. The database itself is opened when it is first needed."""
        if self._kept.stores is None and (self._kept.database is not None or self._is_application):
            if isinstance(self._kept.database, str | None):
                from llmgine.database.stores import open_stores  # above this layer: loaded for those who need it

                self._kept.stores = open_stores(self._kept.database)
            else:
                self._kept.stores = self._kept.database
        return self._kept.stores

    def _stores_in_use(self) -> Stores | None:
        """Return where things are kept, if anything may be there or is to be put there right away."""
        if self._kept.database is None:
            named = os.environ.get("LLMGINE_DB_URL") or os.environ.get("LLMGINE_PERSIST_EVENTS") == "1"
            there = os.path.exists(_DEFAULT_FILE)  # noqa: PTH110  # pathlib takes longer to load than the bus
            if not (self._is_application and (named or there)):
                return self._kept.stores
        return self._open_stores()

    def _open_scheduler(self) -> Scheduler:
        if self._kept.scheduler is None:
            from llmgine.bus.scheduling import Scheduler

            stores = self._open_stores()
            if stores is None:
                self._kept.scheduler = Scheduler(self._release)
            else:
                self._kept.scheduler = Scheduler(self._release, stores.schedule, lease=stores.schedule.lease)
            if self._lanes is not None and self._loop is not None:
                self._kept.scheduler.start(self._loop)
        return self._kept.scheduler

    def _begin_log(self) -> None:
        """Write down every event from now on, if that is wanted."""
        stores = self._stores_in_use()
        if self._kept.event_log is None and stores is not None and (log := stores.event_log) is not None:
            self._kept.event_log = log
            self._gate.add_observer(self._kept.event_log.append)

    def _end_log(self) -> None:
        if self._kept.event_log is not None:
            self._gate.remove_observer(self._kept.event_log.append)
            self._kept.event_log = None

    async def _begin_schedule(self) -> None:
        """Release what is due from now on, also what was held by an earlier process."""
        stores = self._stores_in_use()
        if stores is not None and self._kept.letters is not None:
            with suppress(StoreError):  # they are counted when the first is written
                await self._kept.letters.refresh()
        if self._kept.scheduler is not None and self._loop is not None:
            self._kept.scheduler.start(self._loop)
            return
        if stores is None:
            return
        try:
            waiting = await stores.holds_schedule()
        except StoreError:
            waiting = True  # the scheduler tries again, and says so
        if waiting and self._lanes is not None:
            self._open_scheduler()

    def _pause_schedule(self) -> None:
        if self._kept.scheduler is not None:
            self._kept.scheduler.pause()

    async def _end_durability(self) -> tuple[int, int]:
        """Write what is to be written, and close what is open.

        Returns:
            How many events are held for the next start, and how many were held in memory and are lost.
        """
        kept = lost = 0
        if self._kept.holding:
            await asyncio.wait(self._kept.holding)
        if self._kept.scheduler is not None:
            report = await self._kept.scheduler.stop()
            kept, lost = report.kept or 0, report.lost
        if self._kept.letters is not None and (unwritten := await self._kept.letters.flush()):
            _log.error("%d dead letters could not be written, and end with this process", unwritten)
        self._end_log()
        await self._close_stores()
        return kept, lost

    def _leave_durability(self) -> None:
        """Be as if nothing were held or opened: that is the parent process's."""
        self._kept.holding.clear()
        if self._kept.scheduler is not None:
            self._kept.scheduler.after_fork()
        self._end_log()

    async def _close_stores(self) -> None:
        if self._kept.stores is not None:
            await self._kept.stores.aclose()

    async def _publish_later(self, held: Held) -> None:
        event: Any = held.event
        chain = current.get()
        if chain is not None:
            stamp(event, chain)
        if self._lanes is not None and get_ident() != self._thread:
            self._refuse_thread()
        if (self._lanes is None and self._buffer is None) or (self._stopping and chain is None):
            self._keep(event)  # which refuses it
        self._published.unlocked += 1
        if self._gate.open or self._gate.admit(event, event.session_id or BUS):
            await self._open_scheduler().hold(held)

    def _publish_later_soon(self, held: Held) -> None:
        task = asyncio.get_running_loop().create_task(self._publish_later(held))
        self._kept.holding.add(task)
        task.add_done_callback(self._kept.holding.discard)

    def _release(self, event: Event) -> asyncio.Future[Any] | None:
        """Deliver an event that was held. Return what is done when its handlers have finished, if they have not."""
        lanes = self._lanes
        if lanes is None:
            msg = "The bus has been stopped."
            raise BusNotRunningError(msg)
        ended = asyncio.get_running_loop().create_future()
        try:
            delivery = lanes.begin(event.session_id or BUS, event, None)
        except QueueFullError as error:
            ended.set_exception(error)
            return ended
        if not isinstance(delivery, asyncio.Future):
            return None

        def tell(delivery: asyncio.Future[Any]) -> None:
            error = None if delivery.cancelled() else delivery.exception()
            if delivery.cancelled() or isinstance(error, BusNotRunningError):
                ended.cancel()
            elif isinstance(error, QueueFullError):
                ended.set_exception(error)
            else:
                ended.set_result(None)

        delivery.add_done_callback(tell)
        return ended
