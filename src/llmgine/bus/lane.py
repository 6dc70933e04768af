"""What one lane holds. `Lanes` moves its events, and `Waits` knows who waits for whom."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TypeAlias

from llmgine.bus.causality import Chain
from llmgine.bus.handler_task import Failure
from llmgine.messages import Event, SessionID

__all__ = ["Lane", "Queued", "Receipt"]

Receipt: TypeAlias = "asyncio.Future[Failure]"
Queued: TypeAlias = Event | tuple[Event, Context, "Receipt | None"]
"""An event that was offered in the lane's context, or one with the context it was offered in and who waits for it."""


class Lane:
    """The events of a session that are under way or wait."""

    __slots__ = ("chain", "context", "delivery", "nested", "queue", "receipt", "stalled", "task", "waits")

    def __init__(self) -> None:
        self.queue: deque[Queued] = deque()
        self.delivery = 0
        """The number of the delivery under way; 0 if there is none."""
        self.receipt: Receipt | None = None
        """Who waits for it, if it was queued."""
        self.task: asyncio.Task[Failure] | None = None
        """Its task, if it waits."""
        self.nested: dict[int, asyncio.Task[Failure] | None] = {}
        """Deliveries inside it, by their numbers. They may outlast it; then the lane waits for them."""
        self.waits: dict[Receipt, tuple[int, SessionID]] = {}
        """What deliveries of this lane wait for: the number of each, and the lane in which it waits."""
        self.context: Context | None = None
        """Of the first event that was offered; that of most is the same, and a copy for each is half of its memory."""
        self.chain: Chain | None = None
        self.stalled = False
        """Whether it does not go on by itself, because its last delivery was cancelled from outside."""

    def is_under_way(self, number: int) -> bool:
        """Tell whether a delivery goes on in this lane."""
        return self.delivery == number or number in self.nested
