"""Handling a stretch of the event log again: for a projection that was lost, or a handler that was wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextvars import ContextVar
from dataclasses import dataclass

from llmgine.bus import causality
from llmgine.bus.handler_check import name_of
from llmgine.bus.interfaces import EventHandler
from llmgine.bus.pipeline import call
from llmgine.bus.registry import EventPlan, HandlerRegistry
from llmgine.messages import Event
from llmgine.messages.ids import BUS
from llmgine.messages.message import origin_of

__all__ = ["ReplayReport", "replay", "tools_are_off"]

_log = logging.getLogger("llmgine.bus")
_without_tools: ContextVar[bool] = ContextVar("llmgine_replay_without_tools", default=False)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of a replay."""

    events: int = 0
    """How many were read from the log."""
    handled: int = 0
    """How many runs of handlers ended well."""
    failed: int = 0
    """How many raised; each is in the log of the program."""


def tools_are_off() -> bool:
    """Return whether this is a replay that must not act on the world."""
    return _without_tools.get()


async def replay(
    events: AsyncIterator[Event], registry: HandlerRegistry, handlers: Collection[EventHandler] | None, *, tools: bool
) -> ReplayReport:
    """Run handlers on events again, one after another, in the caller's task and beside what the lanes deliver.

    Observers, filters and the event log do not see the events: they did when it happened. `metadata["replay"]` is True.

    Args:
        events: in the order in which they were published.
        registry: who handles what.
        handlers: as they were registered; None for all that hear an event.
        tools: whether tools may be used.
    """
    read = handled = failed = 0
    async for event in events:
        read += 1
        event.metadata["replay"] = True
        own, correlation, _, traceparent = origin_of(event)
        chain = causality.current.set((correlation or own, own, (), None, traceparent, False))
        off = _without_tools.set(not tools)
        try:
            for name, handler in _chosen(registry.event_plan(type(event), event.session_id or BUS), handlers):
                try:
                    await call(event, handler)
                    handled += 1
                except Exception as error:  # noqa: BLE001  # the boundary: one failure must not end the replay
                    failed += 1
                    text = "%s failed on the replay of %s %s: %r"
                    _log.exception(text, name, type(event).__name__, event.event_id, error)
        finally:
            _without_tools.reset(off)
            causality.current.reset(chain)
    return ReplayReport(read, handled, failed)


def _chosen(plan: EventPlan, handlers: Collection[EventHandler] | None) -> list[tuple[str, EventHandler]]:
    return [
        (name_of(registered), wrapped)
        for group in plan
        for registered, wrapped in group
        if handlers is None or registered in handlers
    ]
