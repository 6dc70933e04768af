"""Events that wait until the handler that sent them has succeeded."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from llmgine.bus import causality
from llmgine.errors import BusError
from llmgine.messages import Event
from llmgine.messages.ids import Id

__all__ = ["PendingEvents"]

Owner: TypeAlias = "asyncio.Task[object] | None"
"""None for a thread that a handler works in."""


class PendingEvents(dict[Id, list[tuple[Owner, Event]]]):
    """The events that handlers have left pending, by the message being handled; each with the task that added it."""

    def add(self, event: Event) -> None:
        """Keep an event for the handler that is running.

        Raises:
            BusError: none is.
        """
        chain = causality.current.get()
        if chain is None:
            msg = f"No handler is running that {type(event).__name__} could wait for; publish it instead."
            raise BusError(msg)
        causality.stamp(event, chain)
        self.setdefault(chain[1], []).append((_current_task(), event))

    def take(self, message: Id) -> list[Event]:
        """Return and forget what was left pending for a message."""
        return [event for _, event in self.pop(message, ())]

    def take_own(self) -> list[Event]:
        """Return and forget what the running handler of an event left pending, itself or in tasks that have ended.

        An event may have other handlers at the same time, with pending events of their own.
        """
        chain = causality.current.get()
        task = asyncio.current_task()
        if chain is None or chain[1] not in self:
            return []
        kept = self.pop(chain[1])
        own = [(owner, event) for owner, event in kept if owner is None or owner is task or owner.done()]
        if others := [item for item in kept if item not in own]:
            self[chain[1]] = others
        return [event for _, event in own]


def _current_task() -> Owner:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
