"""Metrics and spans as lines for a person, on standard error. No value can make a line say more than it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, TextIO

from llmgine.messages import Event
from llmgine.observability.events import Metric, MetricEvent, TraceEvent
from llmgine.observability.manager import ObservabilityHandler
from llmgine.observability.redact import redact

__all__ = [
    "ConsoleMetricsHandler",
    "ConsoleTracesHandler",
    "duration",
    "is_coloured",
    "metric_lines",
    "shown",
    "span_parts",
]

_LONGEST = 500
"""Characters of a value that are shown."""
_RED, _GREEN, _BLUE, _CYAN = 31, 32, 34, 36  # ECMA-48, section 8.3.117


class ConsoleMetricsHandler(ObservabilityHandler):
    """Writes a line for each metric of a `MetricEvent`: `[METRIC] upload = 12 ms {region=eu}`."""

    def handle(self, event: Event) -> None:
        """Write the event's metrics; of other events nothing."""
        if isinstance(event, MetricEvent):
            for line in metric_lines(event.metrics):
                _write("METRIC", _CYAN, line)


class ConsoleTracesHandler(ObservabilityHandler):
    """Writes a line for each `TraceEvent`: `[TRACE] Command Greet OK 1.2 ms trace=… span=… parent=…`."""

    def handle(self, event: Event) -> None:
        """Write that a span has begun or ended; of other events nothing."""
        if isinstance(event, TraceEvent):
            colour = {"OK": _GREEN, "ERROR": _RED}.get(shown(event.status), _BLUE)
            _write("TRACE", colour, " ".join(span_parts(event)))


# What an event holds is not always what its type says: it may have come from a file, or from another program.


def metric_lines(metrics: object) -> Iterator[str]:
    """Say each metric in a line of its own."""
    for metric in metrics if isinstance(metrics, list | tuple) else (metrics,):
        if isinstance(metric, Metric):
            parts = [shown(metric.name), "=", shown(metric.value), *_of_pairs(metric.tags)]
            if metric.unit is not None:
                parts.insert(3, shown(metric.unit))
            yield " ".join(parts)
        else:
            yield shown(metric)


def span_parts(event: TraceEvent) -> Iterator[str]:
    """Say word by word which span it is, and what has become of it."""
    yield shown(event.name)
    if event.status is not None:
        yield shown(event.status)
    else:
        yield "started" if event.end_time is None else "ended"
    seconds = _seconds_between(event.start_time, event.end_time)
    if seconds is not None:
        yield duration(seconds)
    for label, name in (("trace", "trace_id"), ("span", "span_id"), ("parent", "parent_span_id")):
        value = getattr(event.span_context, name, None)
        if value is not None:
            yield f"{label}={shown(value)}"
    yield from _of_pairs(event.attributes)


def duration(seconds: float) -> str:
    """Return a time as a person would say it: "1.2 ms", "3.40 s"."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _seconds_between(start: Any, end: Any) -> float | None:
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (TypeError, ValueError):
        return None  # the span has not ended, or nobody can tell how long it took


def _of_pairs(pairs: object) -> Iterator[str]:
    if isinstance(pairs, dict) and pairs:
        yield f"{{{', '.join(f'{shown(name)}={shown(value)}' for name, value in redact(pairs).items())}}}"


def shown(value: object, longest: int = _LONGEST) -> str:
    """Return a value's text with what a terminal would obey, or what would break the line, written as an escape."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # any class may come here, and its `__str__` may raise anything
        text = object.__repr__(value)
    if len(text) > longest:
        text = f"{text[:longest]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_coloured(stream: TextIO) -> bool:
    """Tell whether colours are seen, and wanted, where a stream goes."""
    # https://no-color.org: whatever it is set to, unless that is empty
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(label: str, colour: int, text: str) -> None:
    try:
        label = f"[{label}]"
        if is_coloured(sys.stderr):
            label = f"\x1b[{colour}m{label}\x1b[0m"
        sys.stderr.write(f"{label} {text}\n")  # one call, so that the lines of threads do not mix
    except (AttributeError, OSError, ValueError):
        return  # there is no standard error, or it is closed: nobody is left to tell
