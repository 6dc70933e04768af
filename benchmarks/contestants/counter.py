"""What every handler does: it counts. A process measures one thing, so one counter is enough."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Handler = Callable[[Any], Awaitable[None]]


class Counter:
    """How many messages were handled, for the check that none was lost."""

    __slots__ = ("expected", "handled", "reached")

    def __init__(self) -> None:
        self.handled = 0
        self.expected = 0
        self.reached = asyncio.Event()

    async def reach(self, expected: int) -> None:
        """Wait for a signalling handler, where the library itself offers no way to wait."""
        if self.handled < expected:
            self.expected = expected
            self.reached.clear()
            await self.reached.wait()


counter = Counter()


def counting_handler() -> Handler:
    """Return a new function, so that ten registrations are ten handlers."""

    async def handle(message: Any) -> None:  # noqa: ARG001  # the shape of a handler
        counter.handled += 1

    return handle


async def suspending_handler(message: Any) -> None:  # noqa: ARG001  # the shape of a handler
    """Count, and let the other tasks run once."""
    counter.handled += 1
    await asyncio.sleep(0)


async def signalling_handler(message: Any) -> None:  # noqa: ARG001  # the shape of a handler
    """Count, and tell whoever waits for so many."""
    counter.handled += 1
    if counter.handled == counter.expected:
        counter.reached.set()
