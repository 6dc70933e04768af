"""Which policies apply to which commands, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmgine.bus.interfaces import HandlerMiddleware
from llmgine.bus.resilience.backoff import RetryConfig
from llmgine.bus.resilience.circuit_breaker import CircuitBreaker, CircuitBreakerConfig, CircuitBreakerMiddleware
from llmgine.bus.resilience.concurrency import ConcurrencyLimitMiddleware
from llmgine.bus.resilience.dead_letter_middleware import DeadLetterMiddleware
from llmgine.bus.resilience.dead_letters import DeadLetters
from llmgine.bus.resilience.outcomes import Announce
from llmgine.bus.resilience.retry import Retry
from llmgine.bus.resilience.rules import Action, Rule, check_rules
from llmgine.bus.resilience.statistics import ErrorStatistics
from llmgine.bus.resilience.timeout import TimeoutMiddleware
from llmgine.errors import ConfigurationError
from llmgine.messages import Command

__all__ = ["Policies", "Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is done for commands that may fail. `Policy()` does nothing, and so exempts a type from the default.

    Raises:
        ConfigurationError: options contradict each other or make no sense.
    """

    retry: RetryConfig | None = None
    circuit_breaker: CircuitBreakerConfig | None = None
    concurrency: int | None = None
    """Commands of one type at the same time."""
    max_waiting: int | None = None
    """Commands of one type that may wait for others, where `concurrency` is limited."""
    timeout: float | None = None
    """Seconds for each attempt. The time for the command as a whole is `execute(command, timeout=…)`."""
    dead_letters: bool = False
    """Keep commands that failed for good."""
    rules: tuple[Rule, ...] = ()
    """What to do about some exceptions."""

    def __post_init__(self) -> None:
        for name, kind in (("retry", RetryConfig), ("circuit_breaker", CircuitBreakerConfig)):
            given = getattr(self, name)
            if not isinstance(given, kind | None):
                msg = f"{name} must be a {kind.__name__} or None; got {given!r}."
                raise ConfigurationError(msg)
        rules = check_rules(self.rules)
        if self.max_waiting is not None and self.concurrency is None:
            msg = "max_waiting says how many may wait where concurrency is limited; set concurrency as well."
            raise ConfigurationError(msg)
        if self.rules and not (self.retry or self.circuit_breaker or self.dead_letters):
            msg = "rules say what retry, circuit_breaker and dead_letters do about an exception; set one of these."
            raise ConfigurationError(msg)
        if any(rule.action is Action.DEAD_LETTER for rule in rules) and not self.dead_letters:
            msg = "A rule makes dead letters, and nothing keeps them; set dead_letters=True."
            raise ConfigurationError(msg)
        self._inner_layers()

    def layers(self, letters: DeadLetters | None, announce: Announce | None) -> list[HandlerMiddleware]:
        """Return new layers that do this, the outermost first.

        Raises:
            ConfigurationError: there are to be dead letters, and `letters` is None.
        """
        layers: list[HandlerMiddleware] = []
        if self.dead_letters:
            if letters is None:
                msg = "The policy has dead_letters=True, and nothing to keep them in; give it letters=DeadLetters(…)."
                raise ConfigurationError(msg)
            layers.append(DeadLetterMiddleware(letters, rules=self.rules))
        return [*layers, *self._inner_layers(announce)]

    def _inner_layers(self, announce: Announce | None = None) -> list[HandlerMiddleware]:
        layers: list[HandlerMiddleware] = []
        if self.retry is not None:
            layers.append(Retry(self.retry, rules=self.rules, announce=announce))
        if self.concurrency is not None:
            layers.append(ConcurrencyLimitMiddleware(self.concurrency, self.max_waiting))
        if self.circuit_breaker is not None:
            layers.append(CircuitBreakerMiddleware(self.circuit_breaker, rules=self.rules, announce=announce))
        if self.timeout is not None:
            layers.append(TimeoutMiddleware(self.timeout))
        return layers


class Policies:
    """The policies of a bus. Commands under the same policy share its layers, whatever their session."""

    def __init__(
        self,
        default: Policy | None = None,
        by_type: Mapping[type[Command[Any]], Policy] | None = None,
        letters: DeadLetters | None = None,
        announce: Announce | None = None,
    ) -> None:
        """Say which policy applies to what.

        Args:
            default: for commands that no other is meant for.
            by_type: for commands of these classes and their subclasses; the nearest class decides.
            letters: keeps the dead letters.
            announce: publishes what the policies do.

        Raises:
            ConfigurationError: something is no policy or no command class, or nothing keeps the dead letters.
        """
        chosen: Mapping[Any, Any] = {**(by_type or {}), **({} if default is None else {object: default})}
        self.statistics = ErrorStatistics()
        """How all commands fare, also those without a policy."""
        self._layers: dict[type, list[HandlerMiddleware]] = {}
        for kind, policy in chosen.items():
            if kind is not object and not (isinstance(kind, type) and issubclass(kind, Command)):
                msg = f"Policies are for command classes; {kind!r} is none."
                raise ConfigurationError(msg)
            if not isinstance(policy, Policy):
                msg = f"A policy is a Policy(…); got {policy!r}."
                raise ConfigurationError(msg)
            self._layers[kind] = policy.layers(letters, announce)

    def layers_for(self, command_type: type[Command[Any]]) -> list[HandlerMiddleware]:
        """Return the layers around the handlers of a class of commands, the outermost first."""
        for kind in command_type.__mro__:
            if kind in self._layers:
                return list(self._layers[kind])
        return []

    @property
    def breakers(self) -> dict[str, CircuitBreaker]:
        """The circuit breakers there are so far, by the name of the command's class."""
        return {
            name: breaker for layer in self._each(CircuitBreakerMiddleware) for name, breaker in layer.breakers.items()
        }

    @property
    def retrying(self) -> int:
        """How many commands have failed, and are being tried again or wait for that."""
        return sum(layer.retrying for layer in self._each(Retry))

    @property
    def retried(self) -> int:
        """How often commands were tried again, also where a circuit breaker refused that."""
        return sum(layer.retried for layer in self._each(Retry))

    def _each(self, kind: type[Any]) -> list[Any]:
        return [layer for layers in self._layers.values() for layer in layers if isinstance(layer, kind)]
