"""One event, all its handlers: group after group, each handler's failure its own."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

from llmgine.bus.causality import Chain, Holds, current
from llmgine.bus.handler_task import Failure, Handlers, HandlerTask
from llmgine.bus.registry import EventPlan
from llmgine.errors import BusError
from llmgine.messages import Event, SessionID
from llmgine.messages.ids import Id
from llmgine.messages.message import origin_of

__all__ = ["Delivery", "outcome_of"]


class Delivery:
    """Handles events on one event loop."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers

    def begin(
        self, event: Event, plan: EventPlan, session: SessionID, number: int, outer: Chain | None
    ) -> Failure | asyncio.Task[Failure]:
        """Run an event's handlers, in copies of the current context.

        Args:
            event: what to handle.
            plan: its handlers; at least one.
            session: the lane it is delivered in.
            number: that lane's number for the delivery.
            outer: the chain of whoever waits for the delivery.

        Returns:
            The first failure, or None; or, if a handler waits, the task whose result that will be.
        """
        made, identity = event._timestamp, event._identity  # in this order: see `origin_of`
        if type(identity) is int:
            own: Id = (made, identity)
            correlation: Id | None = own
            traceparent: str | None = None
        else:
            own, correlation, _, traceparent = origin_of(event)
        held: Holds = ((session, number),)
        deadline = None
        if outer is not None:
            deadline = outer[3]
            held = outer[2] + held
        token = current.set((correlation or own, own, held, deadline, traceparent, False))
        try:
            outcomes = self.handlers.run(event, plan[0])
            if outcomes is None and len(plan) == 1:
                return None
            return self._go_on(event, plan, outcomes)
        finally:
            current.reset(token)

    def _go_on(
        self, event: Event, plan: EventPlan, outcomes: list[Failure | HandlerTask] | None
    ) -> Failure | asyncio.Task[Failure]:
        """See to what the first group left, and to the other groups."""
        if len(plan) == len(plan[0]) == 1 and outcomes:
            return outcomes[0]
        first_failure: Failure = None
        for index in range(1, len(plan) + 1):
            if outcomes is not None:
                if any(isinstance(outcome, HandlerTask) for outcome in outcomes):
                    rest = self._wait(event, plan[index:], outcomes, first_failure)
                    return asyncio.get_running_loop().create_task(rest, context=copy_context())
                first_failure = first_failure or _first(outcomes)
            outcomes = self.handlers.run(event, plan[index]) if index < len(plan) else None
        return first_failure

    async def _wait(
        self, event: Event, plan: EventPlan, outcomes: list[Failure | HandlerTask] | None, first_failure: Failure
    ) -> Failure:
        """Wait for the handlers of a group that have not ended, and go on with the other groups."""
        for group in (*plan, None):
            if outcomes is not None:
                tasks = [outcome for outcome in outcomes if isinstance(outcome, HandlerTask)]
                if tasks:
                    await _wait_or_cancel(tasks)
                first_failure = first_failure or _first(outcomes)
            outcomes = None if group is None else self.handlers.run(event, group)
        return first_failure


def _first(outcomes: list[Failure | HandlerTask]) -> Failure:
    failures = (outcome_of(outcome) if isinstance(outcome, HandlerTask) else outcome for outcome in outcomes)
    return next((failure for failure in failures if failure is not None), None)


def outcome_of(delivery: asyncio.Task[Failure]) -> Failure:
    """Return the first failure of a delivery that has ended, also if it was cancelled."""
    if delivery.cancelled():
        return BusError("A handler was cancelled before it had finished with the event.")
    return delivery.exception() or delivery.result()


async def _wait_or_cancel(tasks: list[HandlerTask]) -> None:
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
