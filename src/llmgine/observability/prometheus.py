"""The figures of a bus for Prometheus, read when they are scraped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmgine.errors import MissingExtraError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from llmgine.bus import MessageBus

__all__ = ["BusCollector", "MetricsServer", "serve_metrics"]

_PREFIX = "llmgine_"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]")


class BusCollector:
    """A custom collector, for a registry of prometheus_client: `REGISTRY.register(BusCollector(bus))`.

    Names begin with `llmgine_`; what Prometheus allows in no name becomes `_`. A counter or histogram that was given
    labels has a sample for each label set, and one without labels for what was counted without them, so that they add
    up. Of a gauge, the sample without labels is its own value.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self, bus: MessageBus) -> None:
        """Read the metrics of `bus`, whose handlers are timed from now on."""
        try:
            from prometheus_client import metrics_core, utils
        except ModuleNotFoundError as error:
            raise MissingExtraError("prometheus", "The endpoint for Prometheus") from error
        self._core = metrics_core
        self._write_bound: Callable[[float], str] = utils.floatToGoString
        self._metrics = bus.metrics

    def collect(self) -> Iterable[Metric]:
        """Return the figures as they are now."""
        figures = self._metrics.snapshot()
        taken: set[str] = set()
        families: list[Metric] = []
        for name, figure in figures["counters"].items():
            base = _name(name.removesuffix("_total"), taken)
            family: Metric = self._core.CounterMetricFamily(base, figure["description"])
            for labels, value in _parts(figure):
                family.add_sample(f"{base}_total", labels, value)
            families.append(family)
        for name, figure in figures["gauges"].items():
            base = _name(name, taken)
            family = self._core.GaugeMetricFamily(base, figure["description"])
            family.add_sample(base, {}, figure["value"])
            for each in figure.get("labels", ()):
                family.add_sample(base, _labels(each["labels"]), each["value"])
            families.append(family)
        for name, figure in figures["histograms"].items():
            base = _name(name, taken)
            family = self._core.HistogramMetricFamily(base, figure["description"])
            for labels, part in _histograms(figure):
                for bound, count in part["buckets"].items():
                    family.add_sample(f"{base}_bucket", {**labels, "le": self._write_bound(bound)}, count)
                family.add_sample(f"{base}_count", labels, part["count"])
                family.add_sample(f"{base}_sum", labels, part["sum"])
            families.append(family)
        return families


class MetricsServer:
    """Answers `GET /metrics`, in a thread that does not keep the process alive."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        from prometheus_client import start_http_server

        self._server, self._thread = start_http_server(port, host, registry)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop answering, and release the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(bus: MessageBus, host: str = "127.0.0.1", port: int = 9464) -> MetricsServer:
    """Serve the figures of a bus to Prometheus over HTTP.

    Args:
        bus: whose figures.
        host: the address to listen on; by default only this machine can ask.
        port: 0 takes one that is free.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        OSError: the address or the port cannot be had.
    """
    collector = BusCollector(bus)
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(collector)
    return MetricsServer(registry, host, port)


def _parts(figure: Mapping[str, Any]) -> list[tuple[dict[str, str], float]]:
    """Return what each label set of a counter has, and what none has."""
    parts = [(_labels(each["labels"]), each["value"]) for each in figure.get("labels", ())]
    rest = figure["value"] - sum(value for _, value in parts)
    return [({}, max(rest, 0)), *parts] if rest > 0 or not parts else parts


def _histograms(figure: Mapping[str, Any]) -> list[tuple[dict[str, str], Mapping[str, Any]]]:
    """Return the histogram of each label set, and that of what has none."""
    parts: list[tuple[dict[str, str], Mapping[str, Any]]] = [
        (_labels(each["labels"]), each) for each in figure.get("labels", ())
    ]
    if not parts:
        return [({}, figure)]
    # Another thread may have observed since the whole was read.
    count = max(figure["count"] - sum(part["count"] for _, part in parts), 0)
    if not count:
        return parts
    rest = {
        "count": count,
        "sum": max(figure["sum"] - sum(part["sum"] for _, part in parts), 0.0),
        "buckets": {
            bound: min(max(whole - sum(part["buckets"][bound] for _, part in parts), 0), count)
            for bound, whole in figure["buckets"].items()
        },
    }
    return [({}, rest), *parts]


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {_legal(name): str(value) for name, value in labels.items()}


def _name(name: str, taken: set[str]) -> str:
    """Return what Prometheus may call a metric, and nothing else of this bus is called."""
    legal = _PREFIX + _NOT_IN_NAMES.sub("_", name)
    while legal in taken:
        legal += "_"
    taken.add(legal)
    return legal


def _legal(label: str) -> str:
    legal = _NOT_IN_NAMES.sub("_", label)
    return f"_{legal}" if legal[:1].isdigit() or not legal else legal
