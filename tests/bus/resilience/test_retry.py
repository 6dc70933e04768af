"""Trying again, as a layer of a bus: what `RetryMiddleware` promises is tested with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmgine.bus import HandlerMiddleware, MessageBus
from llmgine.bus.middleware import RetryMiddleware
from llmgine.bus.resilience import Action, Jitter, Retry, RetryConfig, Rule
from llmgine.bus.results import failed
from llmgine.errors import CircuitOpenError, ConfigurationError, RateLimitedError
from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.events import CommandRetriedEvent


class Do(Command[Any]):
    pass


class Script:
    """A handler that does one thing after another: raise an exception, or return a value."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.calls = 0

    async def __call__(self, _: Any) -> Any:
        self.calls += 1
        step = self.steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


def failure(text: str) -> CommandResult[Any]:
    return CommandResult(success=False, error=text)


async def tried(bus: MessageBus, handler: Callable[[Any], Any], **options: Any) -> tuple[Any, list[float]]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    config = options.pop("config", RetryConfig(jitter=False))
    bus.add_command_middleware(Retry(config, sleep=sleep, **options))
    bus.register_command_handler(Do, handler)
    return await bus.execute(Do()), slept


async def test_a_command_is_tried_until_it_succeeds(bus: MessageBus) -> None:
    result, slept = await tried(bus, Script(ValueError(), failure("no"), 3))

    assert (result.success, result.result, slept) == (True, 3, [0.1, 0.2])


async def test_the_last_failure_is_returned_with_the_number_of_attempts(bus: MessageBus) -> None:
    last = ValueError("3")
    result, slept = await tried(bus, Script(failure("1"), KeyError("2"), last), config=RetryConfig(2, jitter=False))

    assert (result.success, result.error, result.metadata["attempts"]) == (False, "ValueError: 3", 3)
    assert result.exception is last
    assert "Script" not in result.error
    assert "in __call__" in result.metadata["traceback"]
    assert len(slept) == 2


async def test_jitter_is_drawn_from_the_given_source(bus: MessageBus) -> None:
    config = RetryConfig(3, initial_delay=1, jitter=Jitter.DECORRELATED)
    _, slept = await tried(
        bus, Script(*[ValueError()] * 4), config=config, random=lambda lower, upper: (lower + upper) / 2
    )

    assert slept == [2.0, 3.5, 5.75]


async def test_each_retry_is_announced_with_its_attempt_delay_and_error(bus: MessageBus) -> None:
    announced: list[tuple[Event, Command[Any]]] = []
    await tried(
        bus, Script(ValueError("a"), failure("b"), 1), announce=lambda event, cause: announced.append((event, cause))
    )

    events = [event for event, _ in announced if isinstance(event, CommandRetriedEvent)]
    assert [(event.attempt, event.delay, event.error) for event in events] == [(1, 0.1, "ValueError: a"), (2, 0.2, "b")]
    assert all(event.command is cause for event, (_, cause) in zip(events, announced, strict=True))


@pytest.mark.parametrize("action", [Action.GIVE_UP, Action.DEAD_LETTER])
async def test_a_rule_ends_the_attempts(bus: MessageBus, action: Action) -> None:
    handler = Script(ValueError(), KeyError("x"))
    result, _ = await tried(bus, handler, rules=(Rule(action, on=KeyError),))

    assert (result.error, result.metadata["attempts"], handler.calls) == ("KeyError: 'x'", 2, 2)


async def test_a_discarded_failure_is_a_success_without_a_result(bus: MessageBus) -> None:
    result, _ = await tried(bus, Script(KeyError("x")), rules=(Rule(Action.DISCARD, on=KeyError),))

    assert (result.success, result.result, result.error) == (True, None, None)
    assert result.metadata == {"discarded": "KeyError: 'x'"}


async def test_retry_after_is_the_least_that_it_waits(bus: MessageBus) -> None:
    errors = [RateLimitedError("busy", retry_after=seconds) for seconds in (30, 0.01)]
    _, slept = await tried(bus, Script(*errors, 1))

    assert slept == [30, 0.2]


