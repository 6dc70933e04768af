"""Observability: everything that a bus publishes, shown to whoever keeps a record of it."""

from llmgine.observability.events import (
    LogEvent,
    LogLevel,
    Metric,
    MetricEvent,
    ObservabilityBaseEvent,
    SpanContext,
    TraceEvent,
)
from llmgine.observability.manager import ObservabilityBus, ObservabilityHandler, ObservabilityManager
from llmgine.observability.queued import QueuedHandler
from llmgine.observability.sink import HandlerStats

__all__ = [
    "HandlerStats",
    "LogEvent",
    "LogLevel",
    "Metric",
    "MetricEvent",
    "ObservabilityBaseEvent",
    "ObservabilityBus",
    "ObservabilityHandler",
    "ObservabilityManager",
    "QueuedHandler",
    "SpanContext",
    "TraceEvent",
]
