"""A circuit breaker against a plain one that remembers every call, while calls overlap, hang, fail, are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmgine.bus.resilience import CircuitBreaker, CircuitBreakerConfig, CircuitState
from llmgine.bus.resilience.window import Window
from llmgine.errors import CircuitOpenError

WINDOW = 100  # seconds, so that a bucket of the window is one second, and whole seconds are told exactly


class Until:
    """Waits until the test says how it ends."""

    def __await__(self) -> Generator[None, str, str]:
        return (yield)


async def wait() -> str:
    return await Until()


@dataclass
class Model:
    config: CircuitBreakerConfig
    state: str = "closed"
    era: int = 0
    opened: float = 0
    calls: list[tuple[float, bool]] = field(default_factory=list)
    """When it ended, and whether it failed: of calls that began and ended since it was closed."""
    trials: set[int] = field(default_factory=set)
    successes: int = 0
    failures_when_open: int = 0

    def change(self, state: str) -> None:
        self.state = state
        self.era += 1
        self.calls, self.trials, self.successes = [], set(), 0

    def within_window(self, now: float) -> list[bool]:
        return [failed for ended, failed in self.calls if now - ended <= WINDOW]

    def failures(self, now: float) -> int:
        return sum(self.within_window(now)) if self.state == "closed" else self.failures_when_open

    def begin(self, number: int, now: float) -> bool:
        if self.state == "open" and now - self.opened >= self.config.recovery_timeout:
            self.change("half_open")
        if self.state == "half_open" and len(self.trials) < self.config.half_open_max_calls:
            self.trials.add(number)
            return True
        return self.state == "closed"

    def end(self, number: int, era: int, how: str, now: float) -> None:
        if self.state == "open" and how == "failure":
            self.failures_when_open += 1
        if era != self.era:
            return
        self.trials.discard(number)
        if self.state == "closed" and how != "cancelled":
            self.calls.append((now, how == "failure"))
            if how == "failure" and self.too_much(now):
                self.open(now, sum(self.within_window(now)))
        elif self.state == "half_open":
            if how == "failure":
                self.open(now, self.failures_when_open + 1)
            elif how == "success":
                self.successes += 1
                if self.successes == self.config.success_threshold:
                    self.change("closed")

    def open(self, now: float, failures: int) -> None:
        self.change("open")
        self.opened, self.failures_when_open = now, failures

    def too_much(self, now: float) -> bool:
        seen = self.within_window(now)
        if self.config.failure_ratio is None:
            return sum(seen) >= self.config.failure_threshold
        return len(seen) >= self.config.minimum_throughput and sum(seen) / len(seen) >= self.config.failure_ratio


class Breaking(RuleBasedStateMachine):
    @initialize(
        config=st.builds(
            CircuitBreakerConfig,
            failure_threshold=st.integers(1, 4),
            recovery_timeout=st.sampled_from([0, 30]),
            success_threshold=st.integers(1, 3),
            window_size=st.just(WINDOW),
            failure_ratio=st.sampled_from([None, 0.25, 0.5, 1.0]),
            minimum_throughput=st.integers(1, 5),
            slow_call_duration=st.sampled_from([None, 20]),
            half_open_max_calls=st.integers(1, 2),
        )
    )
    def make(self, config: CircuitBreakerConfig) -> None:
        self.now = 1000.0
        self.model = Model(config)
        self.breaker = CircuitBreaker("x", config, clock=lambda: self.now)
        self.running: dict[int, tuple[Coroutine[Any, Any, Any], int, float]] = {}
        self.number = 0

    @rule(seconds=st.sampled_from([1, 5, 20, 29, 30, 99, 100, 101]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(times=st.integers(1, 3))
    def calls_begin(self, times: int) -> None:
        for _ in range(times):
            self.number += 1
            call = self.breaker.call(wait)
            if self.model.begin(self.number, self.now):
                call.send(None)
                self.running[self.number] = call, self.model.era, self.now
            else:
                with pytest.raises(CircuitOpenError, match=r"Circuit breaker 'x' is OPEN") as refused:
                    call.send(None)
                left = refused.value.retry_after
                if self.model.state == "open":
                    assert left == self.model.opened + self.model.config.recovery_timeout - self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "cancelled", "closed"]))
    def a_call_ends(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        call, era, began = self.running.pop(number)
        if how == "success":
            with pytest.raises(StopIteration, match="done"):
                call.send("done")
            slow = self.model.config.slow_call_duration
            if slow is not None and self.now - began >= slow:
                how = "failure"
        elif how == "failure":
            with pytest.raises(ValueError, match="no"):
                call.throw(ValueError("no"))
        elif how == "cancelled":
            with pytest.raises(asyncio.CancelledError):
                call.throw(asyncio.CancelledError())
        else:
            call.close()
        self.model.end(number, era, "cancelled" if how == "closed" else how, self.now)

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        info = self.breaker.get_state_info()
        assert info["state"] == self.breaker.state.value == self.model.state
        assert info["failure_count"] == self.model.failures(self.now)
        assert info["success_count"] == self.model.successes
        if self.breaker.state is CircuitState.OPEN and self.model.config.failure_ratio is None:
            assert self.breaker.failure_count >= 1

    def teardown(self) -> None:
        for call, _, _ in getattr(self, "running", {}).values():
            call.close()


TestBreaking = Breaking.TestCase
TestBreaking.settings = settings(max_examples=100, stateful_step_count=40)


@given(
    steps=st.lists(st.tuples(st.sampled_from([0, 1, 40, 100, 101]), st.integers(0, 30), st.integers(0, 30))),
)
@example(steps=[(1, 1, 0)] * 150)
def test_a_window_counts_what_is_no_older_than_itself_in_bounded_memory(steps: list[tuple[int, int, int]]) -> None:
    window = Window(WINDOW)
    now, seen = 5.0, list[tuple[float, bool]]()
    for seconds, good, bad in steps:
        now += seconds
        for failed in [False] * good + [True] * bad:
            window.add(now, failed=failed)
            seen.append((now, failed))
            assert len(window._buckets) <= 101
    recent = [failed for when, failed in seen if now - when <= WINDOW]

    assert window.counted(now) == (len(recent), sum(recent))