async def test_no_attempt_begins_after_the_deadline(bus: MessageBus) -> None:
    now = asyncio.get_running_loop().time()
    handler = Script(*[ValueError("no")] * 9)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    bus.add_command_middleware(Retry(RetryConfig(8, initial_delay=10, max_delay=1e9, jitter=False), sleep=sleep,
                                     clock=lambda: now))  # fmt: skip
    bus.register_command_handler(Do, handler)
    result = await bus.execute(Do(), timeout=75)

    assert (handler.calls, result.metadata["attempts"]) == (4, 4)  # at 0, 10, 30 and 70; not at 150


class Gate(HandlerMiddleware):
    """Refuses commands as a circuit breaker does, at those attempts."""

    def __init__(self, *refused: int) -> None:
        self.refused = refused
        self.tries = 0

    async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any:
        self.tries += 1
        if self.tries in self.refused:
            raise CircuitOpenError("open", name="Do")
        return await next_middleware(command, handler)


async def test_what_the_breaker_refuses_is_not_tried_again_and_hides_no_real_failure(bus: MessageBus) -> None:
    async def sleep(_: float) -> None: ...

    bus.add_command_middleware(Retry(sleep=sleep))
    bus.add_command_middleware(Gate(3))
    bus.register_command_handler(Do, Script(ValueError("1"), ValueError("2")))
    result = await bus.execute(Do())

    assert (result.error, result.metadata["attempts"]) == ("ValueError: 2", 2)


async def test_a_command_that_is_refused_at_once_has_made_no_attempt(bus: MessageBus) -> None:
    bus.add_command_middleware(Retry())
    bus.add_command_middleware(Gate(1))
    bus.register_command_handler(Do, Script())
    result = await bus.execute(Do())

    assert isinstance(result.exception, CircuitOpenError)
    assert result.metadata["attempts"] == 0


async def test_a_rule_may_have_a_refused_command_tried_again_and_only_real_attempts_count(bus: MessageBus) -> None:
    async def sleep(_: float) -> None: ...

    bus.add_command_middleware(Retry(sleep=sleep, rules=(Rule(Action.RETRY, on=CircuitOpenError),)))
    bus.add_command_middleware(Gate(1, 2, 4))
    bus.register_command_handler(Do, Script(ValueError("1")))
    result = await bus.execute(Do())

    assert (result.error, result.metadata["attempts"]) == ("ValueError: 1", 1)


async def test_the_published_middleware_raises_only_what_was_raised_last(bus: MessageBus) -> None:
    returned = failed("no", Do(), KeyError("inside"))

    async def sleep(_: float) -> None: ...

    bus.add_command_middleware(RetryMiddleware(1, sleep=sleep))
    bus.register_command_handler(Do, Script(ValueError("1"), returned, failure("2"), ValueError("3")))

    assert (await bus.execute(Do())).error == "no"
    assert (await bus.execute(Do())).error == "ValueError: 3"


async def test_while_it_tries_again_it_says_so(bus: MessageBus) -> None:
    seen: list[int] = []
    layer = Retry()

    async def sleep(_: float) -> None:
        seen.append(layer.retrying)

    layer._sleep = sleep
    bus.add_command_middleware(layer)
    bus.register_command_handler(Do, Script(ValueError(), ValueError(), 1))
    await bus.execute(Do())

    assert (seen, layer.retrying, layer.retried) == ([1, 1], 0, 2)


async def test_cancelling_passes(bus: MessageBus) -> None:
    layer = Retry()
    bus.add_command_middleware(layer)
    handler = Script(asyncio.CancelledError())
    bus.register_command_handler(Do, handler)
    with pytest.raises(asyncio.CancelledError):
        await bus.execute(Do())

    assert (handler.calls, layer.retrying) == (1, 0)


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rules"):
        Retry(rules=[ValueError])  # type: ignore[list-item]
