"""Circuit breakers by themselves, and as a layer around commands. That they are right is tested in `tests/laws`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.resilience import (
    Action,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerMiddleware,
    CircuitState,
    Rule,
)
from llmgine.errors import CircuitOpenError, ConfigurationError, ToolValidationError
from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.events import CircuitBreakerChangedEvent

TWO = CircuitBreakerConfig(failure_threshold=2, recovery_timeout=10, success_threshold=2, window_size=60)
DATE = datetime(2026, 1, 2, tzinfo=UTC)


class Do(Command[Any]):
    pass


class Other(Command[Any]):
    pass


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("x", TWO, clock=clock, dates=lambda: DATE)


async def fail() -> None:
    raise ValueError("no")


async def fails(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ValueError, match="no"):
            await breaker.call(fail)


async def test_it_calls_functions_of_either_kind_with_their_arguments(breaker: CircuitBreaker) -> None:
    async def add(a: int, *, b: int) -> int:
        return a + b

    assert await breaker.call(add, 1, b=2) == 3
    assert await breaker.call(max, 1, 2) == 2


async def test_too_many_failures_open_it_and_enough_trials_close_it(breaker: CircuitBreaker, clock: Clock) -> None:
    await fails(breaker, 2)
    assert (breaker.state, breaker.failure_count) == (CircuitState.OPEN, 2)
    clock.now += 4
    with pytest.raises(CircuitOpenError, match=r"Circuit breaker 'x' is OPEN") as refused:
        await breaker.call(fail)
    assert (refused.value.name, refused.value.retry_after, breaker.refused) == ("x", 6.0, 1)

    clock.now += 6
    assert breaker.state is CircuitState.OPEN  # until somebody tries
    await breaker.call(int)
    assert (breaker.state, breaker.success_count) == (CircuitState.HALF_OPEN, 1)
    await breaker.call(int)
    assert (breaker.state, breaker.failure_count, breaker.success_count) == (CircuitState.CLOSED, 0, 0)


async def test_a_failed_trial_opens_it_again_for_the_whole_time(breaker: CircuitBreaker, clock: Clock) -> None:
    await fails(breaker, 2)
    clock.now += 10
    await breaker.call(int)
    await fails(breaker)

    assert (breaker.state, breaker.success_count) == (CircuitState.OPEN, 0)
    clock.now += 9.9
    with pytest.raises(CircuitOpenError):
        await breaker.call(int)


async def test_failures_outside_the_window_are_forgotten(breaker: CircuitBreaker, clock: Clock) -> None:
    await fails(breaker)
    clock.now += 61
    assert breaker.failure_count == 0
    await fails(breaker)

    assert (breaker.state, breaker.failure_count) == (CircuitState.CLOSED, 1)


async def test_a_cancelled_trial_is_neutral_and_gives_its_place_back(breaker: CircuitBreaker, clock: Clock) -> None:
    await fails(breaker, 2)
    clock.now += 10
    trial = asyncio.create_task(breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpenError) as refused:  # one trial at a time
        await breaker.call(int)
    assert refused.value.retry_after == 0
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial

    assert (breaker.state, breaker.success_count) == (CircuitState.HALF_OPEN, 0)
    assert await breaker.call(int) == 0


async def test_it_can_be_held_open_and_closed_by_hand(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.isolate()
    clock.now += 1e6
    with pytest.raises(CircuitOpenError, match="reset") as refused:
        await breaker.call(int)
    assert (breaker.state.value, refused.value.retry_after) == ("isolated", None)
    breaker.reset()

    assert await breaker.call(int) == 0


async def test_what_fails_when_it_is_open_already_only_counts(breaker: CircuitBreaker) -> None:
    release = asyncio.Event()

    async def late() -> None:
        await release.wait()
        raise ValueError("no")

    calls = [asyncio.create_task(breaker.call(late)) for _ in range(4)]
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*calls, return_exceptions=True)

    assert (breaker.state, breaker.failure_count) == (CircuitState.OPEN, 4)


async def test_the_report_has_dates(breaker: CircuitBreaker) -> None:
    report = {"name": "x", "state": "closed", "failure_count": 0, "success_count": 0}
    dates = {"last_failure": None, "last_state_change": DATE.isoformat()}
    assert breaker.get_state_info() == report | dates
    await fails(breaker)

    assert breaker.get_state_info() == report | dates | {"failure_count": 1, "last_failure": DATE.isoformat()}


@pytest.mark.parametrize(
    "options",
    [
        {"failure_threshold": 0},
        {"success_threshold": 1.5},
        {"recovery_timeout": -1},
        {"window_size": 0},
        {"window_size": None},
        {"failure_ratio": 0},
        {"failure_ratio": 1.1},
        {"minimum_throughput": 0},
        {"slow_call_duration": 0},
        {"half_open_max_calls": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        CircuitBreakerConfig(**options)


# As a layer


async def test_commands_of_a_type_that_fails_are_refused_and_others_are_not(bus: MessageBus, clock: Clock) -> None:
    layer = CircuitBreakerMiddleware(TWO, clock=clock)
    calls: list[Any] = []

    def handle(command: Do) -> CommandResult[Any]:
        calls.append(command)
        if len(calls) == 1:
            raise ValueError("no")
        return CommandResult(success=False, error="no")

    bus.add_command_middleware(layer)
    bus.register_command_handler(Do, handle)
    bus.register_command_handler(Other, lambda _: 1)
    first, second = await bus.execute(Do()), await bus.execute(Do())
    command = Do()
    refused = await bus.execute(command)

    assert [each.metadata["circuit_breaker_state"] for each in (first, second, refused)] == ["closed", "open", "open"]
    assert (first.error, second.error) == ("ValueError: no", "no")
    assert (refused.success, refused.error, len(calls)) == (False, "Circuit breaker is OPEN for Do", 2)
    assert refused.command_id == command.command_id
    assert isinstance(refused.exception, CircuitOpenError)
    assert refused.exception.retry_after == 10
    assert (await bus.execute(Other())).success
    assert {name: each.state.value for name, each in layer.breakers.items()} == {"Do": "open", "Other": "closed"}


async def test_what_its_caller_did_wrong_is_neither_failure_nor_success(bus: MessageBus, clock: Clock) -> None:
    errors: list[Exception] = [ToolValidationError("bad"), KeyError("gone")] * 3
    errors += [ValueError("no")] * 2 + [ToolValidationError("bad"), ValueError("no")]

    def handle(_: Do) -> None:
        raise errors.pop(0)

    layer = CircuitBreakerMiddleware(TWO, rules=(Rule(Action.DISCARD, on=KeyError),), clock=clock)
    bus.add_command_middleware(layer)
    bus.register_command_handler(Do, handle)
    for _ in range(6):
        await bus.execute(Do())
    assert layer.breaker("Do").failure_count == 0
    await bus.execute(Do())
    await bus.execute(Do())
    clock.now += 10
    await bus.execute(Do())
    assert layer.breaker("Do").state is CircuitState.HALF_OPEN
    await bus.execute(Do())

    assert layer.breaker("Do").state is CircuitState.OPEN


async def test_each_change_of_state_is_announced(bus: MessageBus, clock: Clock) -> None:
    announced: list[Event] = []
    fine = False

    def handle(_: Do) -> None:
        if not fine:
            raise ValueError("no")

    bus.add_command_middleware(
        CircuitBreakerMiddleware(TWO, clock=clock, announce=lambda event, _: announced.append(event))
    )
    bus.register_command_handler(Do, handle)
    await bus.execute(Do())
    await bus.execute(Do())
    clock.now, fine = clock.now + 10, True
    await bus.execute(Do())
    await bus.execute(Do())

    changes = [
        (event.name, event.previous, event.state, event.failure_count)
        for event in announced
        if isinstance(event, CircuitBreakerChangedEvent)
    ]
    assert changes == [
        ("Do", "closed", "open", 2),
        ("Do", "open", "half_open", 2),
        ("Do", "half_open", "closed", 0),
    ]


async def test_slow_commands_open_it_if_that_is_asked_for(bus: MessageBus, clock: Clock) -> None:
    def handle(_: Do) -> None:
        clock.now += 5

    layer = CircuitBreakerMiddleware(CircuitBreakerConfig(failure_threshold=2, slow_call_duration=5), clock=clock)
    bus.add_command_middleware(layer)
    bus.register_command_handler(Do, handle)

    assert [(await bus.execute(Do())).success for _ in range(3)] == [True, True, False]
