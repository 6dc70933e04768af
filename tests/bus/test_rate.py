"""Token buckets: never too much, never less than what is due, and no memory of what is full again."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus.rate import TokenBuckets


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


# Multiples of powers of two, so that the arithmetic is exact and a boundary is a boundary.
rates = st.integers(1, 64).map(lambda n: n / 8)
steps = st.lists(st.tuples(st.integers(0, 256).map(lambda n: n / 128), st.sampled_from("abc")), max_size=60)


def allowed(rate: float, calls: list[tuple[float, str]]) -> list[tuple[float, str, bool]]:
    """What the buckets say: when, for which key, and whether there was a token."""
    clock = Clock(1000.0)
    buckets = TokenBuckets(rate, clock)
    answers: list[tuple[float, str, bool]] = []
    for step, key in calls:
        clock.now += step
        answers.append((clock.now, key, buckets.take(key)))
    return answers


@given(rates, steps)
def test_no_window_lets_more_pass_than_the_capacity_and_what_flows_in(
    rate: float, calls: list[tuple[float, str]]
) -> None:
    for key in "abc":
        taken = [at for at, whose, passed in allowed(rate, calls) if whose == key and passed]
        for i, first in enumerate(taken):
            for n, last in enumerate(taken[i:], 1):
                assert n <= max(1.0, rate) + rate * (last - first)


@given(rates, steps)
def test_every_token_that_is_due_can_be_taken_although_full_buckets_are_forgotten(
    rate: float, calls: list[tuple[float, str]]
) -> None:
    capacity, flow = max(Fraction(1), Fraction(rate)), Fraction(rate)
    tokens = dict.fromkeys("abc", capacity)
    seen = dict.fromkeys("abc", Fraction(1000))
    for at, key, passed in allowed(rate, calls):
        tokens[key] = min(capacity, tokens[key] + (Fraction(at) - seen[key]) * flow)
        seen[key] = Fraction(at)
        assert passed == (tokens[key] >= 1)
        tokens[key] -= passed


@given(st.floats(0.001, 1e6), st.lists(st.floats(0, 10), min_size=1, max_size=80))
def test_the_bound_holds_for_any_numbers(rate: float, gaps: list[float]) -> None:
    taken = [at for at, _, passed in allowed(rate, [(gap, "a") for gap in gaps]) if passed]

    assert len(taken) <= max(1.0, rate) + rate * (taken[-1] - taken[0]) + 1e-3


@pytest.mark.parametrize(("rate", "burst"), [(2, 2), (2.5, 2), (1000, 1000), (1, 1), (0.5, 1), (1e-9, 1)])
def test_a_burst_has_as_many_as_a_second_allows_and_at_least_one(rate: float, burst: int) -> None:
    buckets = TokenBuckets(rate, Clock(12_345.678))

    assert sum(buckets.take("a") for _ in range(burst + 10)) == burst


def test_who_is_refused_pays_nothing() -> None:
    clock = Clock()
    buckets = TokenBuckets(1, clock)
    assert buckets.take("a")
    for clock.now in (0.25, 0.5, 0.75):
        assert not buckets.take("a")
    clock.now = 1.0

    assert buckets.take("a")


def test_a_million_keys_do_not_leave_a_million_buckets() -> None:
    clock = Clock()
    buckets = TokenBuckets(4, clock)
    most = 0
    for key in range(1_000_000):
        clock.now += 1 / 1024
        assert buckets.take(key)
        if key % 1000 == 0:
            most = max(most, len(buckets))

    assert most <= 2 * 1024 + 1  # two seconds' worth


def test_after_a_crowd_and_a_pause_one_call_forgets_it() -> None:
    clock = Clock()
    buckets = TokenBuckets(0.5, clock)
    for key in range(10_000):
        buckets.take(key)
    assert len(buckets) == 10_000

    clock.now = 4.0
    buckets.take("another")
    assert len(buckets) == 1
