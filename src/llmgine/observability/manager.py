"""One place that sees every event, and the handlers that it shows them to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from inspect import iscoroutinefunction
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from llmgine.bus.causality import current, stamp
from llmgine.errors import ConfigurationError
from llmgine.messages import Event, SessionID
from llmgine.messages.ids import BUS
from llmgine.observability.events import LogEvent, LogLevel, Metric, MetricEvent
from llmgine.observability.queued import CLOSE_TIMEOUT, QueuedHandler
from llmgine.observability.sink import HandlerStats, ObservabilityHandler, Sink
from llmgine.observability.span import Span

if TYPE_CHECKING:
    from llmgine.observability.handlers.asynchronous import ObservabilityEventHandler

__all__ = ["ObservabilityBus", "ObservabilityHandler", "ObservabilityManager"]

_log = logging.getLogger("llmgine.observability")


class ObservabilityManager:
    """Shows events to handlers, in the order of their registration and in the thread that publishes.

    `MessageBus(observability=manager)` or `bus.set_observability_manager(manager)` makes it see a bus. What is given to
    `log`, `metric` and `span` goes to its own handlers only. It carries the ids of the message that is being handled.
    """

    def __init__(self) -> None:
        # Replaced, never changed: whoever is in the middle of it keeps what it began with.
        self._sinks: tuple[Sink, ...] = ()
        self._handlers: tuple[Any, ...] = ()
        """What is called: the handlers, and in the place of those that have failed, their sinks."""
        self._enabled = True
        self._observed = 0

    @property
    def handler_count(self) -> int:
        """How many handlers are registered."""
        return len(self._sinks)

    def register_handler(
        self, handler: ObservabilityHandler | ObservabilityEventHandler, *, slow: bool = False
    ) -> None:
        """Show every event from now on to `handler`; does nothing if it is registered.

        Args:
            handler: is called in the publisher's thread; one whose `handle` is asynchronous, by an
                `AsyncHandlerAdapter`.
            slow: call it in a thread of its own, by a `QueuedHandler`, so that publishers never wait for it.

        Raises:
            ConfigurationError: it has no `handle`.
        """
        if any(known.given is handler for known in self._sinks):
            return
        handle: Any = getattr(handler, "handle", None)
        if not callable(handle):
            msg = f"A handler has a method handle(event); {handler!r} has none."
            raise ConfigurationError(msg)
        shown: Any = handler
        if iscoroutinefunction(handle):
            from llmgine.observability.handlers.adapters import AsyncHandlerAdapter  # needs what is defined here

            shown = AsyncHandlerAdapter(cast("ObservabilityEventHandler", handler))
        elif slow:
            shown = QueuedHandler(handler)
        self._sinks += (Sink(shown, handler, self._observed),)
        self._look()

    def unregister_handler(self, handler: ObservabilityHandler | ObservabilityEventHandler) -> None:
        """Show `handler` nothing more, without closing it; does nothing if it is not registered."""
        self._forget([known for known in self._sinks if known.given is handler])

    def clear_handlers(self) -> None:
        """Unregister every handler, without closing it."""
        self._forget(self._sinks)

    def set_enabled(self, enabled: bool) -> None:  # noqa: FBT001  # published
        """Show events to the handlers, or to nobody."""
        self._enabled = enabled

    def observe_event(self, event: Event) -> None:
        """Show an event to every handler. What one raises is logged, once for each kind of failure.

        A handler that fails `MUTE_AFTER` times in a row is muted: of the events from then on it gets one every
        `PROBE_EVERY` seconds, until it takes one.
        """
        if not self._enabled:
            return
        self._observed += 1
        for handler in self._handlers:
            try:
                handler.handle(event)
            except Exception as error:  # noqa: BLE001  # the boundary: a log that fails must not stop what it logs
                self._failed(handler, event, error)

    def log(
        self,
        level: LogLevel,
        message: str,
        *,
        source: str | None = None,
        session_id: SessionID | None = None,
        **context: Any,
    ) -> None:
        """Show a `LogEvent` to the handlers.

        Args:
            level: how much it matters.
            message: what there is to say.
            source: which part of the application says it.
            session_id: by default that of the event which is being handled, if one is.
            **context: what it is about.
        """
        if self._enabled and self._sinks:
            self._show(LogEvent(LogLevel(level), message, context, source), session_id)

    def metric(
        self,
        name: str,
        value: float,
        *,
        unit: str | None = None,
        session_id: SessionID | None = None,
        **dimensions: object,
    ) -> None:
        """Show a `MetricEvent` with one measurement to the handlers.

        Args:
            name: what was measured.
            value: what came of it.
            unit: as UCUM writes it: "ms", "By", "{request}".
            session_id: by default that of the event which is being handled, if one is.
            **dimensions: what the measurement is about; kept as text.
        """
        if self._enabled and self._sinks:
            tags = {dimension: str(about) for dimension, about in dimensions.items()}
            self._show(MetricEvent([Metric(name, value, unit, tags)]), session_id)

    def span(self, name: str, *, session_id: SessionID | None = None, **attributes: Any) -> Span:
        """Return a context manager that makes its block a span, below that of the message which is being handled.

        `with manager.span("import", files=3) as span:` shows a `TraceEvent` when the block begins and one when it ends;
        `span.attributes` may be added to until then. Not for use around a `yield`.
        """
        watched = self._enabled and self._sinks
        return Span(name, attributes, session_id or _session(), self.observe_event if watched else None)

    def stats(self) -> list[HandlerStats]:
        """Return what has become of the events, for each handler in the order of registration."""
        return [
            sink.handler.stats() if isinstance(sink.handler, QueuedHandler) else sink.stats(self._observed)
            for sink in self._sinks
        ]

    def close(self, timeout: float = CLOSE_TIMEOUT) -> int:
        """Unregister every handler and close those that can be closed.

        Args:
            timeout: seconds that the slow handlers get, all together, for what waits.

        Returns:
            How many events were not handled to their end in that time.
        """
        sinks, self._sinks = self._sinks, ()
        self._look()
        deadline = monotonic() + timeout
        unfinished = 0
        for sink in sinks:
            try:
                if isinstance(sink.handler, QueuedHandler):
                    unfinished += sink.handler.close(max(0.0, deadline - monotonic()))
                elif hasattr(sink.handler, "close"):
                    sink.handler.close()
            except Exception:  # noqa: BLE001  # the boundary: the other handlers must be closed as well
                _log.exception("%s could not be closed", sink.name)
        for sink in sinks:
            sink.report()
        return unfinished

    async def aclose(self, timeout: float = CLOSE_TIMEOUT) -> int:
        """Do as `close` does, in another thread: the event loop goes on, and with it what asynchronous handlers do."""
        return await asyncio.to_thread(self.close, timeout)

    def _look(self) -> None:
        """See anew what is to be called."""
        sinks = None
        while sinks is not self._sinks:  # another thread may change them in between
            sinks = self._sinks
            self._handlers = tuple(sink if sink.failures else sink.handler for sink in sinks)

    def _failed(self, handler: Any, event: Event, error: Exception) -> None:
        known = (sink for sink in self._sinks if sink is handler or sink.handler is handler)
        sink = next(known, None) or Sink(handler)  # it may have unregistered itself
        sink.failed(event, error)
        if sink is not handler:
            self._look()

    def _forget(self, sinks: Iterable[Sink]) -> None:
        gone = tuple(sinks)
        self._sinks = tuple(known for known in self._sinks if known not in gone)
        self._look()
        for sink in gone:
            if sink.handler is not sink.given:
                sink.handler.release()
            sink.report()

    def _show(self, event: Event, session_id: SessionID | None) -> None:
        chain = current.get()
        if chain is not None:
            stamp(event, chain)
        event.session_id = session_id or _session()
        self.observe_event(event)


def _session() -> SessionID:
    """Return the session of the event that is being handled, or the bus's."""
    chain = current.get()
    return chain[2][-1][0] if chain is not None and chain[2] else BUS


ObservabilityBus: TypeAlias = ObservabilityManager
