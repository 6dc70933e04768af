"""Circuit breakers: what has failed too often is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from inspect import isawaitable
from typing import Any

from llmgine.bus.clocks import utc_now
from llmgine.bus.interfaces import CommandHandler, HandlerMiddleware
from llmgine.bus.resilience import circuit as core
from llmgine.bus.resilience.circuit import Circuit, CircuitBreakerConfig, CircuitState, Outcome
from llmgine.bus.resilience.outcomes import Announce, NextForCommand, attempt, failed, noted
from llmgine.bus.resilience.rules import Action, Rule, action_for, check_rules
from llmgine.bus.resilience.window import Window
from llmgine.bus.results import failed as failed_result
from llmgine.errors import CircuitOpenError
from llmgine.messages import Command, CommandResult
from llmgine.messages.events import CircuitBreakerChangedEvent
from llmgine.messages.ids import BUS

__all__ = ["CircuitBreaker", "CircuitBreakerConfig", "CircuitBreakerMiddleware", "CircuitState"]

# Every command compares them, and looking up a member of an enumeration takes longer than that.
_CLOSED, _SUCCESS, _NEUTRAL = CircuitState.CLOSED, Outcome.SUCCESS, Outcome.NEUTRAL


class CircuitBreaker:
    """Lets calls through until too many of them fail; then none for a while; then a few, to see.

    It has no timer: when `recovery_timeout` has passed, it stays open until the next call, which is the first trial.
    """

    def __init__(
        self,
        name: str,
        config: CircuitBreakerConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        dates: Callable[[], datetime] = utc_now,
        by_hand: Callable[[CircuitBreaker, CircuitState], object] | None = None,
    ) -> None:
        """Make one that is closed.

        Args:
            name: for errors and reports.
            config: when to open and close.
            clock: seconds that never go back.
            dates: what time it is, for reports.
            by_hand: told when `isolate` or `reset` has changed the state, and from which.
        """
        self.name = name
        self.config = config or CircuitBreakerConfig()
        self.refused = 0
        """How many calls were not let through."""
        self._clock = clock
        self._dates = dates
        self._by_hand = by_hand
        self.circuit = Circuit(since=clock())
        """As it is now."""
        self._window = Window(self.config.window_size)
        self._slow = self.config.slow_call_duration
        self._by_ratio = self.config.failure_ratio is not None
        self._last_failure: datetime | None = None
        self._last_change = dates()

    async def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, and return what it returns, awaited if it can be.

        What it raises is a failure, save for what is no `Exception` (cancelling is neither failure nor success), and so
        is a `CommandResult` that says so.

        Raises:
            CircuitOpenError: it was not called.
        """
        permit = self.enter()
        if permit is None:
            raise self.refusal()
        outcome = _NEUTRAL
        try:
            result = func(*args, **kwargs)
            if isawaitable(result):
                result = await result
            outcome = Outcome.FAILURE if failed(result) else Outcome.SUCCESS
        except Exception:  # whatever the function raises is a failure, and goes on to whoever called
            outcome = Outcome.FAILURE
            raise
        finally:
            self.leave(permit, outcome)
        return result

    def enter(self) -> tuple[int, float] | None:
        """Begin a call that ends with `leave`. Return what that takes; None if the call is refused."""
        circuit = self.circuit
        if circuit.state is _CLOSED:
            return circuit.era, 0.0 if self._slow is None else self._clock()
        now = self._clock()
        admitted = core.admit(circuit, now, self.config)
        if admitted is None:
            self.refused += 1
            return None
        self._become(admitted)
        return admitted.era, now

    def leave(self, permit: tuple[int, float], outcome: Outcome) -> None:
        """End a call that `enter` has begun."""
        circuit = self.circuit
        era, began = permit
        counts = circuit.state is _CLOSED and era == circuit.era
        if self._slow is not None and outcome is _SUCCESS and self._clock() - began >= self._slow:
            outcome = Outcome.FAILURE
        if counts and outcome is _SUCCESS:  # which opens nothing
            if self._by_ratio:
                self._window.add(self._clock(), failed=False)
            return
        now = self._clock()
        if outcome is Outcome.FAILURE:
            self._last_failure = self._dates()
            if counts:
                self._window.add(now, failed=True)
        counted = self._window.counted(now)
        self._become(core.settle(circuit, era, outcome, now, counted=counted, config=self.config))

    def refusal(self) -> CircuitOpenError:
        """Return the error of a call that is not let through."""
        state, left, what = self.state, None, "somebody has isolated it; reset() closes it"
        if state is CircuitState.HALF_OPEN:
            left, what = 0.0, "it is being tried whether it works again"
        elif state is CircuitState.OPEN:
            left = max(0.0, self.circuit.since + self.config.recovery_timeout - self._clock())
            what = f"{self.failure_count} calls have failed; it is tried again in {left:.3g} s"
        return CircuitOpenError(f"Circuit breaker '{self.name}' is OPEN: {what}.", name=self.name, retry_after=left)

    @property
    def state(self) -> CircuitState:
        """Who passes."""
        return self.circuit.state

    @property
    def failure_count(self) -> int:
        """Failures within the window while it is closed; then those that opened it, and those that have come since."""
        if self.circuit.state is CircuitState.CLOSED:
            return self._window.counted(self._clock())[1]
        return self.circuit.failures

    @property
    def success_count(self) -> int:
        """Trials that have succeeded since it became half-open."""
        return self.circuit.successes

    def get_state_info(self) -> dict[str, Any]:
        """Return {"name", "state", "failure_count", "success_count", "last_failure", "last_state_change"}.

        The last two are ISO 8601 dates; "last_failure" may be None.
        """
        return {
            "name": self.name,
            "state": self.state.value,
            "failure_count": self.failure_count,
            "success_count": self.success_count,
            "last_failure": None if self._last_failure is None else self._last_failure.isoformat(),
            "last_state_change": self._last_change.isoformat(),
        }

    def isolate(self) -> None:
        """Let nothing through until `reset`."""
        self._set(core.isolate(self.circuit._replace(failures=self.failure_count), self._clock()))

    def reset(self) -> None:
        """Close it, and forget what has failed."""
        self._set(core.reset(self.circuit, self._clock()))

    def _set(self, circuit: Circuit) -> None:
        before = self.state
        self._become(circuit)
        if self._by_hand is not None and self.state is not before:
            self._by_hand(self, before)

    def _become(self, circuit: Circuit) -> None:
        if circuit.era != self.circuit.era:
            self._last_change = self._dates()
            self._window.clear()
        self.circuit = circuit


