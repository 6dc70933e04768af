"""A policy puts the layers in their order; the nearest class decides which one applies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.resilience import (
    Action,
    CircuitBreakerConfig,
    CircuitBreakerMiddleware,
    ConcurrencyLimitMiddleware,
    DeadLetterMiddleware,
    DeadLetters,
    MemoryDeadLetterStore,
    Policies,
    Policy,
    Retry,
    RetryConfig,
    Rule,
    TimeoutMiddleware,
)
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, Event

ALL = Policy(
    retry=RetryConfig(2, initial_delay=0),
    circuit_breaker=CircuitBreakerConfig(failure_threshold=2),
    concurrency=1,
    max_waiting=5,
    timeout=0.01,
    dead_letters=True,
    rules=(Rule(Action.DISCARD, on=KeyError),),
)


class Base(Command[Any]):
    pass


class Middle(Base):
    pass


class Leaf(Middle):
    pass


class Elsewhere(Command[Any]):
    pass


@pytest.fixture
def letters() -> DeadLetters:
    return DeadLetters(MemoryDeadLetterStore())


def test_layers_come_in_their_order_and_are_the_same_each_time(letters: DeadLetters) -> None:
    policies = Policies(ALL, letters=letters)
    layers = policies.layers_for(Leaf)

    assert [type(each) for each in layers] == [
        DeadLetterMiddleware,
        Retry,
        ConcurrencyLimitMiddleware,
        CircuitBreakerMiddleware,
        TimeoutMiddleware,
    ]
    assert policies.layers_for(Leaf) == policies.layers_for(Elsewhere) == layers


def test_the_nearest_class_decides(letters: DeadLetters) -> None:
    policies = Policies(Policy(timeout=1), {Base: Policy(timeout=2), Leaf: Policy()}, letters)

    def timeouts(kind: type[Command[Any]]) -> list[float]:
        return [each.seconds for each in policies.layers_for(kind) if isinstance(each, TimeoutMiddleware)]

    assert [timeouts(kind) for kind in (Elsewhere, Base, Middle, Leaf)] == [[1], [2], [2], []]
    assert Policies().layers_for(Leaf) == []
    assert Policies(by_type={Base: Policy(timeout=2)}).layers_for(Elsewhere) == []


async def test_each_attempt_passes_the_breaker_and_is_timed_and_the_whole_is_one_letter(
    bus: MessageBus,
) -> None:
    announced: list[Event] = []

    def announce(event: Event, _: Command[Any] | None) -> None:
        announced.append(event)

    letters = DeadLetters(MemoryDeadLetterStore(), announce=announce)
    policies = Policies(ALL, letters=letters, announce=announce)
    for layer in policies.layers_for(Leaf):
        bus.add_command_middleware(layer)
    calls: list[Any] = []

    async def hang(command: Leaf) -> None:
        calls.append(command)
        await asyncio.Event().wait()

    bus.register_command_handler(Leaf, hang)
    result = await bus.execute(Leaf())

    problem = "CommandTimeoutError: Leaf did not finish within 0.01 s"
    assert result.error == f"Command failed after 2 attempts: {problem}"
    assert (result.metadata["circuit_breaker_state"], len(calls), letters.size) == ("open", 2, 1)
    assert policies.breakers["Leaf"].failure_count == 2
    assert (policies.retried, policies.retrying) == (2, 0)  # the second was refused
    assert [type(event).__name__ for event in announced] == [
        "CommandRetriedEvent",
        "CircuitBreakerChangedEvent",
        "CommandRetriedEvent",
        "DeadLetterCommandEvent",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"retry": 3},
        {"circuit_breaker": RetryConfig()},
        {"concurrency": 0},
        {"max_waiting": 3},
        {"concurrency": 1, "max_waiting": -1},
        {"timeout": 0},
        {"rules": (Rule(Action.RETRY),)},
        {"rules": ("retry",), "dead_letters": True},
        {"rules": (Rule(Action.DEAD_LETTER),), "retry": RetryConfig()},
    ],
)
def test_options_that_contradict_each_other_or_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Policy(**options)


@pytest.mark.parametrize(
    ("default", "by_type", "says"),
    [
        (Policy(dead_letters=True), {}, "DeadLetters"),
        (RetryConfig(), {}, "A policy is"),
        (None, {Base: None}, "A policy is"),
        (None, {str: Policy()}, "command classes"),
        (None, {"Base": Policy()}, "command classes"),
    ],
)
def test_what_is_no_policy_and_no_command_class_is_refused(default: Any, by_type: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Policies(default, by_type)
