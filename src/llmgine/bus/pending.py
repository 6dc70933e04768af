"""Events that wait until the handler that sent them has succeeded."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from llmgine.bus import causality
from llmgine.bus.causality import Chain
from llmgine.errors import BusError
from llmgine.messages import Event
from llmgine.messages.ids import Id

__all__ = ["PendingEvents"]

Handling: TypeAlias = "Id | asyncio.Task[object]"
"""Who handles: by the id of the command, or, because an event has several handlers, by the handler's task."""


class PendingEvents(dict[Handling, list[Event]]):
    """The events that handlers have left pending."""

    def add(self, event: Event) -> None:
        """Keep an event for the handler that is running.

        Raises:
            BusError: none is, or it cannot be told which.
        """
        chain = causality.current.get()
        if chain is None:
            msg = f"No handler is running that {type(event).__name__} could wait for; publish it instead."
            raise BusError(msg)
        causality.stamp(event, chain)
        self.setdefault(_handling(chain, event), []).append(event)

    def take(self) -> list[Event]:
        """Return and forget what the running handler has left pending."""
        chain = causality.current.get()
        return [] if chain is None else self.pop(chain[1] if chain[5] else _current_task(), [])


def _handling(chain: Chain, event: Event) -> Handling:
    if chain[5]:
        return chain[1]
    task = _current_task()
    if getattr(task, "is_handler", False):
        return task
    msg = (
        f"{type(event).__name__} was left pending in a task or thread that the handler of an event has started, and it "
        "cannot be told which handler it would wait for. Leave it in the handler itself, or publish it."
    )
    raise BusError(msg)


def _current_task() -> asyncio.Task[object]:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread
        task = None
    return task  # type: ignore[return-value]
