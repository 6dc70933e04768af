"""Events: from whoever publishes them to the lane of their session, and what becomes of those that failed."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from datetime import UTC, datetime
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from llmgine.bus.causality import current, stamp
from llmgine.bus.execution import CommandExecution
from llmgine.bus.failures import Failures
from llmgine.bus.handler_task import Failure
from llmgine.bus.interfaces import EventHandler
from llmgine.bus.lanes import Lanes
from llmgine.bus.metrics import Counter
from llmgine.bus.options import check_number
from llmgine.errors import BusNotRunningError, QueueFullError
from llmgine.messages import Command, Event
from llmgine.messages.events import EventHandlerFailedEvent
from llmgine.messages.ids import BUS
from llmgine.messages.message import origin_of

if TYPE_CHECKING:
    from llmgine.bus.backpressure import QueueBound
    from llmgine.bus.kept import Kept
    from llmgine.bus.stores import Held
    from llmgine.messages.scheduled_events import ScheduledEvent

__all__ = ["EventPublication"]

_log = logging.getLogger("llmgine.bus")


class EventPublication(CommandExecution):
    """The part of a bus that publishes events."""

    _lanes: Lanes | None = None  # None while the bus does not run
    _buffer: list[Event] | None  # what is published before; None once the bus has been stopped
    _stopping: bool
    _thread: int
    _failures: Failures
    _published: Counter
    _handlers_failed: Counter
    _kept: Kept
    _bound: QueueBound | None = None  # of the events that wait, where it was given one

    # The path of every event, written out: a call costs a tenth of it. `await_processing` is published as it is.
    async def publish(self, event: Event, await_processing: bool = True) -> None:  # noqa: FBT001, FBT002, PLR0912
        """Deliver an event to its handlers, in the order of its session; a `ScheduledEvent` when its time has come.

        Args:
            event: goes to the handlers of the bus and of its session, by ascending priority.
            await_processing: return when those have finished; if False, as soon as the event is queued. Before `start`
                the event is kept and the call returns at once. A `ScheduledEvent` is never waited for: if its time is
                yet to come, the call returns when it is on disk, if there is a database, and raises `CodecError` if it
                holds what cannot be stored.

        Raises:
            BusNotRunningError: the bus has been stopped, or runs in another thread.
            DeadlockError: the session waits for the handler that publishes.
            QueueFullError: as many events wait as may, and this one was refused, or dropped while this waited for it.
            ConfigurationError: this is no event, or its class is broken.
            Exception: what a handler raised, while errors are unsuppressed and processing is awaited.
        """
        if type(event) not in self._registry.known_events:
            self._registry.check_event(event)
            if event._has_time:
                await_processing = False
                if (held := _held(event)) is not None:
                    await self._publish_later(held)
                    return
        chain = current.get()
        if chain is not None:
            stamp(event, chain)
        lanes = self._lanes
        if lanes is None or (self._stopping and chain is None):
            self._keep(event)
            self._published.unlocked += 1
            return
        if get_ident() != self._thread:
            self._refuse_thread()
        self._published.unlocked += 1
        session = event.session_id or BUS
        if not self._gate.open:
            log = self._kept.event_log
            if log is not None and log.is_full:
                await log.wait_for_room()
                if self._lanes is not lanes:
                    self._keep(event)
                    return
            if not self._gate.admit(event, session):
                return
        if lanes.room is not None:
            await lanes.room.claim(session, chain, at_once=await_processing)
        if not await_processing:
            lanes.offer(session, event, chain)
            return
        outcome = lanes.begin(session, event, chain)
        if isinstance(outcome, asyncio.Future):
            outcome = await lanes.outlast(outcome)
        if outcome is not None and not self._failures.suppressed:
            raise outcome

    def add_pending_event(self, event: Event) -> None:
        """Publish an event when the handler that calls this has succeeded; drop it if the handler fails.

        A command that is executed outside of any event handler has ended only when its pending events have been
        handled.

        Raises:
            BusError: no handler is running.
            BusNotRunningError: the bus has been stopped.
        """
        self._registry.check_event(event)
        if self._lanes is None and self._buffer is None:
            self._keep(event)
        self._pending.add(event)

    async def wait_for_events(self) -> None:
        """Wait until no event is queued or being handled.

        Raises:
            DeadlockError: called by an event handler, which would wait for itself.
        """
        if self._lanes is not None:
            await self._lanes.idle()

    def suppress_event_errors(self) -> None:
        """Keep the failures of event handlers from their publishers; the default."""
        self._failures.suppressed = True

    def unsuppress_event_errors(self) -> None:
        """Raise the first failure of an event's handlers to its waiting publisher."""
        self._failures.suppressed = False

    def set_error_history_limit(self, limit: int) -> None:
        """Keep at most `limit` failures in `event_handler_errors`.

        Raises:
            ConfigurationError: `limit` is no number, or negative.
        """
        check_number("limit", limit, int, "how many errors to keep, 0 or more")
        self._failures.limit(limit)

    @property
    def event_handler_errors(self) -> list[BaseException]:
        """The latest failures of event handlers, oldest first."""
        return self._failures.latest

    # Inside

    @abstractmethod
    async def _publish_later(self, held: Held) -> None:
        """Keep an event until it is due."""

    @abstractmethod
    def _publish_later_soon(self, held: Held) -> None:
        """Keep an event until it is due; begin to, without waiting for it."""

    def _queue_size(self) -> int:
        return self._lanes.queued if self._lanes is not None else len(self._buffer or ())

    async def _publish_pending(self, events: list[Event], *, wait: bool) -> None:
        """Publish what a command's handler left pending; wait for it unless somebody else waits for us."""
        left = deque(events)
        try:
            while left and wait and (lanes := self._lanes) is not None:
                event = left.popleft()
                if (held := _held(event)) is not None:
                    await self._publish_later(held)
                    continue
                self._published.unlocked += 1
                session = event.session_id or BUS
                if self._gate.open or self._gate.admit(event, session):
                    try:
                        outcome = lanes.begin(session, event, None)
                        if isinstance(outcome, asyncio.Future):
                            await lanes.outlast(outcome)
                    except QueueFullError as error:
                        _log.warning("An event that a handler left is lost. %s", error)
        finally:
            for event in left:  # also when the wait was cancelled
                self._offer_pending(event)

    def _offer_pending(self, event: Event) -> None:
        if self._lanes is None and self._buffer is None:
            _log.warning("The bus was stopped before the handler had ended that left %s", type(event).__name__)
            return
        if (held := _held(event)) is not None:
            self._publish_later_soon(held)
            return
        self._published.unlocked += 1
        if not self._offer(event):
            _log.warning("%s, which a handler left, is lost: the queue is full", type(event).__name__)

    def _handler_ended(self, event: Event, handler: EventHandler, error: Failure) -> None:
        """See to an event handler that failed, or that left events pending."""
        pending = self._pending.take() if self._pending else []
        if error is None:
            for each in pending:
                self._offer_pending(each)
            return
        self._handlers_failed.unlocked += 1
        name = self._failures.note(event, handler, error)
        if not isinstance(event, EventHandlerFailedEvent):
            failure = EventHandlerFailedEvent(event=event, handler=name, exception=error, session_id=event.session_id)
            self._announce(failure, event)

    def _announce(self, event: Event, cause: Command[Any] | Event) -> None:
        """Publish an event of the bus's own, without waiting and without cost where nobody listens."""
        _note_cause(event, cause)
        if self._lanes is None or self._registry.event_plan(type(event), event.session_id or BUS):
            self._offer(event)
        elif not self._gate.open:
            self._gate.admit(event, event.session_id or BUS)

    def _offer(self, event: Event) -> bool:
        """Queue an event, or keep it until the bus is started; drop it if that has been stopped.

        Returns:
            Whether there was room for it.
        """
        try:
            if self._lanes is None:
                if self._buffer is not None:
                    self._put_by(event, self._buffer)
                return True
            session = event.session_id or BUS
            if self._gate.open or self._gate.admit(event, session):
                self._lanes.offer(session, event, current.get())
        except QueueFullError:  # which is counted; the bus itself has nobody to tell
            return False
        return True

    def _refuse_thread(self) -> None:
        msg = (
            "The bus runs on the event loop of another thread. Publish there (asyncio.run_coroutine_threadsafe), "
            "or from synchronous code by llmgine.messages.bus.message_bus.publish."
        )
        raise BusNotRunningError(msg)

    def _keep(self, event: Event) -> None:
        if self._buffer is None or self._stopping:
            msg = f"The bus has been stopped; {type(event).__name__} was not published. Start it again first."
            raise BusNotRunningError(msg)
        self._put_by(event, self._buffer)

    def _put_by(self, event: Event, buffer: list[Event]) -> None:
        """Keep an event until the bus is started, if there is room or room can be made."""
        if self._bound is not None:
            self._bound.make_room(event, lambda: buffer.pop(0))
        buffer.append(event)
        if self._bound is not None:
            self._bound.enqueued()

    def _note_lost(self, event: Event, reason: str) -> None:
        """Count an event that is lost to backpressure, and show that to observers."""
        from llmgine.bus.backpressure import EventDroppedEvent  # which a bus without a bound does not need

        self._metrics.inc_counter("events_dropped_total", labels={"reason": reason})
        if self._gate.observers:
            lost = EventDroppedEvent(event=event, reason=reason, session_id=event.session_id)
            _note_cause(lost, event)
            self._gate.show(lost)


def _note_cause(event: Event, cause: Command[Any] | Event) -> None:
    own, correlation, _, traceparent = origin_of(cause)
    event._identity = origin_of(event)[0], correlation or own, own, event.traceparent or traceparent


def _held(event: Event) -> Held | None:
    """Return an event whose time has not come, as it is held until then; None for others."""
    if not event._has_time:
        return None
    from llmgine.bus import stores  # what a bus without such events does not need
    from llmgine.messages.scheduled_events import due

    moment = due(cast("ScheduledEvent", event))
    return stores.Held.of(event, moment) if moment > datetime.now(UTC) else None
