"""The layers around handlers that come with the bus. Each may serve several buses at once."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import Awaitable, Callable
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Any, TypeAlias

from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerMiddleware
from llmgine.bus.options import check_number
from llmgine.bus.rate import Turns, check_rate
from llmgine.bus.resilience.backoff import RetryConfig
from llmgine.bus.resilience.outcomes import MISSING_SESSION, NextForCommand, failed
from llmgine.bus.resilience.retry import Retry
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult, Event

__all__ = [
    "LoggingMiddleware",
    "RateLimitMiddleware",
    "RetryMiddleware",
    "TimingMiddleware",
    "ValidationMiddleware",
    "check_middleware",
]

_NextForEvent: TypeAlias = Callable[[Event, EventHandler], Awaitable[Any]]

_log = logging.getLogger("llmgine.bus.middleware")


class LoggingMiddleware(HandlerMiddleware):
    """Logs when each handler begins and how it ends. Failures are logged as errors, and go on to whoever waits."""

    def __init__(self, log_level: int = logging.INFO) -> None:
        """Set the level of what goes well, such as `logging.DEBUG`.

        Raises:
            ConfigurationError: `log_level` is no such level.
        """
        check_number("log_level", log_level, int, "a level of the logging module, such as logging.INFO")
        self._level = log_level

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        name = type(command).__name__
        _log.log(self._level, "Executing command %s %s", name, command.command_id)
        started = time.perf_counter()
        try:
            result = await next_middleware(command, handler)
        except BaseException as error:  # cancelling is an end too
            self._log_end(f"Command {name}", started, error)
            raise
        self._log_end(f"Command {name}", started, result.error or "no reason given" if failed(result) else None)
        return result

    async def process_event(self, event: Event, handler: EventHandler, next_middleware: _NextForEvent) -> Any:  # noqa: D102
        name = type(event).__name__
        by = getattr(handler, "__qualname__", None) or repr(handler)
        _log.log(self._level, "Processing event %s %s with %s", name, event.event_id, by)
        started = time.perf_counter()
        try:
            outcome = await next_middleware(event, handler)
        except BaseException as error:  # cancelling is an end too
            self._log_end(f"Event {name} with {by}", started, error)
            raise
        self._log_end(f"Event {name} with {by}", started, None)
        return outcome

    def _log_end(self, what: str, started: float, failure: BaseException | str | None) -> None:
        elapsed = 1000 * (time.perf_counter() - started)
        if failure is None:
            _log.log(self._level, "%s completed in %.2f ms", what, elapsed)
        elif isinstance(failure, asyncio.CancelledError):
            _log.log(self._level, "%s was cancelled after %.2f ms", what, elapsed)
        else:
            why = failure if isinstance(failure, str) else f"{type(failure).__name__}: {failure}"
            _log.error("%s failed after %.2f ms: %s", what, elapsed, why)


class TimingMiddleware(HandlerMiddleware):
    """Measures how long handlers take, by the type of what they handle, however they end."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Measure with `clock`, in seconds."""
        self._clock = clock
        # By name: count, sum, least and most, in seconds.
        self._durations: dict[str, tuple[int, float, float, float]] = {}

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        started = self._clock()
        try:
            return await next_middleware(command, handler)
        finally:
            self._note(f"command_{type(command).__name__}", started)

    async def process_event(self, event: Event, handler: EventHandler, next_middleware: _NextForEvent) -> Any:  # noqa: D102
        started = self._clock()
        try:
            return await next_middleware(event, handler)
        finally:
            self._note(f"event_{type(event).__name__}", started)

    async def get_stats(self) -> dict[str, dict[str, float]]:
        """Return `{"command_<Type>" or "event_<Type>": {"count", "avg_ms", "min_ms", "max_ms"}}`.

        An event counts once for each of its handlers.
        """
        return {
            name: {"count": count, "avg_ms": 1000 * total / count, "min_ms": 1000 * least, "max_ms": 1000 * most}
            for name, (count, total, least, most) in self._durations.items()
        }

    def _note(self, name: str, started: float) -> None:
        elapsed = self._clock() - started
        count, total, least, most = self._durations.get(name, (0, 0.0, math.inf, 0.0))
        self._durations[name] = (count + 1, total + elapsed, min(least, elapsed), max(most, elapsed))


