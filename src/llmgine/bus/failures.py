"""What event handlers raised: counted, logged, and the latest kept."""

from __future__ import annotations

import logging

from llmgine.bus.handler_check import name_of
from llmgine.bus.interfaces import EventHandler
from llmgine.messages import Event

__all__ = ["Failures"]

_log = logging.getLogger("llmgine.bus")


class Failures:
    """The failures of a bus's event handlers."""

    def __init__(self) -> None:
        self.total = 0
        self.suppressed = True
        """Whether they are kept from the publishers."""
        self.latest: list[BaseException] = []
        """Oldest first."""
        self._limit = 1000

    def limit(self, limit: int) -> None:
        """Keep at most `limit` of the latest."""
        self._limit = limit
        del self.latest[: max(0, len(self.latest) - limit)]

    def note(self, event: Event, handler: EventHandler, error: BaseException) -> str:
        """Take a failure in. Return the handler's name, with its module."""
        name = name_of(handler)
        self.total += 1
        self.latest.append(error)
        self.limit(self._limit)
        _log.error("%s failed on %s: %r", name, type(event).__name__, error, exc_info=error)
        return name
