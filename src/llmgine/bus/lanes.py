"""The order of each session: one lane, in which events are delivered one after another, as they were offered.

A lane exists while it has work. A waiting publisher that finds no lane delivers its event at once; everything else
queues, and is worked off by callbacks of the event loop, which no task owns and nobody can cancel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, cast

from llmgine.bus import causality
from llmgine.bus.causality import Chain
from llmgine.bus.delivery import Delivery, outcome_of
from llmgine.bus.handler_task import Failure
from llmgine.bus.lane import Lane, Receipt
from llmgine.bus.registry import HandlerRegistry
from llmgine.bus.waits import Waits
from llmgine.errors import BusNotRunningError, DeadlockError
from llmgine.messages import Event, SessionID

if TYPE_CHECKING:
    from llmgine.bus.room import Room

__all__ = ["Lanes"]

_numbers = count(1)
_SPARE_LANES = 64
"""How many lanes without work are kept, because making one costs more than delivering a small event."""
_RESUME_AFTER = 0.1
"""Seconds after which a lane goes on whose delivery was cancelled from outside.

Where that was the end of the event loop, it does not go on: what is queued is kept for the next one.
"""


class Lanes:
    """The lanes of a bus on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, registry: HandlerRegistry, delivery: Delivery) -> None:
        self.batch_size = 10
        """How many queued events of a lane are delivered before other tasks get their turn."""
        self.finished = 0
        """How many deliveries have ended."""
        self.room: Room | None = None
        """Where publishers wait before their events are queued, if they have to."""
        self._taken: Callable[[Lane], None] | None = None
        """Told of each event that its lane takes out of its queue, if somebody counts them."""
        self._loop = loop
        self._registry = registry
        self._delivery = delivery
        self._lanes: dict[SessionID, Lane] = {}
        self._spare: list[Lane] = []
        self._idle: list[asyncio.Future[None]] = []
        self._waits = Waits(self._lanes)
        self._task_numbers: dict[Receipt, int] = {}
        """The number of each delivery that began at once and waits."""
        self._abandoning = False

    @property
    def queued(self) -> int:
        """How many events wait in queues."""
        return sum(len(lane.queue) for lane in list(self._lanes.values()))  # another thread may ask

    @property
    def unfinished(self) -> int:
        """How many events wait or are being delivered."""
        lanes = list(self._lanes.values())
        return sum(len(lane.queue) + bool(lane.delivery) + len(lane.nested) for lane in lanes)

    def offer(self, session: SessionID, event: Event, chain: Chain | None) -> None:
        """Queue an event, offered from within `chain`; return at once."""
        lane = self._lanes.get(session)
        context = copy_context()
        if lane is None:
            lane = self._lanes[session] = self._spare.pop() if self._spare else Lane()
            lane.context, lane.chain = context, chain
            self._go_on(session, lane)
        elif lane.stalled:
            self._resume(session, lane)
        if lane.context is None:
            lane.context, lane.chain = context, chain
        elif chain is not lane.chain or not _same(context, lane.context):
            lane.queue.append((event, context, None))
            return
        lane.queue.append(event)

    def begin(self, session: SessionID, event: Event, chain: Chain | None) -> Failure | Receipt:
        """Deliver an event in its turn. Return what came of it if that is known already, else what `outlast` waits for.

        Args:
            session: whose lane it is.
            event: what to deliver.
            chain: the caller's.

        Raises:
            DeadlockError: the lane waits, over however many others, for the handler that calls this.
        """
        lane = self._lanes.get(session)
        if lane is not None:
            return self._begin_behind(lane, session, event, chain)
        registry = self._registry
        scope = registry.scopes.get(session, registry.bus_scope)
        plans = scope.event_plans
        if scope.version == registry.version and type(event) in plans:
            plan = plans[type(event)]
        else:
            plan = registry.event_plan(type(event), session)
        if not plan:
            return None
        lane = self._lanes[session] = self._spare.pop() if self._spare else Lane()
        lane.delivery = number = next(_numbers)
        try:
            outcome = self._delivery.begin(event, plan, session, number, chain)
        except BaseException:
            self._end(session, lane, None)
            raise
        if outcome is None and not (lane.queue or lane.nested or self._idle):  # as `_end` would, without the calls
            self.finished += 1
            lane.delivery = 0
            del self._lanes[session]
            self._spare.append(lane)
        elif isinstance(outcome, asyncio.Task):
            self._task_numbers[outcome] = number
            self._end_later(session, lane, outcome)
        else:
            self._end(session, lane, outcome)
        return outcome

    async def outlast(self, delivery: Receipt) -> Failure:
        """Wait for a delivery. Cancelling the wait does not cancel the delivery."""
        try:
            await asyncio.wait((delivery,))
        except asyncio.CancelledError:
            self._give_up(delivery)
            raise
        if self._abandoning and delivery.cancelled():
            raise _abandoned()
        return outcome_of(delivery) if isinstance(delivery, asyncio.Task) else delivery.result()

    async def idle(self) -> None:
        """Wait until no event waits or is being delivered.

        Raises:
            DeadlockError: called by a handler of an event, which would wait for itself.
        """
        if held := list(self._waits.held_by(causality.current.get())):
            msg = (
                f"An event handler in session {held[0]} waits until no event is being handled, its own included. "
                "Wait outside the handler, or in a task that it starts and does not wait for."
            )
            raise DeadlockError(msg, cycle=(held[0], held[0]))
        while self._lanes:
            for session, lane in self._lanes.items():
                self._resume(session, lane)
            emptied: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(emptied)
            await emptied

    async def abandon(self, grace: float) -> int:
        """Cancel what is being delivered, drop what waits, and tell whoever waits for it. Nothing may be offered since.

        Returns:
            How many events were not delivered to their end.
        """
        abandoned = self.unfinished
        self._abandoning = self._delivery.handlers.abandoning = True
        for lane in self._lanes.values():
            for queued in lane.queue:
                if isinstance(queued, tuple) and queued[2] is not None:
                    self._answer(queued[2], None)
            lane.queue.clear()
        under_way = [task for lane in self._lanes.values() for task in (lane.task, *lane.nested.values()) if task]
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=grace)
        for lane in self._lanes.values():
            if lane.receipt is not None:
                self._answer(lane.receipt, None)
        self._lanes.clear()
        self._tell_idle()
        return abandoned

    def disown(self) -> int:
        """Leave what is unfinished to a loop that the bus has nothing to do with any more. Return how much that is."""
        return self.unfinished

    def leave(self) -> list[Event]:
        """Return the events that wait, when the loop they waited on is gone."""
        queues = (lane.queue for lane in self._lanes.values())
        return [queued[0] if isinstance(queued, tuple) else queued for queue in queues for queued in queue]

    # One delivery after another

    def _go_on(self, session: SessionID, lane: Lane) -> None:
        self._loop.call_soon(self._work_off, session, lane, context=lane.context)

    def _work_off(self, session: SessionID, lane: Lane) -> None:
        """Deliver what is queued, until a batch is done or a handler waits."""
        if self._lanes.get(session) is not lane or lane.delivery or lane.nested:
            return
        queue = lane.queue
        for _ in range(self.batch_size):
            if not queue:
                self._close(session, lane)
                return
            queued = queue.popleft()
            lane.delivery = number = next(_numbers)
            if self._taken is not None:
                self._taken(lane)
            event = queued[0] if type(queued) is tuple else cast("Event", queued)
            plan = self._registry.event_plan(type(event), session)
            outcome = None
            try:
                if queued is event:
                    outcome = self._delivery.begin(event, plan, session, number, None) if plan else None
                else:
                    _, context, lane.receipt = cast("tuple[Event, Context, Receipt | None]", queued)
                    waited_for = lane.receipt is not None and not lane.receipt.done()
                    chain = context.get(causality.current) if waited_for else None
                    outcome = context.run(self._delivery.begin, event, plan, session, number, chain) if plan else None
            except BaseException:
                self._end(session, lane, None)
                raise
            if isinstance(outcome, asyncio.Task):
                self._end_later(session, lane, outcome)
                return
            self._note_end(lane, outcome)
            if lane.nested:
                return
        self._go_on(session, lane)

    def _end_later(self, session: SessionID, lane: Lane, task: asyncio.Task[Failure]) -> None:
        lane.task = task
        task.add_done_callback(partial(self._end_of_task, session, lane))

    def _end_of_task(self, session: SessionID, lane: Lane, task: asyncio.Task[Failure]) -> None:
        self._task_numbers.pop(task, None)
        if self._lanes.get(session) is lane and lane.task is task:
            lane.stalled = task.cancelled() and not self._abandoning
            self._end(session, lane, outcome_of(task))

    def _end(self, session: SessionID, lane: Lane, failure: Failure) -> None:
        """Go on after a delivery: with the queue, or not at all."""
        self._note_end(lane, failure)
        if lane.nested:
            return
        if not lane.queue:
            self._close(session, lane)
        elif lane.stalled:
            self._loop.call_soon(self._resume_if_awaited, session, lane)
            self._loop.call_later(_RESUME_AFTER, self._resume, session, lane)
        else:
            self._go_on(session, lane)

    def _note_end(self, lane: Lane, failure: Failure) -> None:
        self.finished += 1
        if self._waits.given_up:
            self._waits.given_up.discard(lane.delivery)
        lane.delivery = 0
        lane.task = None
        if lane.receipt is not None:
            receipt, lane.receipt = lane.receipt, None
            self._answer(receipt, failure)

    def _answer(self, receipt: Receipt, failure: Failure) -> None:
        """Tell who waits for a queued event. The wait is over at once, before whoever waited has been woken."""
        self._waits.forget(receipt)
        if receipt.done():
            return
        if self._abandoning:
            receipt.set_exception(_abandoned())
        else:
            receipt.set_result(failure)

    def _resume(self, session: SessionID, lane: Lane) -> None:
        if lane.stalled and self._lanes.get(session) is lane:
            lane.stalled = False
            self._go_on(session, lane)

    def _resume_if_awaited(self, session: SessionID, lane: Lane) -> None:
        receipts = [queued[2] for queued in lane.queue if isinstance(queued, tuple)]
        if self._idle or any(receipt is not None and not receipt.done() for receipt in receipts):
            self._resume(session, lane)

    def _close(self, session: SessionID, lane: Lane) -> None:
        del self._lanes[session]
        if len(self._spare) < _SPARE_LANES:
            lane.context = lane.chain = None
            lane.stalled = False
            lane.waits.clear()
            self._spare.append(lane)
        if self._idle and not self._lanes:
            self._tell_idle()

    def _tell_idle(self) -> None:
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
        self._idle.clear()

    # Deliveries that wait for each other

    def _begin_behind(self, lane: Lane, session: SessionID, event: Event, chain: Chain | None) -> Failure | Receipt:
        """Deliver an event behind those that its lane has already, or inside the one that waits for it."""
        self._resume(session, lane)
        held = self._waits.held_by(chain)
        if session in held:
            return self._begin_nested(lane, session, event, chain)
        self._waits.refuse_cycle(session, held)
        return self._queue_behind(lane, session, event, held)

    def _queue_behind(self, lane: Lane, session: SessionID, event: Event, held: dict[SessionID, int]) -> Receipt:
        receipt: Receipt = self._loop.create_future()
        lane.queue.append((event, copy_context(), receipt))
        if held:
            self._waits.note(receipt, session, held)
        return receipt

    def _begin_nested(
        self, lane: Lane, session: SessionID, event: Event, chain: Chain | None
    ) -> Failure | asyncio.Task[Failure]:
        plan = self._registry.event_plan(type(event), session)
        if not plan:
            return None
        number = next(_numbers)
        lane.nested[number] = None
        outcome: Failure | asyncio.Task[Failure] = None
        try:
            outcome = self._delivery.begin(event, plan, session, number, chain)
        finally:
            if isinstance(outcome, asyncio.Task):
                lane.nested[number] = outcome
                self._task_numbers[outcome] = number
                outcome.add_done_callback(partial(self._end_nested, session, lane, number))
            else:
                del lane.nested[number]
                self.finished += 1
        return outcome

    def _end_nested(self, session: SessionID, lane: Lane, number: int, task: asyncio.Task[Failure]) -> None:
        self._task_numbers.pop(task, None)
        self._waits.given_up.discard(number)
        if lane.nested.pop(number, None) is None:
            return
        self.finished += 1
        if not (lane.nested or lane.delivery) and self._lanes.get(session) is lane:
            self._go_on(session, lane)

    def _give_up(self, delivery: Receipt) -> None:
        """Note that a publisher waits no longer."""
        number = self._task_numbers.get(delivery)
        if number is None:
            self._waits.forget(delivery)
            delivery.cancel()
            number = next((lane.delivery for lane in self._lanes.values() if lane.receipt is delivery), None)
        if number is not None:
            self._waits.give_up(number)


def _same(context: Context, other: Context) -> bool:
    try:
        return context == other
    except Exception:  # noqa: BLE001  # what a context holds is the user's, and may refuse to be compared
        return False


def _abandoned() -> BusNotRunningError:
    return BusNotRunningError(
        "The bus stopped before the event's handlers had finished; its deadline for stopping passed."
    )
