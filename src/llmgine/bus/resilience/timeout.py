"""How long an attempt at a command may take."""

from __future__ import annotations

import asyncio
from typing import Any

from llmgine.bus.deadline import within
from llmgine.bus.interfaces import CommandHandler, HandlerMiddleware
from llmgine.bus.options import check_number
from llmgine.bus.resilience.outcomes import NextForCommand
from llmgine.bus.results import raised
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult

__all__ = ["TimeoutMiddleware"]


class TimeoutMiddleware(HandlerMiddleware):
    """Cancels a command's handler that takes too long; the result has a `CommandTimeoutError`. Events are not timed."""

    def __init__(self, seconds: float) -> None:
        """Set the time.

        Raises:
            ConfigurationError: `seconds` is not a positive, finite number.
        """
        check_number("seconds", seconds, int | float, "a number above 0")
        if not seconds:
            msg = "A timeout of 0 seconds lets no handler wait for anything. Give it a number above 0."
            raise ConfigurationError(msg)
        self.seconds = seconds

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        try:
            deadline = asyncio.get_running_loop().time() + self.seconds
            return await within(deadline, next_middleware(command, handler), command, self.seconds)
        except Exception as error:  # noqa: BLE001  # the policies around have to see whatever a handler raises
            return raised(error, command)
