"""Observability: everything that a bus publishes, shown to whoever keeps a record of it."""

from llmgine.observability.events import (
    LogLevel,
    Metric,
    MetricEvent,
    ObservabilityBaseEvent,
    SpanContext,
    TraceEvent,
)
from llmgine.observability.manager import ObservabilityHandler, ObservabilityManager

__all__ = [
    "LogLevel",
    "Metric",
    "MetricEvent",
    "ObservabilityBaseEvent",
    "ObservabilityHandler",
    "ObservabilityManager",
    "SpanContext",
    "TraceEvent",
]
