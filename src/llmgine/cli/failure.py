"""What went wrong, as one line for people and an exit code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from llmgine.errors import ConfigurationError, LLMgineError, ToolRegistrationError
from llmgine.messages import CommandResult

__all__ = ["ExitCode", "debugging", "explain", "explain_result"]


class ExitCode(IntEnum):
    """How the program ends. A signal ends it with 128 and the signal's number."""

    OK = 0
    FAILURE = 1
    MISUSE = 2
    INTERRUPTED = 130


def debugging() -> bool:
    """Return whether tracebacks are wanted."""
    return os.environ.get("LLMGINE_DEBUG", "0") not in {"", "0"}


def explain(error: Exception) -> tuple[str, ExitCode]:
    """Return the line and the exit code for an exception."""
    trace = "".join(traceback.format_exception(error))
    return _explain(type(error), type(error).__name__, str(error), trace)


def explain_result(result: CommandResult[Any]) -> tuple[str, ExitCode]:
    """Return the line and the exit code for a command that has failed."""
    name, _, text = (result.error or "").partition(": ")
    if name == "CancelledError":
        return "stopped", ExitCode.INTERRUPTED
    kind = next((kind for kind in _kinds(LLMgineError) if kind.__name__ == name), Exception)
    return _explain(kind, name, text, result.metadata.get("traceback", ""))


def _explain(kind: type[Exception], name: str, text: str, trace: str) -> tuple[str, ExitCode]:
    line = " ".join(text.split())
    if not issubclass(kind, LLMgineError | OSError):
        line = f"unexpected {name}: {line}" + ("" if debugging() else " (LLMGINE_DEBUG=1 shows where it comes from)")
    code = ExitCode.MISUSE if issubclass(kind, ConfigurationError | ToolRegistrationError) else ExitCode.FAILURE
    return f"{line}\n{trace}" if trace and debugging() else line, code


def _kinds(root: type[LLMgineError]) -> Iterator[type[LLMgineError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)
