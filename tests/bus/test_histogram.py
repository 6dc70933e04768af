"""Histograms: exact counts, percentiles to 5 %, fixed memory, no lost observation."""

from __future__ import annotations

import math
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import histogram as module
from llmgine.bus.histogram import Histogram

BOUNDS = tuple(Histogram("any").snapshot()["buckets"])
durations = st.one_of(st.floats(1e-7, 1000), st.floats(-7, 3).map(lambda exponent: 10**exponent))
batches = st.sampled_from([1, 2, 5, 256])
on_bounds = st.sampled_from(BOUNDS).flatmap(
    lambda bound: st.sampled_from([math.nextafter(bound, 0), bound, math.nextafter(bound, math.inf)])
)


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def filled(*seconds: float) -> Histogram:
    histogram = Histogram("any")
    for each in seconds:
        histogram.observe(each)
    return histogram


def filled_in_batches(batch: int, seconds: list[float]) -> Histogram:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", batch)
        return filled(*seconds)


def nearest_rank(ordered: list[float], percent: int) -> float:
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


@given(batches, st.lists(durations, min_size=1, max_size=600))
def test_a_percentile_is_the_nearest_rank_to_5_percent(batch: int, observed: list[float]) -> None:
    percentiles = filled_in_batches(batch, observed).snapshot()["percentiles"]

    ordered = sorted(observed)
    for percent in (50, 95, 99):
        assert percentiles[f"p{percent}"] == pytest.approx(nearest_rank(ordered, percent), rel=0.05)


def test_fine_bounds_are_close_enough_for_that_error() -> None:
    inner = module._BOUNDS[:-1]

    assert inner[0] == 1e-7
    assert inner[-1] == 1000
    assert all(0 < (high - low) / (high + low) < 0.05 for low, high in pairwise(inner))


@given(batches, st.lists(st.one_of(durations, on_bounds, st.floats(0)), max_size=600))
def test_a_bucket_counts_exactly_what_is_not_above_its_bound(batch: int, observed: list[float]) -> None:
    buckets = filled_in_batches(batch, observed).snapshot()["buckets"]

    assert buckets == {bound: sum(seconds <= bound for seconds in observed) for bound in BOUNDS}


@given(batches, st.lists(st.floats(), max_size=600))
def test_count_and_sum_are_those_of_the_durations(batch: int, observed: list[float]) -> None:
    snapshot = filled_in_batches(batch, observed).snapshot()

    counted = [max(seconds, 0.0) for seconds in observed if not math.isnan(seconds)]
    assert snapshot["count"] == snapshot["buckets"][math.inf] == len(counted)
    assert snapshot["sum"] == pytest.approx(sum(counted))


def test_reading_in_between_changes_nothing() -> None:
    observed = [index / 1000 for index in range(1000)]
    histogram = Histogram("any")
    for index, seconds in enumerate(observed):
        histogram.observe(seconds)
        if index % 7 == 0:
            assert histogram.snapshot()["count"] == index + 1

    assert histogram.snapshot() == {**filled(*observed).snapshot(), "sum": pytest.approx(sum(observed))}


def test_buckets_include_the_usual_bounds_and_end_with_infinity() -> None:
    assert {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0} < set(BOUNDS)
    assert list(BOUNDS) == sorted(BOUNDS)
    assert BOUNDS[-1] == math.inf


def test_an_empty_histogram_has_no_percentiles() -> None:
    snapshot = Histogram("any").snapshot()

    assert snapshot["count"] == snapshot["sum"] == 0
    assert snapshot["percentiles"] == {"p50": None, "p95": None, "p99": None}
    assert set(snapshot["buckets"].values()) == {0}


def test_negative_durations_count_as_0() -> None:
    snapshot = filled(-1.0, -math.inf, 0.0).snapshot()

    assert (snapshot["count"], snapshot["sum"]) == (3, 0)
    assert snapshot["percentiles"]["p99"] == 0


def test_nan_does_not_count() -> None:
    snapshot = filled(2.0, math.nan, 1.0, math.nan, -1.0).snapshot()

    assert (snapshot["count"], snapshot["sum"]) == (3, 3.0)
    assert filled(math.nan).snapshot() == Histogram("any").snapshot()


@pytest.mark.parametrize(
    ("observed", "median"),
    [
        ([1e-9, 2e-9, 3e-9], 3e-9),
        ([1e-9, 2e-9, 1.0], 1e-7),
        ([2000.0, 3000.0, 4000.0], 2000.0),
        ([1.0, 3000.0, math.inf], 1000.0),
    ],
)
def test_outside_the_range_its_limit_stands_for_a_percentile_between_smallest_and_largest(
    observed: list[float], median: float
) -> None:
    assert filled(*observed).snapshot()["percentiles"]["p50"] == median


def test_what_is_no_number_is_refused_at_once_and_spoils_nothing() -> None:
    histogram = filled(1.0)
    with pytest.raises(TypeError):
        histogram.observe("1.0")  # type: ignore[arg-type]
    histogram.observe(2)

    assert histogram.snapshot()["sum"] == 3.0


def test_what_is_appended_to_pending_is_observed() -> None:
    histogram = Histogram("any")
    pending = histogram.pending
    for index in range(1000):
        pending.append(index / 1000)
        if len(pending) >= module.BATCH:
            histogram.flush()
            assert pending == []

    assert histogram.snapshot() == filled(*(index / 1000 for index in range(1000))).snapshot()
    histogram.reset()
    assert histogram.pending is pending


def test_reset_forgets_also_what_is_not_counted_yet() -> None:
    histogram = filled(*(0.5 for _ in range(1000)))
    histogram.reset()

    assert histogram.snapshot() == Histogram("any").snapshot()
    histogram.observe(0.1)
    assert histogram.snapshot() == filled(0.1).snapshot()


def test_a_million_observations_take_no_more_memory_than_a_few() -> None:
    durations = [10 ** (index % 1000 / 100 - 7) for index in range(1000)]
    histogram = filled(*durations)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            for seconds in durations:
                histogram.observe(seconds)
        grown, peak = (figure - before for figure in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()

    assert histogram.snapshot()["count"] == 1_001_000
    assert grown < 12_000
    assert peak < 24_000  # a batch is copied while it is counted


@pytest.mark.usefixtures("threads_switch_often")
def test_threads_lose_no_observation() -> None:
    histogram = Histogram("any")

    def work() -> None:
        for _ in range(20_000):
            histogram.observe(0.1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    counts = [0]
    while any(thread.is_alive() for thread in threads):
        counts.append(histogram.snapshot()["count"])
    for thread in threads:
        thread.join()

    snapshot = histogram.snapshot()
    assert snapshot["count"] == snapshot["buckets"][0.1] == 80_000
    assert snapshot["sum"] == pytest.approx(8_000)
    assert counts == sorted(counts)


def test_what_arrives_while_a_batch_is_taken_belongs_to_the_next() -> None:
    class Raced(list[float]):
        def __getitem__(self, index: Any) -> Any:
            taken = super().__getitem__(index)
            self.append(0.1)
            return taken

    histogram = Histogram("any")
    histogram.pending = Raced([0.1, 0.1])

    assert histogram.snapshot()["count"] == 2
    assert histogram.snapshot()["count"] == 3


def test_observing_never_waits_for_a_reader() -> None:
    histogram = Histogram("any")

    def work() -> None:
        for _ in range(1000):
            histogram.observe(0.1)

    with histogram._lock:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    assert histogram.snapshot()["count"] == 1000
