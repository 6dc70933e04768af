"""Publishers who wait before their events are queued: longer the fuller the queue, and for room when it is full."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict

from llmgine.bus.backpressure import QueueBound
from llmgine.bus.causality import Chain
from llmgine.bus.lane import Lane
from llmgine.bus.waits import Waits
from llmgine.errors import BusNotRunningError
from llmgine.messages import SessionID

__all__ = ["LONGEST_DELAY", "Room"]

LONGEST_DELAY = 0.01
"""Seconds that a publisher waits in front of a full queue before it looks for room.

In front of one that is emptier it waits less, in proportion to how far the low water mark is passed; up to that mark,
not at all.
"""


class Room:
    """Room among the waiting events of a bus, under ADAPTIVE_RATE_LIMIT.

    Whoever publishes from within the handler of an event waits for its delay only and is then let through, also over
    the bound: there may be room only when that handler has ended.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bound: QueueBound, lanes: dict[SessionID, Lane], waits: Waits
    ) -> None:
        self._lanes = lanes
        self._waits = waits
        self._publishers = _Line(loop, bound, for_room=True)
        self._handlers = _Line(loop, bound, for_room=False)
        self.closed = False
        """Whether nobody is let through any more."""

    async def claim(self, session: SessionID, chain: Chain | None, *, at_once: bool) -> None:
        """Wait until an event may be offered, which must happen before anything else does.

        Events that are delivered at once wait for nothing, unless one of their session, published before, still does.

        Args:
            session: whose event it is.
            chain: the publisher's.
            at_once: deliver it at once where nothing stands in the way, because the publisher waits for it.

        Raises:
            BusNotRunningError: the bus was stopped meanwhile.
        """
        held = self._waits.held_by(chain)
        line = self._handlers if held else self._publishers
        if at_once and session not in line.sessions and (session in held or session not in self._lanes):
            return
        await line.wait(session)
        if self.closed:
            raise _refused()

    def changed(self) -> None:
        """Let through who may go, now that fewer events wait."""
        self._publishers.let_through()
        self._handlers.let_through()

    def refuse(self) -> None:
        """Tell those who wait for room that there will be none."""
        self._publishers.refuse()

    def close(self) -> None:
        """Refuse everybody, from now on."""
        self.closed = True
        self._publishers.refuse()
        self._handlers.refuse()


class _Line:
    """Those who wait, first come first served."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound: QueueBound, *, for_room: bool) -> None:
        self.sessions: Counter[SessionID] = Counter()
        """How many events of each session wait here."""
        self._loop = loop
        self._bound = bound
        self._for_room = for_room
        self._waiting: OrderedDict[asyncio.Future[None], float] = OrderedDict()
        """The turn of each, and the time of the loop before which it does not come."""
        self._told = 0
        """How many have been told something and have not gone on yet."""
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, session: SessionID) -> None:
        """Wait for one's turn."""
        ahead = len(self._waiting) + self._told
        delay = self._delay(ahead)
        if not (ahead or delay or (self._for_room and self._bound.full)):
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting[turn] = self._loop.time() + delay
        self.sessions[session] += 1
        self._loop.call_soon(self.let_through)  # not at once: those who were told to go on have not gone yet
        try:
            await turn
        except BaseException:  # refused, or cancelled, perhaps when told to go on already: then the next one may
            self._leave(turn, session)
            self.let_through()
            raise
        self._leave(turn, session)

    def let_through(self) -> None:
        """Tell those to go on whose turn has come."""
        bound = self._bound
        while self._waiting:
            turn, due = next(iter(self._waiting.items()))
            if self._for_room and bound.size + self._told >= bound.maxsize:
                return
            if bound.size + self._told > bound.low and self._loop.time() < due:
                self._wake_at(due)
                return
            del self._waiting[turn]
            self._told += 1
            if not turn.done():  # as it is when who waited has been cancelled in this very turn of the loop
                turn.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refuse(self) -> None:
        """Tell everybody that the bus stops."""
        self._told += len(self._waiting)
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(_refused())
                turn.exception()  # who waits may be cancelled before it looks
        self._waiting.clear()

    def _delay(self, ahead: int) -> float:
        bound = self._bound
        over = bound.size + ahead - bound.low
        return LONGEST_DELAY * min(1.0, max(0, over) / (bound.maxsize - bound.low))

    def _leave(self, turn: asyncio.Future[None], session: SessionID) -> None:
        if self._waiting.pop(turn, None) is None:
            self._told -= 1
        self.sessions[session] -= 1
        if not self.sessions[session]:
            del self.sessions[session]

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.let_through()


def _refused() -> BusNotRunningError:
    return BusNotRunningError("The bus was stopped while the publisher waited for room; the event was not published.")
