"""The results of commands that failed."""

from __future__ import annotations

import traceback
from typing import Any

from llmgine.messages import Command, CommandResult

__all__ = ["failed", "raised"]


def failed(
    error: str, command: Command[Any], exception: Exception | None = None, **metadata: str
) -> CommandResult[Any]:
    """Return the result of a command that failed, and how."""
    result: CommandResult[Any] = CommandResult(success=False, error=error, metadata=metadata)
    if exception is not None:
        result._exception = exception
    return CommandResult.of(result, command)


def raised(error: Exception, command: Command[Any]) -> CommandResult[Any]:
    """Return the result of a command whose handler raised."""
    trace = "".join(traceback.format_exception(error))
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next  # whose frame holds the result that holds the error
    return failed(f"{type(error).__name__}: {error}", command, error, traceback=trace)