class CircuitBreakerMiddleware(HandlerMiddleware):
    """A circuit breaker for each type of command, by the name of its class. Events are not looked at.

    A command that is refused, and one that fails, has `metadata["circuit_breaker_state"]`.
    """

    def __init__(
        self,
        config: CircuitBreakerConfig | None = None,
        *,
        rules: Sequence[Rule] = (),
        clock: Callable[[], float] = time.monotonic,
        dates: Callable[[], datetime] = utc_now,
        announce: Announce | None = None,
    ) -> None:
        """Say when they open and close.

        Args:
            config: of every breaker.
            rules: an exception that these give up on, or discard, is neither a failure nor a success.
            clock: seconds that never go back.
            dates: what time it is, for reports.
            announce: publishes a `CircuitBreakerChangedEvent` when a breaker has changed its state.

        Raises:
            ConfigurationError: `rules` holds something else.
        """
        self.config = config or CircuitBreakerConfig()
        self.breakers: dict[str, CircuitBreaker] = {}
        """Those there are so far, by the name of the command's class."""
        self._rules = check_rules(rules)
        self._clock = clock
        self._dates = dates
        self._announce = announce

    def breaker(self, name: str) -> CircuitBreaker:
        """Return the breaker of a class of commands."""
        breaker = self.breakers.get(name)
        if breaker is None:
            breaker = CircuitBreaker(name, self.config, clock=self._clock, dates=self._dates, by_hand=self._tell)
            self.breakers[name] = breaker
        return breaker

    async def process_command(  # noqa: D102
        self, command: Command[Any], handler: CommandHandler, next_middleware: NextForCommand
    ) -> CommandResult[Any]:
        name = type(command).__name__
        breaker = self.breakers.get(name) or self.breaker(name)
        before = breaker.circuit
        permit = breaker.enter()
        if permit is None:
            msg = f"Circuit breaker is OPEN for {name}"
            return failed_result(msg, command, breaker.refusal(), circuit_breaker_state=before.state.value)
        if before is not breaker.circuit:
            self._tell(breaker, before.state, command)
        outcome = _NEUTRAL
        try:
            result = await attempt(command, handler, next_middleware)
            if not failed(result):
                outcome = _SUCCESS
            elif action_for(result, self._rules) in {Action.RETRY, Action.DEAD_LETTER}:
                outcome = Outcome.FAILURE
        finally:
            before = breaker.circuit
            breaker.leave(permit, outcome)
            if before is not breaker.circuit:
                self._tell(breaker, before.state, command)
        return result if outcome is _SUCCESS else noted(result, circuit_breaker_state=breaker.state.value)

    def _tell(self, breaker: CircuitBreaker, before: CircuitState, command: Command[Any] | None = None) -> None:
        after = breaker.state
        if after is not before and self._announce is not None:
            event = CircuitBreakerChangedEvent(
                name=breaker.name,
                state=after.value,
                previous=before.value,
                failure_count=breaker.failure_count,
                session_id=BUS if command is None else command.session_id,
            )
            self._announce(event, command)