class RetryMiddleware(Retry):
    """Runs a command's handler again when it fails. Events are handled once.

    A raised exception and a returned `success=False` are both failures. Not tried again are a cancelled command, and
    what would fail the same way: `ConfigurationError`, `HandlerNotFoundError`, `ToolValidationError`, exceptions whose
    class is called `ValidationError`, what an open circuit breaker refused, and what `ValidationMiddleware` refuses. No
    attempt begins after the command's deadline. A last exception is raised.
    """

    _reraises = True

    def __init__(
        self,
        max_retries: int = 3,
        retry_delay: float = 0.1,
        exponential_backoff: bool = True,  # noqa: FBT001, FBT002  # published
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Say how often, and how long to wait in between.

        Args:
            max_retries: attempts after the first one.
            retry_delay: seconds before the first retry. If the exception has a number as `retry_after`, the wait is
                at least that long.
            exponential_backoff: double the delay with each retry.
            sleep: waits for some seconds.

        Raises:
            ConfigurationError: `max_retries` is no whole number, or one of the numbers is negative or not finite.
        """
        check_number("retry_delay", retry_delay, int | float, "a number of seconds, 0 or more")
        config = RetryConfig(
            max_retries,
            retry_delay,
            max_delay=sys.float_info.max,
            exponential_base=2.0 if exponential_backoff else 1.0,
            jitter=False,
        )
        super().__init__(config, sleep=sleep)


class ValidationMiddleware(HandlerMiddleware):
    """Refuses commands that lack what a handler relies on, before any handler sees them."""

    def __init__(self, validate_session_id: bool = True) -> None:  # noqa: FBT001, FBT002  # published
        """Say what to check: with `validate_session_id`, that a command's session id is not empty."""
        self._validate_session_id = validate_session_id

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        if self._validate_session_id and not command.session_id:
            return CommandResult(success=False, error=MISSING_SESSION, command_id=command.command_id)
        return await next_middleware(command, handler)


class RateLimitMiddleware(HandlerMiddleware):
    """Makes commands of a type wait, so that their handlers start at least `1 / max_per_second` seconds apart.

    Commands of one type start in the order in which they came; they may well run at the same time. The time that a
    command waits counts against its deadline. Events are not held up.
    """

    def __init__(
        self,
        max_per_second: float = 10.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Set the rate.

        Args:
            max_per_second: how many commands of one type may start in a second.
            clock: seconds that never go back.
            sleep: waits for some seconds of `clock`.

        Raises:
            ConfigurationError: `max_per_second` is not a positive, finite number.
        """
        check_rate(max_per_second)
        self._turns = Turns(1 / max_per_second, clock=clock, sleep=sleep)

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        await self._turns.wait(type(command))
        return await next_middleware(command, handler)


def check_middleware(candidate: object) -> None:
    """Raise ConfigurationError, which says what is wrong, unless this is an object that can wrap handlers."""
    expected = (
        "middleware is an object with async methods process_command and process_event, which take the message, the "
        "handler and the next layer; subclass HandlerMiddleware and override the side you need"
    )
    if isinstance(candidate, type):
        msg = f"{candidate.__name__} is a class; {expected}. Make one: {candidate.__name__}(...)."
        raise ConfigurationError(msg)
    for name in ("process_command", "process_event"):
        process = getattr(candidate, name, None)
        if not callable(process):
            msg = f"{candidate!r} has no method {name}; {expected}."
            raise ConfigurationError(msg)
        # A plain def is in order where it returns what the next layer returned.
        if isasyncgenfunction(process) or isgeneratorfunction(process):
            msg = f"{name} of {candidate!r} yields, so it cannot be awaited; {expected}."
            raise ConfigurationError(msg)
