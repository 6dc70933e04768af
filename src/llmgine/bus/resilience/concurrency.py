"""How many commands of a type run at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from llmgine.bus.interfaces import CommandHandler, HandlerMiddleware
from llmgine.bus.options import check_number
from llmgine.bus.resilience.outcomes import NextForCommand, attempt
from llmgine.bus.results import raised
from llmgine.errors import QueueFullError
from llmgine.messages import Command, CommandResult

__all__ = ["ConcurrencyLimitMiddleware", "Places"]


class Places:
    """A number of places, given to those who ask in the order in which they ask."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """How many are not taken."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def take(self) -> bool:
        """Take a place that is free; return False if there is none."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Take a place when those who came before have had theirs."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():  # the place was handed over, and cancelling came after
                self.give_back()
            raise

    def give_back(self) -> None:
        """Hand a place over to who has waited longest, or leave it free."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else it is being cancelled, and takes none
                turn.set_result(None)
                return
        self._free += 1


class ConcurrencyLimitMiddleware(HandlerMiddleware):
    """Runs no more than so many commands of a type at once; others wait, in the order in which they came.

    Events are not held up. A handler that executes a command of its own type needs a second place for it; where there
    is one only, it waits for itself until its deadline.
    """

    def __init__(self, max_concurrent: int, max_waiting: int | None = None) -> None:
        """Set the limits.

        Args:
            max_concurrent: commands of one type that run at the same time.
            max_waiting: commands of one type that may wait; what comes on top fails at once with a `QueueFullError`.
                None if there is no limit.

        Raises:
            ConfigurationError: one of them is no whole number or too small.
        """
        check_number("max_concurrent", max_concurrent, int, "a whole number, 1 or more", least=1)
        if max_waiting is not None:
            check_number("max_waiting", max_waiting, int, "a whole number, 0 or more, or None")
        self.max_concurrent = max_concurrent
        self.max_waiting = max_waiting
        self.places: dict[type, Places] = {}
        """By the type of command."""
        self.refused = 0
        """How many commands found no room to wait."""

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        kind = type(command)
        places = self.places.get(kind)
        if places is None:
            places = self.places[kind] = Places(self.max_concurrent)
        if not places.take():
            if self.max_waiting is not None and places.waiting >= self.max_waiting:
                self.refused += 1
                running = f"{self.max_concurrent} commands {kind.__name__} are running"
                msg = f"{running} and {places.waiting} wait, which is as many as may"
                return raised(QueueFullError(msg, maxsize=self.max_waiting), command)
            await places.wait()
        try:
            return await attempt(command, handler, next_middleware)
        finally:
            places.give_back()
