"""Figures about a bus that are cheap enough to stay on: counters, gauges and histograms, by name, in one collector."""

from __future__ import annotations

from enum import Enum
from threading import Lock
from time import perf_counter
from typing import Any, Self

from llmgine.bus.counters import Counter, Gauge, Labels, LabelSet, MetricValue, label_set
from llmgine.bus.histogram import BATCH, Histogram
from llmgine.errors import ConfigurationError

__all__ = [
    "APPLICATION",
    "Counter",
    "Gauge",
    "Histogram",
    "MetricType",
    "MetricValue",
    "MetricsCollector",
    "Timer",
    "get_metrics_collector",
    "reset_metrics_collector",
]

_TIMED_AT_FIRST = 4 * BATCH
"""Runs of handlers that are timed before anybody has asked."""

_COUNTERS = {
    "events_published_total": "Events published",
    "events_processed_total": "Calls of event handlers that succeeded",
    "events_failed_total": "Calls of event handlers that failed",
    "commands_sent_total": "Commands executed",
    "commands_processed_total": "Commands that succeeded",
    "commands_failed_total": "Commands that failed",
}
_HISTOGRAMS = {
    "event_processing_duration_seconds": "Seconds that an event handler ran",
    "command_processing_duration_seconds": "Seconds that a command handler ran",
}
_GAUGES = {
    "queue_size": "Events that wait",
    "backpressure_active": "1 while backpressure acts on publishers, otherwise 0",
    "circuit_breaker_state": "Circuit breaker: 0 closed, 1 open, 2 half-open",
    "dead_letter_queue_size": "Dead letters kept",
    "active_sessions": "Sessions that have begun and not ended",
    "registered_handlers": "Handlers registered for commands and events",
}


