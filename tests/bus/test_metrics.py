"""Metrics: one collector per bus, totals that lose nothing, labels within a bound."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import counters
from llmgine.bus import metrics as module
from llmgine.bus.metrics import (
    Counter,
    Gauge,
    MetricsCollector,
    MetricValue,
    Timer,
    get_metrics_collector,
    reset_metrics_collector,
)
from llmgine.errors import ConfigurationError

COUNTERS = {
    *("events_published_total", "events_processed_total", "events_failed_total"),
    *("commands_sent_total", "commands_processed_total", "commands_failed_total"),
}
HISTOGRAMS = {"event_processing_duration_seconds", "command_processing_duration_seconds"}
GAUGES = {
    *("queue_size", "backpressure_active", "circuit_breaker_state"),
    *("dead_letter_queue_size", "active_sessions", "registered_handlers"),
}
DURATION = "command_processing_duration_seconds"


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_the_standard_metrics_are_there_from_the_beginning_at_zero(collector: MetricsCollector) -> None:
    metrics = await collector.get_metrics()

    assert set(metrics) == {"counters", "histograms", "gauges"}
    assert set(metrics["counters"]) == COUNTERS
    assert set(metrics["histograms"]) == HISTOGRAMS
    assert set(metrics["gauges"]) == GAUGES
    for name in COUNTERS | GAUGES:
        figures = (metrics["counters"] | metrics["gauges"])[name]
        assert set(figures) == {"description", "value"}
        assert figures["value"] == 0
    for figures in metrics["histograms"].values():
        assert set(figures) == {"description", "count", "sum", "percentiles", "buckets"}
        assert figures["count"] == 0
    assert all(figures["description"] for kind in metrics.values() for figures in kind.values())


async def test_get_metrics_is_the_snapshot(collector: MetricsCollector) -> None:
    collector.inc_counter("commands_sent_total", 2, {"type": "Ask"})
    collector.observe_histogram(DURATION, 0.1, {"type": "Ask"})

    assert await collector.get_metrics() == collector.snapshot()


def test_a_name_registered_again_keeps_its_metric(collector: MetricsCollector) -> None:
    counter = collector.register_counter("mine_total", "Mine")
    counter.inc(3)

    assert collector.register_counter("mine_total") is counter
    assert collector.snapshot()["counters"]["mine_total"] == {"description": "Mine", "value": 3}
    assert collector.register_histogram(DURATION) is collector.histograms[DURATION]
    assert collector.register_gauge("queue_size") is collector.gauges["queue_size"]


@pytest.mark.parametrize(
    ("kind", "register"),
    [
        ("histogram", MetricsCollector.register_counter),
        ("counter", MetricsCollector.register_gauge),
        ("gauge", MetricsCollector.register_histogram),
    ],
)
def test_a_name_has_one_kind(
    collector: MetricsCollector, kind: str, register: Callable[[MetricsCollector, str], object]
) -> None:
    name = {"histogram": DURATION, "counter": "commands_sent_total", "gauge": "queue_size"}[kind]
    before = collector.snapshot()

    with pytest.raises(ConfigurationError, match=f"{name} is registered as a {kind} already"):
        register(collector, name)
    assert collector.snapshot() == before


def test_unknown_names_are_ignored(collector: MetricsCollector) -> None:
    before = collector.snapshot()
    for name in ("unknown", "queue_size", DURATION):
        collector.inc_counter(name, -1)
    for name in ("unknown", "queue_size", "commands_sent_total"):
        collector.observe_histogram(name, 1.0, {"a": "b"})
    for name in ("unknown", "commands_sent_total", DURATION):
        collector.set_gauge(name, 1)
        collector.inc_gauge(name)
        collector.dec_gauge(name)

    assert collector.snapshot() == before


# Counters


def test_a_counter_is_the_sum_of_what_is_added_with_and_without_lock_and_labels(collector: MetricsCollector) -> None:
    counter = collector.counters["commands_sent_total"]
    counter.unlocked += 5
    collector.inc_counter("commands_sent_total")
    collector.inc_counter("commands_sent_total", 2, {"type": "Ask", "who": "me"})
    collector.inc_counter("commands_sent_total", 3, {"who": "me", "type": "Ask"})
    collector.inc_counter("commands_sent_total", 4, {"type": "Tell"})
    collector.inc_counter("commands_sent_total", 1, {})

    assert counter.value == 16
    assert collector.snapshot()["counters"]["commands_sent_total"] == {
        "description": counter.description,
        "value": 16,
        "labels": [{"labels": {"type": "Ask", "who": "me"}, "value": 5}, {"labels": {"type": "Tell"}, "value": 4}],
    }


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf])
def test_a_counter_only_goes_up_by_finite_numbers(value: float) -> None:
    counter = Counter("mine_total")
    counter.inc(1.5)

    with pytest.raises(ConfigurationError, match="mine_total counts upwards"):
        counter.inc(value, {"a": "b"})
    assert counter.value == 1.5
    assert counter.labelled() == []


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 100)), max_size=40))
def test_label_sets_beyond_the_bound_share_one_and_the_total_loses_nothing(added: list[tuple[int, int]]) -> None:
    counter = Counter("mine_total")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "_MAX_LABEL_SETS", 3)
        for label, value in added:
            counter.inc(value, {"label": str(label)})

    expected: dict[str, int] = {}
    for label, value in added:
        key = f"label={label}"
        if key not in expected and len(expected) >= 3:
            key = "overflow=true"
        expected[key] = expected.get(key, 0) + value
    found = {"".join(f"{key}={label}" for key, label in each.labels.items()): each.value for each in counter.labelled()}
    assert found == expected
    assert counter.value == sum(value for _, value in added) == sum(found.values())


def test_a_thousand_label_sets_are_kept_and_one_for_the_rest(collector: MetricsCollector) -> None:
    for number in range(1010):
        labels = {"number": str(number)}
        collector.inc_counter("commands_sent_total", 2, labels)
        collector.observe_histogram(DURATION, 0.5, labels)
        collector.inc_gauge("circuit_breaker_state", 1, labels)

    metrics = collector.snapshot()
    overflow = {"overflow": "true"}
    counter, gauge = metrics["counters"]["commands_sent_total"], metrics["gauges"]["circuit_breaker_state"]
    histogram = metrics["histograms"][DURATION]
    assert len(counter["labels"]) == len(gauge["labels"]) == len(histogram["labels"]) == 1001
    assert counter["labels"][-1] == {"labels": overflow, "value": 20}
    assert counter["value"] == 2020
    assert gauge["labels"][-1] == {"labels": overflow, "value": 10}
    assert (histogram["labels"][-1]["labels"], histogram["labels"][-1]["count"]) == (overflow, 10)
    assert histogram["count"] == sum(each["count"] for each in histogram["labels"]) == 1010


# Histograms


def test_a_labelled_observation_counts_in_the_whole_and_under_its_labels(collector: MetricsCollector) -> None:
    collector.observe_histogram(DURATION, 1.0)
    collector.observe_histogram(DURATION, 2.0, {"type": "Ask"})

    figures = collector.snapshot()["histograms"][DURATION]
    assert (figures["count"], figures["sum"]) == (2, 3.0)
    [labelled] = figures["labels"]
    assert labelled["labels"] == {"type": "Ask"}
    assert (labelled["count"], labelled["sum"], labelled["percentiles"]["p50"]) == (1, 2.0, 2.0)
    assert (labelled["buckets"][1.0], labelled["buckets"][2.5]) == (0, 1)


# Gauges


def test_a_gauge_is_set_raised_and_lowered(collector: MetricsCollector) -> None:
    collector.set_gauge("queue_size", 10)
    collector.inc_gauge("queue_size", 5)
    collector.dec_gauge("queue_size")

    assert collector.snapshot()["gauges"]["queue_size"]["value"] == 14


def test_labelled_values_of_a_gauge_stand_beside_its_own(collector: MetricsCollector) -> None:
    collector.set_gauge("circuit_breaker_state", 2, {"command": "Ask"})
    collector.inc_gauge("circuit_breaker_state", 3, {"command": "Tell"})
    collector.dec_gauge("circuit_breaker_state", 1, {"command": "Tell"})

    gauge = collector.gauges["circuit_breaker_state"]
    assert gauge.value == 0
    assert gauge.labelled() == [MetricValue({"command": "Ask"}, 2), MetricValue({"command": "Tell"}, 2)]


def test_a_function_is_asked_when_the_gauge_is_read_and_only_then(collector: MetricsCollector) -> None:
    waiting = ["a"]
    asked: list[int] = []

    def size() -> int:
        asked.append(len(waiting))
        return len(waiting)

    collector.gauges["queue_size"].set_function(size)
    waiting.append("b")
    assert asked == []
    assert collector.snapshot()["gauges"]["queue_size"]["value"] == 2
    waiting.clear()
    assert collector.snapshot()["gauges"]["queue_size"]["value"] == 0


def test_what_is_set_hides_the_function_until_reset() -> None:
    gauge = Gauge("size")
    gauge.set_function(lambda: 7)
    gauge.inc(2)
    assert gauge.value == 9
    gauge.set(3)
    assert gauge.value == 3
    gauge.reset()
    assert gauge.value == 7


# Reset


async def test_reset_zeroes_the_collector_that_was_fetched_before() -> None:
    collector = get_metrics_collector()
    reset_metrics_collector()
    empty = collector.snapshot()
    sent = collector.counters["commands_sent_total"]
    sent.unlocked += 1
    collector.inc_counter("commands_sent_total", 1, {"a": "b"})
    collector.observe_histogram(DURATION, 1.0, {"a": "b"})
    collector.set_gauge("queue_size", 5)
    collector.set_gauge("queue_size", 5, {"a": "b"})
    assert await get_metrics_collector().get_metrics() != empty

    reset_metrics_collector()

    assert get_metrics_collector() is collector
    assert await collector.get_metrics() == empty
    assert collector.counters["commands_sent_total"] is sent
    sent.unlocked += 1
    assert collector.snapshot()["counters"]["commands_sent_total"]["value"] == 1
    reset_metrics_collector()


def test_collectors_share_nothing(collector: MetricsCollector) -> None:
    other = MetricsCollector()
    collector.inc_counter("commands_sent_total")
    collector.observe_histogram(DURATION, 1.0)
    collector.set_gauge("queue_size", 1)

    assert other.snapshot() == MetricsCollector().snapshot()


# Threads


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("threads_switch_often")
def test_threads_lose_nothing(collector: MetricsCollector) -> None:
    rounds, labels = 3000, {"type": "Ask"}
    counter = collector.counters["commands_sent_total"]

    def work() -> None:
        for number in range(rounds):
            collector.inc_counter("commands_sent_total", 1, labels)
            collector.inc_gauge("queue_size", 2)
            collector.dec_gauge("queue_size", 1, labels)
            collector.observe_histogram(DURATION, 0.5, {"number": str(number % 50)})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(rounds):
        counter.unlocked += 1
        if number % 500 == 0:
            collector.snapshot()
    for thread in threads:
        thread.join()

    total = 4 * rounds
    metrics = collector.snapshot()
    assert counter.value == total + rounds
    assert counter.labelled() == [MetricValue(labels, total)]
    assert metrics["gauges"]["queue_size"]["value"] == 2 * total
    assert metrics["gauges"]["queue_size"]["labels"] == [{"labels": labels, "value": -total}]
    assert metrics["histograms"][DURATION]["count"] == total
    assert [each["count"] for each in metrics["histograms"][DURATION]["labels"]] == [total // 50] * 50


# Timer


def test_a_timer_observes_the_seconds_of_its_body(collector: MetricsCollector, clock: Clock) -> None:
    with Timer(collector, DURATION, {"type": "Ask"}):
        clock.now += 2.0

    figures = collector.snapshot()["histograms"][DURATION]
    assert (figures["count"], figures["sum"]) == (1, 2.0)
    assert figures["labels"][0]["labels"] == {"type": "Ask"}


def test_a_timer_observes_also_what_raises_and_lets_it_pass(collector: MetricsCollector, clock: Clock) -> None:
    def broken() -> None:
        with Timer(collector, DURATION):
            clock.now += 2.0
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert collector.snapshot()["histograms"][DURATION]["sum"] == 2.0


def test_a_timer_can_be_used_again_and_nested(collector: MetricsCollector, clock: Clock) -> None:
    timer = Timer(collector, DURATION)
    with timer:
        clock.now += 1.0
        with timer:
            clock.now += 10.0
    with timer:
        clock.now += 100.0

    figures = collector.snapshot()["histograms"][DURATION]
    assert (figures["count"], figures["sum"]) == (3, 121.0)
    assert figures["buckets"][10.0] == 1


def test_a_timer_for_an_unknown_name_does_nothing(collector: MetricsCollector) -> None:
    before = collector.snapshot()
    with Timer(collector, "unknown"):
        pass

    assert collector.snapshot() == before
