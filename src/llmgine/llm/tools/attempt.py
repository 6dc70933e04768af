"""One attempt at running a tool, within its time."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, replace
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
    prepared: PreparedCall, context: ToolContext, dependencies: Dependencies, timeout: float, attempt: int
) -> Outcome | None:
    """Run a tool until it is done, or `timeout` seconds are over, or the context's deadline.

    Only a cancellation is raised, when the tool has cleaned up. After the deadline, return None and run nothing.

    Args:
        prepared: the call.
        context: of the call; the rest is filled in here.
        dependencies: what there is to inject.
        timeout: seconds; may be infinite.
        attempt: which one it is, counted from 1.
    """
    tool = prepared.tool
    loop = asyncio.get_running_loop()
    now = loop.time()
    final = context.deadline
    if final is not None:
        timeout = min(timeout, final - now)
        if timeout <= 0:
            return None
    clock = AttemptClock(now + timeout if math.isfinite(timeout) else None, final)
    context = replace(
        context,
        tool_call_id=prepared.call.id,
        tool_name=tool.name,
        deadline=now + timeout if math.isfinite(timeout) else None,
        attempt=attempt,
        _loop=loop,
        _clock=clock,
    )
    caller = asyncio.current_task()
    cancelled_before = caller.cancelling() if caller else 0
    started = time.monotonic()
    # A task of its own: what the tool sets in its context stays there, and so does a cancellation of its own making.
    task = loop.create_task(_work(prepared, context, dependencies))
    clock.start(task)
    outcome: tuple[Any, str] | BaseException
    try:
        outcome = await task
    except asyncio.CancelledError as exc:  # before it has begun
        if not clock.expired:
            raise
        outcome = exc
    finally:
        clock.end()
    if caller and caller.cancelling() > cancelled_before:  # it counts also if the tool suppresses it
        raise asyncio.CancelledError
    duration = time.monotonic() - started
    if clock.expired:
        going_on = "" if tool.stops else "; it may still be running"
        outcome = ToolTimeoutError(f"timed out after {timeout:g} seconds{going_on}", timeout=timeout)
    if isinstance(outcome, BaseException):
        return Outcome(error=outcome, duration=duration, timed_out=clock.expired)
    value, text = outcome
    return Outcome(value, text, duration=duration)


async def _work(
    prepared: PreparedCall, context: ToolContext, dependencies: Dependencies
) -> tuple[Any, str] | BaseException:
    """Return what the tool returns and its text, or what it raises, be it a TimeoutError or a CancelledError."""
    tool = prepared.tool
    try:
        arguments = prepared.arguments if context.attempt == 1 else tool.validator.validate(prepared.sent)
        injected = await dependencies.values(tool.injected, context)
        value = await tool.call(prepared.sent if tool.in_process else {**arguments, **injected})
        return (value.value, value.text) if isinstance(value, ToolReturn) else (value, as_text(value))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # noqa: BLE001  # a tool may raise anything
        return exc
