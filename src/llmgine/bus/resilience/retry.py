"""Trying again."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llmgine.bus import causality
from llmgine.bus.clocks import loop_time
from llmgine.bus.interfaces import CommandHandler, HandlerMiddleware
from llmgine.bus.resilience.backoff import Jitter, RetryConfig
from llmgine.bus.resilience.outcomes import Announce, NextForCommand, failed, noted, refused
from llmgine.bus.resilience.rules import Action, Rule, action_for, check_rules, discarded
from llmgine.bus.results import raised
from llmgine.messages import Command, CommandResult
from llmgine.messages.events import CommandRetriedEvent

__all__ = ["Jitter", "Retry", "RetryConfig"]


class Retry(HandlerMiddleware):
    """Runs a command's handler again when it fails. Events are handled once.

    The last failure is returned, with `metadata["attempts"]`: how often the handler ran. Where a circuit breaker has
    refused the later attempts, that is the handler's own last failure. No attempt begins after the command's deadline.
    """

    _reraises = False

    def __init__(
        self,
        config: RetryConfig | None = None,
        *,
        rules: Sequence[Rule] = (),
        random: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = loop_time,
        announce: Announce | None = None,
    ) -> None:
        """Say how often, when, and for which errors.

        Args:
            config: how often and when.
            rules: what to do about some exceptions; by default everything is tried again but what would fail the same
                way.
            random: returns a number between two, for the jitter.
            sleep: waits for some seconds.
            clock: what deadlines are told by, in seconds.
            announce: publishes a `CommandRetriedEvent` before each wait.

        Raises:
            ConfigurationError: `rules` holds something else.
        """
        self.config = config or RetryConfig()
        self._rules = check_rules(rules)
        self._random = random
        self._sleep = sleep
        self._clock = clock
        self._announce = announce
        self.retried = 0
        """How often commands were tried again, also where a circuit breaker refused that."""
        self.retrying = 0
        """How many commands have failed, and are being tried again or wait for that."""

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        try:
            result = await next_middleware(command, handler)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises may be over at the next attempt
            result, thrown = raised(error, command), True
        else:
            if not failed(result):
                return result
            thrown = False
        self.retrying += 1
        try:
            return await self._go_on(command, handler, next_middleware, result, thrown)
        finally:
            self.retrying -= 1

    async def _go_on(
        self,
        command: Command[Any],
        handler: CommandHandler,
        next_middleware: NextForCommand,
        result: CommandResult[Any],
        thrown: bool,  # noqa: FBT001
    ) -> CommandResult[Any]:
        """Try again after a first failure; `thrown` if it was an exception."""
        attempts = 0 if refused(result, command) else 1
        tries = 1
        previous: float | None = None
        latest = result
        while True:
            action = action_for(latest, self._rules)
            if action is Action.DISCARD:
                return discarded(latest, command)
            delay = self._delay(tries, previous, latest.exception) if action is Action.RETRY else None
            if delay is None:
                break
            if self._announce is not None:
                event = CommandRetriedEvent(
                    command=command, attempt=tries, delay=delay, error=latest.error, session_id=command.session_id
                )
                self._announce(event, command)
            await self._sleep(delay)
            self.retried += 1
            tries += 1
            previous = delay
            try:
                latest = await next_middleware(command, handler)
            except Exception as error:  # noqa: BLE001  # as above
                latest, thrown = raised(error, command), True
            else:
                if not failed(latest):
                    return latest
                thrown = False
            if attempts and refused(latest, command):
                result = noted(result, circuit_breaker_state=latest.metadata.get("circuit_breaker_state"))
            else:
                result = latest
                attempts += not refused(latest, command)
        if thrown and self._reraises and result.exception is not None:
            try:
                raise result.exception
            finally:
                del result, latest  # which hold the error, whose traceback holds this frame
        return noted(result, attempts=attempts)

    def _delay(self, tries: int, previous: float | None, error: Exception | None) -> float | None:
        """Return the seconds to wait after so many tries; None if that was the last."""
        if tries > self.config.max_retries:
            return None
        delay = self.config.delay(tries, previous, self._random)
        retry_after = getattr(error, "retry_after", None)
        if isinstance(retry_after, int | float) and retry_after > delay:
            delay = retry_after
        deadline = causality.deadline()
        ends = math.inf if deadline is None else deadline - self._clock()
        return delay if delay < ends else None
