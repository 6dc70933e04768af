"""The resilient bus: a preset over the same onion. It fills in options, adds accessors, and overrides nothing."""

from __future__ import annotations

from typing import Any

from llmgine.bus.backpressure import BackpressureStrategy, BoundedEventQueue
from llmgine.bus.bus import MessageBus
from llmgine.bus.resilience.circuit_breaker import CircuitBreaker, CircuitBreakerConfig
from llmgine.bus.resilience.policy import Policy
from llmgine.bus.resilience.retry import RetryConfig
from llmgine.bus.stores import DeadLetterEntry
from llmgine.messages import CommandResult

__all__ = ["ResilientMessageBus"]


class ResilientMessageBus(MessageBus):
    """A bus that tries commands again, breaks circuits, keeps dead letters, and holds a bounded number of events."""

    def __init__(  # pyright: ignore[reportInconsistentConstructor]
        self,
        retry_config: RetryConfig | None = None,
        max_dead_letter_size: int = 1000,
        event_queue_size: int = 10_000,
        backpressure_strategy: BackpressureStrategy = BackpressureStrategy.DROP_OLDEST,
        circuit_breaker_config: CircuitBreakerConfig | None = None,
        **options: Any,
    ) -> None:
        """Configure the bus, or, when it exists already, check that the options do not contradict it.

        Args:
            retry_config: how often a failed command is tried again, and when.
            max_dead_letter_size: how many commands that failed for good are kept; the oldest give way.
            event_queue_size: how many events may wait.
            backpressure_strategy: what happens to those for which there is no room.
            circuit_breaker_config: when commands of a type are refused, because too many have failed.
            options: those of `MessageBus`.

        Raises:
            ConfigurationError: the bus exists and was made with other options, or an option makes no sense.
        """
        self._take(
            {
                "retry_config": retry_config,
                "max_dead_letter_size": max_dead_letter_size,
                "event_queue_size": event_queue_size,
                "backpressure_strategy": backpressure_strategy,
                "circuit_breaker_config": circuit_breaker_config,
                **options,
            },
            _spell_out,
        )

    @property
    def dead_letter_queue_size(self) -> int:
        """How many dead letters are kept."""
        return self._kept.letters.size if self._kept.letters is not None else 0

    async def get_dead_letter_entries(self, limit: int | None = None) -> list[DeadLetterEntry]:
        """Return dead letters, the oldest first.

        Raises:
            StoreError: the database cannot be read.
        """
        return await self._kept.letters.entries(limit) if self._kept.letters is not None else []

    async def retry_dead_letter_entry(self, command_id: str) -> CommandResult[Any] | None:
        """Execute the command of a dead letter again, and forget the letter if it succeeds.

        Returns:
            Its result; None if there is no such letter.

        Raises:
            StoreError: the database cannot be read.
        """
        return await self._kept.letters.retry(command_id, self.execute) if self._kept.letters is not None else None

    @property
    def is_retrying_commands(self) -> bool:
        """Whether a command that has failed waits for its next attempt."""
        return self._policies is not None and self._policies.retrying > 0

    def get_handler_error_stats(self, session_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        """Return how often commands failed, of one session or all.

        Returns:
            `{session: {command type: {"failure_count", "consecutive_failures", "total_executions", "failure_rate",
            "last_failure"}}}`
        """
        return self._policies.statistics.get(session_id) if self._policies is not None else {}

    def get_queue_metrics(self) -> dict[str, Any]:
        """Return how the queue of events is doing.

        Returns:
            "current_size", "total_enqueued" (also what was dropped later), "total_dequeued", "total_dropped",
            "total_rejected", "high_water_mark_hits", "max_size_reached" and "backpressure_active".
        """
        return self._bound.figures() if self._bound is not None else {}

    @property
    def circuit_breakers(self) -> dict[str, CircuitBreaker]:
        """The circuit breakers there are so far, by the name of the command type."""
        return self._policies.breakers if self._policies is not None else {}

    def get_circuit_breaker_states(self) -> dict[str, dict[str, Any]]:
        """Return the state of each circuit breaker, by the name of the command type."""
        return {name: breaker.get_state_info() for name, breaker in self.circuit_breakers.items()}


def _spell_out(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a `MessageBus` that is resilient."""
    options = dict(options)
    policy = Policy(
        retry=options.pop("retry_config") or RetryConfig(),
        circuit_breaker=options.pop("circuit_breaker_config") or CircuitBreakerConfig(),
        dead_letters=True,
    )
    queue: BoundedEventQueue[Any] = BoundedEventQueue(
        options.pop("event_queue_size"), strategy=options.pop("backpressure_strategy")
    )
    return {
        "policy": policy,
        "event_queue": queue,
        "max_dead_letters": options.pop("max_dead_letter_size"),
        **options,
    }