class MetricType(Enum):
    """The kinds of metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricsCollector:
    """The metrics of one bus, by name; the standard ones are there from the beginning.

    Handlers are counted always. They are timed at first, which tells enough of a short program, and for good once
    somebody has asked for the figures: by `get_metrics_collector`, `reset_metrics_collector`, `bus.metrics` or
    `bus.get_metrics()`.

    A metric keeps a value for each of its first 1,000 label sets; later ones share the label set
    `{"overflow": "true"}`, and totals lose nothing. The methods may be called from any thread. To a name that is not
    registered as the right kind they do nothing.
    """

    def __init__(self) -> None:
        self.counters: dict[str, Counter] = {}
        self.histograms: dict[str, Histogram] = {}
        self.gauges: dict[str, Gauge] = {}
        self._types: dict[str, MetricType] = {}
        self._labelled_histograms: dict[str, dict[LabelSet, Histogram]] = {}
        self._lock = Lock()
        self.timing = True
        """Whether handlers are to be timed."""
        self._asked = False
        self._untold = 0
        for name, description in _COUNTERS.items():
            self.register_counter(name, description)
        for name, description in _HISTOGRAMS.items():
            self.register_histogram(name, description)
        for name, description in _GAUGES.items():
            self.register_gauge(name, description)

    def register_counter(self, name: str, description: str = "") -> Counter:
        """Return the counter of that name, a new one unless there is one.

        Raises:
            ConfigurationError: the name belongs to another kind of metric.
        """
        self._claim(name, MetricType.COUNTER)
        return self.counters.setdefault(name, Counter(name, description))

    def register_histogram(self, name: str, description: str = "") -> Histogram:
        """Return the histogram of that name, a new one unless there is one.

        Raises:
            ConfigurationError: the name belongs to another kind of metric.
        """
        self._claim(name, MetricType.HISTOGRAM)
        return self.histograms.setdefault(name, Histogram(name, description))

    def register_gauge(self, name: str, description: str = "") -> Gauge:
        """Return the gauge of that name, a new one unless there is one.

        Raises:
            ConfigurationError: the name belongs to another kind of metric.
        """
        self._claim(name, MetricType.GAUGE)
        return self.gauges.setdefault(name, Gauge(name, description))

    def inc_counter(self, name: str, value: float = 1, labels: Labels | None = None) -> None:
        """Add to a counter, and to what its label set has.

        Raises:
            ConfigurationError: `value` is negative, infinite or NaN.
        """
        if (counter := self.counters.get(name)) is not None:
            counter.inc(value, labels)

    def observe_histogram(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Count a duration in seconds, also under its label set."""
        if (histogram := self.histograms.get(name)) is None:
            return
        histogram.observe(value)
        if labels:
            with self._lock:
                kept = self._labelled_histograms.setdefault(name, {})
                key = label_set(labels, kept)
                if (labelled := kept.get(key)) is None:
                    labelled = kept[key] = Histogram(name)
            labelled.observe(value)

    def set_gauge(self, name: str, value: float, labels: Labels | None = None) -> None:
        """Set a gauge, or what its label set has."""
        if (gauge := self.gauges.get(name)) is not None:
            gauge.set(value, labels)

    def inc_gauge(self, name: str, value: float = 1, labels: Labels | None = None) -> None:
        """Add to a gauge, or to what its label set has."""
        if (gauge := self.gauges.get(name)) is not None:
            gauge.inc(value, labels)

    def dec_gauge(self, name: str, value: float = 1, labels: Labels | None = None) -> None:
        """Take from a gauge, or from what its label set has."""
        if (gauge := self.gauges.get(name)) is not None:
            gauge.dec(value, labels)

    def ask(self) -> Self:
        """Have handlers timed from now on."""
        self._asked = self.timing = True
        return self

    def flush(self, histogram: Histogram) -> None:
        """Count what a histogram has pending, and end the timing if nobody has asked for it."""
        histogram.flush()
        self._untold += BATCH
        if self._untold >= _TIMED_AT_FIRST:
            self.timing = self._asked

    def snapshot(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return all figures.

        Returns:
            `{"counters": {name: {"description": …, "value": 3}}, "histograms": {name: {"description": …, "count": …,
            "sum": …, "percentiles": …, "buckets": …}}, "gauges": {name: {"description": …, "value": 0}}}`, histograms
            as in `Histogram.snapshot`. A metric that was given labels also has
            `"labels": [{"labels": {"kind": "a"}, "value": 2}]`, a histogram with its four figures for the value.
        """
        self.ask()
        with self._lock:
            labelled = {name: list(kept.items()) for name, kept in self._labelled_histograms.items()}
        histograms: dict[str, dict[str, Any]] = {}
        for name, histogram in list(self.histograms.items()):
            histograms[name] = {"description": histogram.description, **histogram.snapshot()}
            if name in labelled:
                histograms[name]["labels"] = [{"labels": dict(key), **kept.snapshot()} for key, kept in labelled[name]]
        return {
            "counters": {name: _figures(counter) for name, counter in list(self.counters.items())},
            "histograms": histograms,
            "gauges": {name: _figures(gauge) for name, gauge in list(self.gauges.items())},
        }

    async def get_metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return all figures, as `snapshot` does."""
        return self.snapshot()

    def reset(self) -> None:
        """Set every metric to zero in place; functions of gauges stay and are asked again."""
        with self._lock:
            self._labelled_histograms.clear()
        metrics: list[Counter | Histogram | Gauge] = [
            *self.counters.values(),
            *self.histograms.values(),
            *self.gauges.values(),
        ]
        for metric in metrics:
            metric.reset()

    def _claim(self, name: str, kind: MetricType) -> None:
        taken = self._types.setdefault(name, kind)
        if taken is not kind:
            msg = f"{name} is registered as a {taken.value} already and cannot be a {kind.value}; take another name."
            raise ConfigurationError(msg)


class Timer:
    """A context manager that observes how long its body took, also when it raises.

    It can be used again and nested in itself, within one task.
    """

    __slots__ = ("_collector", "_labels", "_name", "_starts")

    def __init__(self, collector: MetricsCollector, name: str, labels: Labels | None = None) -> None:
        self._collector = collector
        self._name = name
        self._labels = labels
        self._starts: list[float] = []

    def __enter__(self) -> Self:
        self._starts.append(perf_counter())
        return self

    def __exit__(self, *_: object) -> None:
        seconds = perf_counter() - self._starts.pop()
        self._collector.observe_histogram(self._name, seconds, self._labels)


def get_metrics_collector() -> MetricsCollector:
    """Return the collector of the application's bus, one per process."""
    return APPLICATION.ask()


def reset_metrics_collector() -> None:
    """Set the metrics of the application's bus to zero, in place."""
    APPLICATION.ask().reset()


def _figures(metric: Counter | Gauge) -> dict[str, Any]:
    figures: dict[str, Any] = {"description": metric.description, "value": metric.value}
    if labelled := metric.labelled():
        figures["labels"] = [{"labels": each.labels, "value": each.value} for each in labelled]
    return figures


APPLICATION = MetricsCollector()
"""What `get_metrics_collector` returns."""
