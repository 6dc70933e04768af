"""One place that sees every event, and the handlers that it shows them to."""

from __future__ import annotations

import logging
from collections import Counter

from llmgine.messages import Event

__all__ = ["ObservabilityHandler", "ObservabilityManager"]

_log = logging.getLogger("llmgine.observability")


class ObservabilityHandler:
    """Does something with every event. One that has a `close` is closed with its manager."""

    def handle(self, event: Event) -> None:
        """Take an event. This runs while the publisher waits, so it should be quick; what it raises is logged."""
        raise NotImplementedError


class ObservabilityManager:
    """Shows events to handlers, in the order of their registration and in the thread that publishes.

    `MessageBus(observability=manager)` or `bus.set_observability_manager(manager)` makes it see a bus.
    """

    def __init__(self) -> None:
        # Replaced, never changed: whoever is in the middle of it keeps what it began with.
        self._handlers: tuple[ObservabilityHandler, ...] = ()
        self._enabled = True
        self._failures: Counter[tuple[str, str]] = Counter()

    @property
    def handler_count(self) -> int:
        """How many handlers are registered."""
        return len(self._handlers)

    def register_handler(self, handler: ObservabilityHandler) -> None:
        """Show every event from now on to `handler`; does nothing if it is registered."""
        if not any(known is handler for known in self._handlers):
            self._handlers += (handler,)

    def unregister_handler(self, handler: ObservabilityHandler) -> None:
        """Show `handler` nothing more; does nothing if it is not registered."""
        self._handlers = tuple(known for known in self._handlers if known is not handler)

    def clear_handlers(self) -> None:
        """Unregister every handler, without closing it."""
        self._handlers = ()

    def set_enabled(self, enabled: bool) -> None:  # noqa: FBT001  # published
        """Show events to the handlers, or to nobody."""
        self._enabled = enabled

    def observe_event(self, event: Event) -> None:
        """Show an event to every handler. What one raises is logged, once for each kind of failure."""
        if not self._enabled:
            return
        for handler in self._handlers:
            try:
                handler.handle(event)
            except Exception as error:  # noqa: BLE001  # the boundary: a log that fails must not stop what it logs
                self._failed(handler, event, error)

    def close(self) -> None:
        """Unregister every handler and close those that can be closed."""
        handlers, self._handlers = self._handlers, ()
        for handler in handlers:
            close = getattr(handler, "close", None)
            if close is not None:
                try:
                    close()
                except Exception:  # noqa: BLE001  # the boundary: the other handlers must be closed as well
                    _log.exception("%s could not be closed", type(handler).__name__)
        for (name, kind), times in self._failures.items():
            if times > 1:
                _log.error("%s failed %d times with %s", name, times, kind)
        self._failures.clear()

    def _failed(self, handler: ObservabilityHandler, event: Event, error: Exception) -> None:
        kind = type(handler).__name__, type(error).__name__
        self._failures[kind] += 1
        if self._failures[kind] == 1:
            text = "%s failed on %s: %r. More failures of this kind are counted and not logged."
            _log.error(text, kind[0], type(event).__name__, error, exc_info=error)
