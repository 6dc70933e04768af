"""Policies for commands that may fail: try again, break the circuit, limit, time out, and keep what failed for good.

Each is a `HandlerMiddleware` that can be used alone. A `Policy` puts them in their order.
"""

from llmgine.bus.resilience.backoff import Jitter, RetryConfig
from llmgine.bus.resilience.bus import ResilientMessageBus
from llmgine.bus.resilience.circuit import CircuitBreakerConfig, CircuitState
from llmgine.bus.resilience.circuit_breaker import CircuitBreaker, CircuitBreakerMiddleware
from llmgine.bus.resilience.concurrency import ConcurrencyLimitMiddleware
from llmgine.bus.resilience.dead_letter_middleware import DeadLetterMiddleware
from llmgine.bus.resilience.dead_letters import DeadLetters
from llmgine.bus.resilience.memory_dead_letters import MemoryDeadLetterStore
from llmgine.bus.resilience.policy import Policies, Policy
from llmgine.bus.resilience.retry import Retry
from llmgine.bus.resilience.rules import Action, Rule
from llmgine.bus.resilience.statistics import ErrorStatistics
from llmgine.bus.resilience.timeout import TimeoutMiddleware
from llmgine.bus.stores import DeadLetterEntry

__all__ = [
    "Action",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerMiddleware",
    "CircuitState",
    "ConcurrencyLimitMiddleware",
    "DeadLetterEntry",
    "DeadLetterMiddleware",
    "DeadLetters",
    "ErrorStatistics",
    "Jitter",
    "MemoryDeadLetterStore",
    "Policies",
    "Policy",
    "ResilientMessageBus",
    "Retry",
    "RetryConfig",
    "Rule",
    "TimeoutMiddleware",
]
