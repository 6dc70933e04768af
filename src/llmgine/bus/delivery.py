"""One event, all its handlers: group after group, each handler's failure its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import CoroutineType
from typing import Any, TypeAlias

from llmgine.bus import causality
from llmgine.bus.causality import Chain
from llmgine.bus.eager import start
from llmgine.bus.interfaces import EventHandler
from llmgine.bus.registry import EventPlan, HandlerRegistry
from llmgine.messages import Event, SessionID

__all__ = ["Delivery", "Failure"]

Failure: TypeAlias = BaseException | None


class Delivery:
    """Runs the handlers of events."""

    def __init__(self, registry: HandlerRegistry, report: Callable[[Event, EventHandler, BaseException], None]) -> None:
        """Take where the handlers are, and whom to tell of each failure: the event, the handler, what it raised."""
        self._registry = registry
        self._report = report

    def of(
        self, event: Event, session: SessionID, number: int, outer: Chain | None
    ) -> Coroutine[Any, Any, Failure] | None:
        """Return the work of handling an event, whose result is the first failure; None if nobody handles it.

        Args:
            event: what to handle.
            session: the lane it is delivered in.
            number: that lane's number for the delivery.
            outer: the chain of whoever waits for the delivery.
        """
        plan = self._registry.event_plan(type(event), session)
        if not plan:
            return None
        event_id = event.event_id
        held: causality.Holds = ((session, number),)
        deadline = None
        if outer is not None:
            deadline = outer[3]
            held = outer[2] if held[0] in outer[2] else outer[2] + held
        chain = (event._correlation_id or event_id, event_id, held, deadline, event.traceparent)
        first = plan[0]
        if len(plan) == 1 and len(first) == 1:
            return self._handle(event, *first[0], chain)
        return self._handle_all(event, plan, chain)

    async def _handle(self, event: Event, registered: EventHandler, handler: EventHandler, chain: Chain) -> Failure:
        causality.current.set(chain)
        try:
            outcome = handler(event)
            if type(outcome) is CoroutineType or hasattr(type(outcome), "__await__"):
                await outcome
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._report(event, registered, error)
            return error
        except Exception as error:  # noqa: BLE001  # the boundary: one handler's failure must not silence another
            self._report(event, registered, error)
            return error
        return None

    async def _handle_all(self, event: Event, plan: EventPlan, chain: Chain) -> Failure:
        loop = asyncio.get_running_loop()
        first_failure: Failure = None
        for group in plan:
            outcomes = [start(loop, self._handle(event, *handler, chain), copy_context()) for handler in group]
            tasks = [outcome for outcome in outcomes if isinstance(outcome, asyncio.Task)]
            if tasks:
                await _wait_or_cancel(tasks)
            for outcome in outcomes:
                failure = outcome.result() if isinstance(outcome, asyncio.Task) else outcome
                first_failure = first_failure or failure
        return first_failure


async def _wait_or_cancel(tasks: list[asyncio.Task[Failure]]) -> None:
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
