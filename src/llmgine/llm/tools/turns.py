"""Who may run now: so many calls at the same time, of all tools and of each tool, first come first served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from llmgine.llm.tools.tool import Tool

__all__ = ["Turns"]


class Turns:
    """Places for calls. Each event loop has its own: what waits in one cannot be woken from another."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._loops: dict[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = {}

    def turn(self, tool: Tool) -> AbstractAsyncContextManager[None]:
        """Wait for a place, and keep it until the end of the block."""
        semaphores = self._semaphores()
        if tool.max_concurrency is None:
            return semaphores[""]
        if tool.name not in semaphores:
            semaphores[tool.name] = asyncio.Semaphore(tool.max_concurrency)
        return _both(semaphores[tool.name], semaphores[""])

    def _semaphores(self) -> dict[str, asyncio.Semaphore]:
        """Return those of the running loop, by the name of the tool; "" is the one for all."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for other in [other for other in self._loops if other.is_closed()]:
                del self._loops[other]
            self._loops[loop] = {"": asyncio.Semaphore(self._places)}
        return self._loops[loop]


@asynccontextmanager
async def _both(own: asyncio.Semaphore, common: asyncio.Semaphore) -> AsyncGenerator[None, None]:
    # The tool's own first: who waits for that must not hold a place that others could use.
    async with own, common:
        yield
