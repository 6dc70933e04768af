"""The order of each session: one lane, in which events are delivered one after another, as they were offered.

A lane exists while it has work. A waiting publisher that finds no lane delivers its event at once; everything else
queues, and the lane's task works the queue off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeAlias, cast

from llmgine.bus import causality
from llmgine.bus.causality import Chain
from llmgine.bus.delivery import Delivery
from llmgine.bus.handler_task import Failure
from llmgine.bus.registry import HandlerRegistry
from llmgine.errors import BusNotRunningError, DeadlockError
from llmgine.messages import Event, SessionID

__all__ = ["Lanes"]

Receipt: TypeAlias = "asyncio.Future[Failure]"
Queued: TypeAlias = Event | tuple[Event, Context, "Receipt | None"]
"""An event that was offered in the lane's context, or one with the context it was offered in and who waits for it."""

_numbers = count(1)
_SPARE_LANES = 64
"""How many lanes without work are kept, because making one costs more than delivering a small event."""


class _Lane:
    __slots__ = ("chain", "context", "delivery", "queue", "stalled", "task", "waits_for")

    def __init__(self) -> None:
        self.queue: deque[Queued] = deque()
        self.delivery = 0
        self.waits_for: list[SessionID] = []
        self.task: asyncio.Task[Any] | None = None
        self.context: Context | None = None
        """Of the first event that was offered; that of most is the same, and a copy for each is half of its memory."""
        self.chain: Chain | None = None
        self.stalled = False
        """Whether its task was cancelled before the queue was worked off."""


