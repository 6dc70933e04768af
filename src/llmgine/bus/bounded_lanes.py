"""Lanes in which only so many events may wait, those of all sessions together."""

from __future__ import annotations

import asyncio

from llmgine.bus.backpressure import STOPPED, BackpressureStrategy, QueueBound
from llmgine.bus.causality import Chain
from llmgine.bus.delivery import Delivery
from llmgine.bus.handler_task import Failure
from llmgine.bus.lane import Lane, Receipt
from llmgine.bus.lanes import Lanes
from llmgine.bus.offer_order import OfferOrder
from llmgine.bus.registry import HandlerRegistry
from llmgine.bus.room import Room
from llmgine.errors import QueueFullError
from llmgine.messages import Event, SessionID

__all__ = ["BoundedLanes"]


class BoundedLanes(Lanes):
    """The lanes of a bus that keep the account of a `QueueBound`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, registry: HandlerRegistry, delivery: Delivery, bound: QueueBound
    ) -> None:
        super().__init__(loop, registry, delivery)
        self._bound = bound
        self._order = OfferOrder()
        self._drops_oldest = bound.strategy is BackpressureStrategy.DROP_OLDEST
        if bound.strategy is BackpressureStrategy.ADAPTIVE_RATE_LIMIT:
            self.room = Room(loop, bound, self._lanes, self._waits)
        self._taken = self._note_taken

    def offer(self, session: SessionID, event: Event, chain: Chain | None) -> None:
        """Queue an event as `Lanes` does, if there is room or room can be made.

        Raises:
            QueueFullError: there is no room, and the strategy is REJECT_NEW.
        """
        self._bound.make_room(event, self._evict)
        super().offer(session, event, chain)
        self._note_queued(self._lanes[session])

    def begin(self, session: SessionID, event: Event, chain: Chain | None) -> Failure | Receipt:
        """Deliver an event as `Lanes` does. One that does not wait needs no room.

        Raises:
            DeadlockError: the lane waits, over however many others, for the handler that calls this.
            QueueFullError: the event would have to wait, there is no room, and the strategy is REJECT_NEW.
        """
        if session not in self._lanes:
            self._note_passed()
        return super().begin(session, event, chain)

    async def abandon(self, grace: float) -> int:
        """Cancel what is being delivered, and drop what waits, as `Lanes` does."""
        if self.room is not None:
            self.room.close()
        self._drop_all()
        return await super().abandon(grace)

    def disown(self) -> int:
        """Leave what is unfinished to a loop that the bus has nothing to do with any more. Return how much that is."""
        unfinished = super().disown()
        self._taken = None
        if self.room is not None:
            self.room.closed = True
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self.room.close)
        self._drop_all()
        return unfinished

    def _begin_nested(
        self, lane: Lane, session: SessionID, event: Event, chain: Chain | None
    ) -> Failure | asyncio.Task[Failure]:
        self._note_passed()
        return super()._begin_nested(lane, session, event, chain)

    def _queue_behind(self, lane: Lane, session: SessionID, event: Event, held: dict[SessionID, int]) -> Receipt:
        self._bound.make_room(event, self._evict)
        receipt = super()._queue_behind(lane, session, event, held)
        self._note_queued(lane)
        return receipt

    def _evict(self) -> Event:
        """Take out the oldest event of all that wait, and tell whoever waits for it."""
        queued = self._order.take_oldest().queue.popleft()
        if not isinstance(queued, tuple):
            return queued
        event, _, receipt = queued
        if receipt is not None:
            self._waits.forget(receipt)
            if not receipt.done():
                msg = (
                    f"{type(event).__name__} was dropped: {self._bound.maxsize} events waited, as many as may, and it "
                    "was the oldest when another was published."
                )
                receipt.set_exception(QueueFullError(msg, maxsize=self._bound.maxsize))
                receipt.exception()  # whoever waits may have been cancelled in this very turn; nobody need ask
        return event

    def _note_queued(self, lane: Lane) -> None:
        if self._drops_oldest:
            self._order.offered(lane)
        self._bound.enqueued()

    def _note_taken(self, lane: Lane) -> None:
        if self._drops_oldest:
            self._order.taken(lane)
        self._bound.dequeued()
        if self.room is not None:
            self.room.changed()

    def _note_passed(self) -> None:
        self._bound.passed()
        if self.room is not None:
            self.room.changed()  # where somebody had waited for the room that was not needed then

    def _drop_all(self) -> None:
        self._order.clear()
        for event in self.leave():
            self._bound.dropped(event, STOPPED)
