"""Delays are what the formulas say, whatever the attempt."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus.resilience import Jitter, RetryConfig
from llmgine.errors import ConfigurationError


def most(_: float, upper: float) -> float:
    return upper


def test_without_jitter_delays_grow_up_to_the_greatest() -> None:
    config = RetryConfig(initial_delay=0.5, max_delay=3, exponential_base=2, jitter=False)

    assert [config.delay(attempt) for attempt in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("jitter", [True, Jitter.FULL])
def test_full_jitter_is_anything_from_zero_up_to_that(jitter: bool | Jitter) -> None:
    drawn: list[tuple[float, float]] = []

    def draw(lower: float, upper: float) -> float:
        drawn.append((lower, upper))
        return upper / 2

    config = RetryConfig(initial_delay=1, max_delay=3, jitter=jitter)

    assert [config.delay(attempt, random=draw) for attempt in (1, 2, 3)] == [0.5, 1.0, 1.5]
    assert drawn == [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]


def test_decorrelated_jitter_is_anything_up_to_three_times_the_last_delay() -> None:
    config = RetryConfig(initial_delay=1, max_delay=20, jitter=Jitter.DECORRELATED)
    delays = [config.delay(1, random=most)]
    delays += [config.delay(2, delays[-1], most)]
    delays += [config.delay(3, delays[-1], most)]

    assert delays == [3.0, 9.0, 20.0]
    assert config.delay(3, 9.0, lambda lower, _: lower) == 1.0


@given(
    config=st.builds(
        RetryConfig,
        initial_delay=st.floats(0, 1e300),
        max_delay=st.floats(0, 1e300),
        exponential_base=st.floats(1, 1e300),
        jitter=st.sampled_from([True, False, *Jitter]),
    ),
    attempt=st.integers(1, 10**6),
    previous=st.none() | st.floats(0, 1e300),
)
def test_no_delay_is_negative_above_the_greatest_or_no_number(
    config: RetryConfig, attempt: int, previous: float | None
) -> None:
    delay = config.delay(attempt, previous)

    assert math.isfinite(delay)
    assert 0 <= delay <= config.max_delay


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"initial_delay": -0.1},
        {"initial_delay": math.nan},
        {"max_delay": math.inf},
        {"exponential_base": 0.5},
        {"exponential_base": "2"},
        {"jitter": "full"},
        {"jitter": None},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RetryConfig(**options)
