"""Events that exist in order to be observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmgine.bus.tracing import SpanContext, TraceEvent
from llmgine.messages import Event

__all__ = ["LogEvent", "LogLevel", "Metric", "MetricEvent", "ObservabilityBaseEvent", "SpanContext", "TraceEvent"]


class LogLevel(StrEnum):
    """How much something matters, as in the standard library's `logging`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass
class ObservabilityBaseEvent(Event):
    """Something worth recording, whether or not anything handles it."""

    level: LogLevel = LogLevel.INFO


@dataclass
class LogEvent(ObservabilityBaseEvent):
    """Somebody had something to say."""

    message: str = ""
    context: dict[str, Any] = field(default_factory=dict[str, Any])
    """What it is about, by name."""
    source: str | None = None
    """Which part of the application says it."""


@dataclass
class Metric:
    """One measurement."""

    name: str
    value: float
    unit: str | None = None
    """As UCUM writes it, which is what OpenTelemetry expects: "ms", "By", "{request}"."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    """What the measurement is about, by name, such as `{"model": "small"}`."""


@dataclass
class MetricEvent(Event):
    """Something has been measured."""

    metrics: list[Metric] = field(default_factory=list[Metric])
