"""What a bus has opened to keep things beyond itself.

One object, because CPython looks up the attributes of an object that has more than some thirty of them in a slower way,
and a bus is looked at in all it does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmgine.bus.resilience.dead_letters import DeadLetters
    from llmgine.bus.scheduling import Scheduler
    from llmgine.bus.stores import EventLog, Stores

__all__ = ["Kept"]


class Kept:
    """The stores of a bus, and what works on them; None where it is not there, or has not been needed yet."""

    __slots__ = ("database", "event_log", "holding", "letters", "letters_since", "scheduler", "stores")

    def __init__(self, database: str | Stores | None, letters_since: int) -> None:
        self.database = database
        """As it was given."""
        self.stores: Stores | None = None
        self.scheduler: Scheduler | None = None
        self.event_log: EventLog | None = None
        """While it is written to."""
        self.letters: DeadLetters | None = None
        self.letters_since = letters_since
        """The position in the store of the last letter that was forgotten by a reset."""
        self.holding: set[asyncio.Task[None]] = set()
        """What holds events that nobody waits for."""
