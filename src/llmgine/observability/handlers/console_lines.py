"""Metrics and spans as lines for a person, on standard error. No value can make a line say more than it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from llmgine.messages import Event
from llmgine.observability.events import Metric, MetricEvent, TraceEvent
from llmgine.observability.manager import ObservabilityHandler

__all__ = ["ConsoleMetricsHandler", "ConsoleTracesHandler"]

_LONGEST = 500
"""Characters of a value that are shown."""
_RED, _GREEN, _BLUE, _CYAN = 31, 32, 34, 36  # ECMA-48, section 8.3.117


class ConsoleMetricsHandler(ObservabilityHandler):
    """Writes a line for each metric of a `MetricEvent`: `[METRIC] upload = 12 ms {region=eu}`."""

    def handle(self, event: Event) -> None:
        """Write the event's metrics; of other events nothing."""
        if isinstance(event, MetricEvent):
            for line in _of_metrics(event.metrics):
                _write("METRIC", _CYAN, line)


class ConsoleTracesHandler(ObservabilityHandler):
    """Writes a line for each `TraceEvent`: `[TRACE] Command Greet OK 1.2 ms trace=… span=… parent=…`."""

    def handle(self, event: Event) -> None:
        """Write that a span has begun or ended; of other events nothing."""
        if isinstance(event, TraceEvent):
            colour = {"OK": _GREEN, "ERROR": _RED}.get(_shown(event.status), _BLUE)
            _write("TRACE", colour, " ".join(_of_span(event)))


# What an event holds is not always what its type says: it may have come from a file, or from another program.


def _of_metrics(metrics: object) -> Iterator[str]:
    for metric in metrics if isinstance(metrics, list | tuple) else (metrics,):
        if isinstance(metric, Metric):
            parts = [_shown(metric.name), "=", _shown(metric.value), *_of_pairs(metric.tags)]
            if metric.unit is not None:
                parts.insert(3, _shown(metric.unit))
            yield " ".join(parts)
        else:
            yield _shown(metric)


def _of_span(event: TraceEvent) -> Iterator[str]:
    yield _shown(event.name)
    if event.status is not None:
        yield _shown(event.status)
    else:
        yield "started" if event.end_time is None else "ended"
    seconds = _seconds_between(event.start_time, event.end_time)
    if seconds is not None:
        yield f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
    for label, name in (("trace", "trace_id"), ("span", "span_id"), ("parent", "parent_span_id")):
        value = getattr(event.span_context, name, None)
        if value is not None:
            yield f"{label}={_shown(value)}"
    yield from _of_pairs(event.attributes)


def _seconds_between(start: Any, end: Any) -> float | None:
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (TypeError, ValueError):
        return None  # the span has not ended, or nobody can tell how long it took


def _of_pairs(pairs: object) -> Iterator[str]:
    if isinstance(pairs, dict) and pairs:
        yield f"{{{', '.join(f'{_shown(name)}={_shown(value)}' for name, value in pairs.items())}}}"


def _shown(value: object) -> str:
    """Return a value's text with what a terminal would obey, or what would break the line, written as an escape."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  # any class may come here, and its `__str__` may raise anything
        text = object.__repr__(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write(label: str, colour: int, text: str) -> None:
    try:
        label = f"[{label}]"
        # https://no-color.org: whatever it is set to, unless that is empty
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            label = f"\x1b[{colour}m{label}\x1b[0m"
        sys.stderr.write(f"{label} {text}\n")  # one call, so that the lines of threads do not mix
    except (AttributeError, OSError, ValueError):
        return  # there is no standard error, or it is closed: nobody is left to tell
