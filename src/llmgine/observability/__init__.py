"""Observability: everything that a bus publishes, shown to whoever keeps a record of it."""

from llmgine.observability.events import LogLevel, ObservabilityBaseEvent
from llmgine.observability.manager import ObservabilityHandler, ObservabilityManager

__all__ = ["LogLevel", "ObservabilityBaseEvent", "ObservabilityHandler", "ObservabilityManager"]
