"""One attempt at running a tool, within its time."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, replace
from threading import Event as Flag
from traceback import format_exception_only
from typing import Any

from llmgine.errors import ToolError, ToolTimeoutError
from llmgine.llm.tools.attempt_clock import AttemptClock
from llmgine.llm.tools.injection import Dependencies
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import ToolReturn, as_text
from llmgine.llm.tools.tool_context import ToolContext

__all__ = ["Outcome", "run_attempt", "told"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt."""

    value: Any = None
    text: str = ""
    """The value, as the model reads it."""
    error: BaseException | None = None
    duration: float = 0.0
    """Seconds."""
    timed_out: bool = False


def told(error: BaseException) -> str:
    """Return what a model is told of an error."""
    return str(error) if isinstance(error, ToolError) else "".join(format_exception_only(error)).strip()


async def run_attempt(
    prepared: PreparedCall, context: ToolContext, dependencies: Dependencies, timeout: float
) -> Outcome | None:
    """Run a tool until it is done, or `timeout` seconds are over, or the context's deadline.

    Only a cancellation is raised, when the tool has cleaned up. After the deadline, return None and run nothing.
    """
    tool = prepared.tool
    loop = asyncio.get_running_loop()
    now = loop.time()
    if context.deadline is not None:
        timeout = min(timeout, context.deadline - now)
        if timeout <= 0:
            return None
    limited = math.isfinite(timeout)
    limit = asyncio.timeout(timeout if limited else None)
    clock = AttemptClock(limit, context.deadline)
    context = replace(context, deadline=now + timeout if limited else None, _ended=Flag(), _loop=loop, _clock=clock)

    async def work() -> tuple[Any, str]:
        arguments = prepared.arguments if context.attempt == 1 else tool.validator.validate(prepared.sent)
        injected = await dependencies.values(tool.injected, context)
        value = await tool.call(prepared.sent if tool.in_process else {**arguments, **injected})
        return (value.value, value.text) if isinstance(value, ToolReturn) else (value, as_text(value))

    started = time.monotonic()
    outcome: tuple[Any, str] | BaseException
    timed_out = False
    try:
        async with limit:
            # `gather` tells the tool from its surroundings: what the tool raises, be it a TimeoutError or a
            # CancelledError, comes back as a value; a cancellation from outside is raised here, after the tool
            # has cleaned up, even if the tool suppresses it.
            [outcome] = await asyncio.gather(work(), return_exceptions=True)
    except TimeoutError:
        going_on = "" if tool.stops else "; it may still be running"
        outcome = ToolTimeoutError(f"timed out after {timeout:g} seconds{going_on}", timeout=timeout)
        timed_out = True
    finally:
        context._ended.set()
    duration = time.monotonic() - started
    if isinstance(outcome, BaseException):
        return Outcome(error=outcome, duration=duration, timed_out=timed_out)
    value, text = outcome
    return Outcome(value, text, duration=duration)