class Lanes:
    """The lanes of a bus on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, registry: HandlerRegistry, delivery: Delivery) -> None:
        self.batch_size = 10
        """How many queued events of a lane are delivered before other tasks get their turn."""
        self.finished = 0
        """How many deliveries have ended."""
        self._loop = loop
        self._registry = registry
        self._delivery = delivery
        self._lanes: dict[SessionID, _Lane] = {}
        self._spare: list[_Lane] = []
        self._nested: set[asyncio.Task[Failure]] = set()
        self._idle: list[asyncio.Future[None]] = []

    @property
    def queued(self) -> int:
        """How many events wait in queues."""
        return sum(len(lane.queue) for lane in list(self._lanes.values()))  # another thread may ask

    @property
    def unfinished(self) -> int:
        """How many events wait or are being delivered."""
        lanes = list(self._lanes.values())
        return sum(len(lane.queue) + bool(lane.delivery) for lane in lanes) + len(self._nested)

    def offer(self, session: SessionID, event: Event, chain: Chain | None) -> None:
        """Queue an event, offered from within `chain`; return at once."""
        lane = self._lanes.get(session)
        context = copy_context()
        if lane is None:
            lane = self._lanes[session] = self._spare.pop() if self._spare else _Lane()
            lane.context, lane.chain = context, chain
            self._drain_on(session, lane)
        elif lane.stalled:
            self._drain_on(session, lane)
        if lane.context is None:
            lane.context, lane.chain = context, chain
        elif chain is not lane.chain or not _same(context, lane.context):
            lane.queue.append((event, context, None))
            return
        lane.queue.append(event)

    def begin(self, session: SessionID, event: Event, chain: Chain | None) -> Failure | asyncio.Future[Failure]:
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
        lane = self._lanes[session] = self._spare.pop() if self._spare else _Lane()
        lane.delivery = number = next(_numbers)
        try:
            outcome = self._delivery.begin(event, plan, session, number, chain)
        except BaseException:
            self._advance(session, lane)
            raise
        if outcome is None and not (lane.queue or self._idle):  # as `_advance` would, without the call
            self.finished += 1
            lane.delivery = 0
            del self._lanes[session]
            self._spare.append(lane)
        elif isinstance(outcome, asyncio.Task):
            lane.task = outcome
            outcome.add_done_callback(lambda _: self._advance(session, lane))
        else:
            self._advance(session, lane)
        return outcome

    def _begin_behind(
        self, lane: _Lane, session: SessionID, event: Event, chain: Chain | None
    ) -> Failure | asyncio.Future[Failure]:
        """Deliver an event behind those that its lane has already, or inside the one that waits for it."""
        if lane.stalled:
            self._drain_on(session, lane)
        held = self._held(chain)
        if session in held:
            return self._begin_nested(event, session, lane.delivery, chain)
        self._refuse_cycle(session, held)
        receipt: asyncio.Future[Failure] = self._loop.create_future()
        lane.queue.append((event, copy_context(), receipt))
        if held:
            self._note_waiting(session, held, receipt)
        return receipt

    @staticmethod
    async def outlast(delivery: asyncio.Future[Failure]) -> Failure:
        """Wait for a delivery. Cancelling the wait does not cancel the delivery."""
        try:
            await asyncio.wait((delivery,))
        except asyncio.CancelledError:
            if not isinstance(delivery, asyncio.Task):
                delivery.cancel()
            raise
        if delivery.cancelled():
            raise _abandoned()
        return delivery.result()

    async def idle(self) -> None:
        """Wait until no event waits or is being delivered.

        Raises:
            DeadlockError: called by a handler of an event, which would wait for itself.
        """
        if held := tuple(self._held(causality.current.get())):
            msg = (
                f"An event handler in session {held[-1]} waits until no event is being handled, its own included. "
                "Wait outside the handler, or in a task that it starts and does not wait for."
            )
            raise DeadlockError(msg, cycle=(held[-1], held[-1]))
        while self._lanes:
            for session, lane in self._lanes.items():
                if lane.stalled:
                    self._drain_on(session, lane)
            emptied: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(emptied)
            await emptied

    async def abandon(self, grace: float) -> int:
        """Cancel what is being delivered, drop what waits, and tell whoever waits for it.

        Returns:
            How many events were not delivered to their end.
        """
        abandoned = self.unfinished
        tasks = [lane.task for lane in self._lanes.values() if lane.task] + list(self._nested)
        for lane in self._lanes.values():
            for queued in lane.queue:
                _report_abandoned(queued)
            lane.queue.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for session in list(self._lanes):
            self._close(session)
        return abandoned

    def leave(self) -> list[Event]:
        """Return the events that wait, when the loop they waited on is gone."""
        queues = (lane.queue for lane in self._lanes.values())
        return [queued[0] if isinstance(queued, tuple) else queued for queue in queues for queued in queue]

    def _begin_nested(
        self, event: Event, session: SessionID, delivery: int, chain: Chain | None
    ) -> Failure | asyncio.Task[Failure]:
        plan = self._registry.event_plan(type(event), session)
        if not plan:
            return None
        outcome = self._delivery.begin(event, plan, session, delivery, chain)
        if isinstance(outcome, asyncio.Task):
            self._nested.add(outcome)
            outcome.add_done_callback(self._end_nested)
        else:
            self.finished += 1
        return outcome

    def _end_nested(self, delivery: asyncio.Task[Failure]) -> None:
        self._nested.discard(delivery)
        self.finished += 1

    def _advance(self, session: SessionID, lane: _Lane) -> None:
        """Go on after the first delivery of a lane: with its queue, or not at all."""
        self.finished += 1
        lane.delivery = 0
        lane.waits_for.clear()
        if lane.queue:
            self._drain_on(session, lane)
        else:
            self._close(session)

    def _drain_on(self, session: SessionID, lane: _Lane) -> None:
        lane.stalled = False
        lane.task = self._loop.create_task(self._drain(session, lane), context=lane.context)

    async def _drain(self, session: SessionID, lane: _Lane) -> None:
        queue = lane.queue
        begin = self._delivery.begin
        done = 0
        try:
            while queue:
                queued = queue.popleft()
                lane.delivery = number = next(_numbers)
                event = queued[0] if type(queued) is tuple else cast("Event", queued)
                plan = self._registry.event_plan(type(event), session)
                failure = None
                if plan:
                    if queued is event:
                        outcome = begin(event, plan, session, number, None)
                    else:
                        _, context, receipt = cast("tuple[Event, Context, Receipt | None]", queued)
                        chain = context.get(causality.current) if receipt is not None else None
                        outcome = context.run(begin, event, plan, session, number, chain)
                    try:
                        failure = await outcome if isinstance(outcome, asyncio.Task) else outcome
                    except asyncio.CancelledError:
                        _report_abandoned(queued)
                        raise
                self.finished += 1
                lane.delivery = 0
                if lane.waits_for:
                    lane.waits_for.clear()
                if queued is not event:
                    _report(queued, failure)
                done += 1
                if done % self.batch_size == 0:
                    await asyncio.sleep(0)
        finally:
            if queue:  # somebody cancelled this task: the end of the loop, if not, whoever comes next goes on
                lane.stalled, lane.delivery = True, 0
                lane.waits_for.clear()
            else:
                self._close(session)

    def _close(self, session: SessionID) -> None:
        lane = self._lanes.pop(session, None)
        if lane is not None and len(self._spare) < _SPARE_LANES:
            lane.task = lane.context = lane.chain = None
            lane.stalled, lane.delivery = False, 0
            self._spare.append(lane)
        if self._idle and not self._lanes:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()

    def _held(self, chain: Chain | None) -> dict[SessionID, int]:
        """The lanes that wait for a chain, outermost first, each with its delivery under way."""
        if chain is None:
            return {}
        lanes = self._lanes
        return {
            session: delivery
            for session, delivery in chain[2]
            if session in lanes and lanes[session].delivery == delivery
        }

    def _note_waiting(self, target: SessionID, held: dict[SessionID, int], receipt: asyncio.Future[Failure]) -> None:
        def forget(_: asyncio.Future[Failure]) -> None:
            for session, delivery in held.items():
                lane = self._lanes.get(session)
                if lane is not None and lane.delivery == delivery:
                    lane.waits_for.remove(target)

        for session in held:
            self._lanes[session].waits_for.append(target)
        receipt.add_done_callback(forget)

    def _refuse_cycle(self, target: SessionID, held: dict[SessionID, int]) -> None:
        paths: list[tuple[SessionID, ...]] = [(target,)] if held else []
        seen = {target}
        while paths:
            path = paths.pop()
            for session in self._lanes[path[-1]].waits_for:
                if session in held:
                    cycle = (session, *path, session)
                    msg = (
                        f"Waiting here would never end: {' waits for '.join(cycle)}. Publish with "
                        "await_processing=False, or from outside the handler."
                    )
                    raise DeadlockError(msg, cycle=cycle)
                if session not in seen and session in self._lanes:
                    seen.add(session)
                    paths.append((*path, session))


def _same(context: Context, other: Context) -> bool:
    try:
        return context == other
    except Exception:  # noqa: BLE001  # what a context holds is the user's, and may refuse to be compared
        return False


def _report(queued: Queued, failure: Failure) -> None:
    receipt = queued[2] if isinstance(queued, tuple) else None
    if receipt is not None and not receipt.done():
        receipt.set_result(failure)


def _report_abandoned(queued: Queued) -> None:
    receipt = queued[2] if isinstance(queued, tuple) else None
    if receipt is not None and not receipt.done():
        receipt.set_exception(_abandoned())


def _abandoned() -> BusNotRunningError:
    return BusNotRunningError(
        "The bus stopped before the event's handlers had finished; its deadline for stopping passed."
    )
