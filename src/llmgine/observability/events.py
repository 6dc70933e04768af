"""Events that exist in order to be observed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llmgine.messages import Event

__all__ = ["LogLevel", "ObservabilityBaseEvent"]


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
