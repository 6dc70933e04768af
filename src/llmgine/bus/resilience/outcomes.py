"""How a policy sees what a command came to: a returned `success=False` and an exception are the same failure."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from llmgine.bus.interfaces import CommandHandler
from llmgine.bus.results import raised
from llmgine.errors import CircuitOpenError
from llmgine.messages import Command, CommandResult, Event

__all__ = ["MISSING_SESSION", "Announce", "NextForCommand", "attempt", "attempts_made", "failed", "noted", "refused"]

NextForCommand: TypeAlias = Callable[[Command[Any], CommandHandler], Awaitable[CommandResult[Any]]]
Announce: TypeAlias = Callable[[Event, Command[Any] | None], object]
"""Publishes an event without waiting; its cause is a command, or, if that is None, somebody who did it by hand."""

MISSING_SESSION = "Command missing session_id"
"""What `ValidationMiddleware` says of a command that it refuses."""


async def attempt(
    command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
) -> CommandResult[Any]:
    """Return what came of the layers inside, also what they raised, as a failed result."""
    try:
        return await next_middleware(command, handler)
    except Exception as error:  # noqa: BLE001  # the policies around have to see whatever a handler raises
        return raised(error, command)


def failed(result: object) -> bool:
    """Whether this stands for a failure; a layer may also answer with a plain value, which is a success."""
    return isinstance(result, CommandResult) and not result.success


def noted(result: CommandResult[Any], **facts: object) -> CommandResult[Any]:
    """Return a copy of a result with more metadata; the handler may keep the original."""
    result = copy.copy(result)
    result.metadata = {**result.metadata, **facts}
    return result


def refused(result: CommandResult[Any], command: Command[Any]) -> bool:
    """Whether the command's circuit breaker did not let it through to its handler."""
    error = result.exception
    return isinstance(error, CircuitOpenError) and error.name == type(command).__name__


def attempts_made(result: CommandResult[Any], command: Command[Any]) -> int:
    """Return how often the handler ran before a command failed."""
    attempts = result.metadata.get("attempts")
    if isinstance(attempts, int):
        return attempts
    return 0 if refused(result, command) else 1
