"""What a circuit breaker does next: states and the ways between them, without clocks, waiting or side effects.

Michael Nygard, "Release It!", 2007: closed, everything passes; open, nothing does; half-open, a few calls try whether
it works again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from llmgine.bus.options import check_number
from llmgine.errors import ConfigurationError

__all__ = ["Circuit", "CircuitBreakerConfig", "CircuitState", "Outcome", "admit", "isolate", "reset", "settle"]


class CircuitState(Enum):
    """Who passes."""

    CLOSED = "closed"
    """Everybody."""
    OPEN = "open"
    """Nobody, until the recovery timeout has passed; then the next call is a trial."""
    HALF_OPEN = "half_open"
    """A few at a time, on trial."""
    ISOLATED = "isolated"
    """Nobody, until somebody resets it by hand."""


class Outcome(Enum):
    """How a call ended, as far as the breaker is concerned."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"
    """It says nothing of how the thing called is doing: a cancelled call, or a refused argument."""


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """When a circuit breaker opens and closes.

    Raises:
        ConfigurationError: an option is out of its range.
    """

    failure_threshold: int = 5
    """Failures within the window that open it. Not looked at where there is a `failure_ratio`."""
    recovery_timeout: float = 60.0
    """Seconds after which the next call is a trial."""
    success_threshold: int = 3
    """Trials that must succeed, without a failure in between, to close it."""
    window_size: float = 60.0
    """Seconds that a call counts; exact to a hundredth of that, upwards."""
    failure_ratio: float | None = None
    """Open when this part of the calls within the window has failed, above 0 and up to 1; None to count failures."""
    minimum_throughput: int = 10
    """With `failure_ratio`: calls within the window below which it does not open."""
    slow_call_duration: float | None = None
    """Seconds from which on a call that succeeds is a failure all the same; None if it may take as long as it likes."""
    half_open_max_calls: int = 1
    """Trials at the same time."""

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "minimum_throughput", "half_open_max_calls"):
            check_number(name, getattr(self, name), int, "a whole number, 1 or more", least=1)
        check_number("recovery_timeout", self.recovery_timeout, int | float, "a number of seconds, 0 or more")
        for name in ("window_size", "failure_ratio", "slow_call_duration"):
            given = getattr(self, name)
            if given is None and name != "window_size":
                continue
            check_number(name, given, int | float, "a number above 0")
            if not given:
                msg = f"{name} must be above 0; got {given!r}."
                raise ConfigurationError(msg)
        if self.failure_ratio is not None and self.failure_ratio > 1:
            msg = f"failure_ratio is a part of the calls, from above 0 to 1; got {self.failure_ratio!r}."
            raise ConfigurationError(msg)


class Circuit(NamedTuple):
    """The state of a breaker, apart from what it has counted while closed."""

    state: CircuitState = CircuitState.CLOSED
    era: int = 0
    """Raised with each change of state. A call belongs to the one that it began in."""
    since: float = 0.0
    """When this state began, in seconds of the breaker's clock."""
    trials: int = 0
    """Under way."""
    successes: int = 0
    """Of trials, since it became half-open."""
    failures: int = 0
    """That opened it, and those that have come in since."""


def admit(circuit: Circuit, now: float, config: CircuitBreakerConfig) -> Circuit | None:
    """Return what becomes of the circuit when a call begins; None if it is refused."""
    match circuit.state:
        case CircuitState.CLOSED:
            return circuit
        case CircuitState.OPEN if now - circuit.since >= config.recovery_timeout:
            return _enter(circuit, CircuitState.HALF_OPEN, now, trials=1, failures=circuit.failures)
        case CircuitState.HALF_OPEN if circuit.trials < config.half_open_max_calls:
            return circuit._replace(trials=circuit.trials + 1)
        case _:
            return None


def settle(
    circuit: Circuit,
    era: int,
    outcome: Outcome,
    now: float,
    *,
    counted: tuple[int, int],
    config: CircuitBreakerConfig,
) -> Circuit:
    """Return what becomes of the circuit when a call ends.

    Args:
        circuit: as it is now.
        era: of the circuit when the call was admitted. What comes in late changes no state, only the count of failures
            while the circuit is open.
        outcome: of the call.
        now: in seconds of the breaker's clock.
        counted: calls and failures within the window, with this one.
        config: when to open and close.
    """
    failed, late = outcome is Outcome.FAILURE, era != circuit.era
    match circuit.state:
        case CircuitState.CLOSED if failed and not late and _too_much(*counted, config):
            return _enter(circuit, CircuitState.OPEN, now, failures=counted[1])
        case CircuitState.OPEN if failed:
            return circuit._replace(failures=circuit.failures + 1)
        case CircuitState.HALF_OPEN if failed and not late:
            return _enter(circuit, CircuitState.OPEN, now, failures=circuit.failures + 1)
        case CircuitState.HALF_OPEN if not late:
            successes = circuit.successes + (outcome is Outcome.SUCCESS)
            if successes >= config.success_threshold:
                return _enter(circuit, CircuitState.CLOSED, now)
            return circuit._replace(trials=circuit.trials - 1, successes=successes)
        case _:
            return circuit


def isolate(circuit: Circuit, now: float) -> Circuit:
    """Return the circuit, held open by hand."""
    return _enter(circuit, CircuitState.ISOLATED, now, failures=circuit.failures)


def reset(circuit: Circuit, now: float) -> Circuit:
    """Return the circuit, closed by hand."""
    return _enter(circuit, CircuitState.CLOSED, now)


def _enter(circuit: Circuit, state: CircuitState, now: float, trials: int = 0, failures: int = 0) -> Circuit:
    return Circuit(state, circuit.era + 1, now, trials, 0, failures)


def _too_much(calls: int, failures: int, config: CircuitBreakerConfig) -> bool:
    if config.failure_ratio is None:
        return failures >= config.failure_threshold
    return calls >= config.minimum_throughput and failures >= config.failure_ratio * calls
