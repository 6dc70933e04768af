"""Retrying, against what it must come to: so many attempts, such delays, that result, whatever fails and how."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus.resilience import Action, Retry, RetryConfig, Rule
from llmgine.errors import ConfigurationError, RateLimitedError
from llmgine.messages import Command, CommandResult

OUTCOMES = ("ok", "result", "ValueError", "RateLimitedError", "ConfigurationError", "KeyError", "IndexError")
RULES = (Rule(Action.DISCARD, on=KeyError), Rule(Action.DEAD_LETTER, on=IndexError))
ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "ConfigurationError": ConfigurationError,
    "KeyError": KeyError,
    "IndexError": IndexError,
}


def expected(script: list[str], retries: int, wait: float) -> tuple[int, list[float], str]:
    """How many attempts, which delays, and how it ends, in plain words."""
    delays: list[float] = []
    for number, outcome in enumerate(script, 1):
        if outcome == "ok":
            return number, delays, "success"
        if outcome == "KeyError":
            return number, delays, "discarded"
        if number > retries or outcome in {"ConfigurationError", "IndexError"}:
            return number, delays, outcome
        delay = min(8.0, 1.0 * 2 ** (number - 1))
        delays.append(max(delay, wait) if outcome == "RateLimitedError" else delay)
    raise AssertionError


@given(
    script=st.lists(st.sampled_from(OUTCOMES), max_size=8),
    retries=st.integers(0, 8),
    wait=st.floats(0, 100),
)
def test_attempts_delays_and_the_result_follow_from_what_fails(script: list[str], retries: int, wait: float) -> None:
    script = [*script, "ok"]
    steps = iter(script)
    slept: list[float] = []
    calls = 0

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async def attempt(command: Command[Any], handler: Any) -> CommandResult[Any]:
        nonlocal calls
        calls += 1
        outcome = next(steps)
        if outcome == "ok":
            return CommandResult(success=True, result=calls)
        if outcome == "result":
            return CommandResult(success=False, error="result")
        if outcome == "RateLimitedError":
            raise RateLimitedError("busy", retry_after=wait)
        raise ERRORS[outcome]("x")

    config = RetryConfig(retries, initial_delay=1, max_delay=8, jitter=False)
    layer = Retry(config, rules=RULES, sleep=sleep)
    result = asyncio.run(layer.process_command(Command[Any](), print, attempt))
    attempts, delays, end = expected(script, retries, wait)

    assert (calls, slept, layer.retried) == (attempts, delays, attempts - 1)
    assert layer.retrying == 0
    if end == "success":
        assert (result.success, result.result, result.metadata) == (True, attempts, {})
    elif end == "discarded":
        assert (result.success, result.metadata["discarded"]) == (True, "KeyError: 'x'")
    else:
        assert not result.success
        assert result.metadata["attempts"] == attempts
        assert (result.error or "").split(":")[0] == end
