"""A span around a block of code, as part of the trace of whatever is being handled."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Self

from llmgine.bus.causality import Chain, current, stamp
from llmgine.bus.tracing import SpanContext, TraceEvent, _iso
from llmgine.messages import Event, SessionID
from llmgine.messages.message import origin_of

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Span"]


class Span:
    """A context manager: the span begins with the block and ends with it, in error if the block raises.

    Whatever is sent inside the block is below the span, in this task and in those that it starts. Use it in synchronous
    or asynchronous code, but never around a `yield`: who consumes the generator would be inside the span too.
    """

    __slots__ = ("_chain", "_name", "_outer", "_session", "_show", "_start", "_ticks", "attributes", "context")

    def __init__(
        self, name: str, attributes: dict[str, Any], session: SessionID, show: Callable[[Event], object] | None
    ) -> None:
        """Prepare a span.

        Args:
            name: what the block does.
            attributes: shown when the span begins, and as they then are when it ends.
            session: whose span it is.
            show: gets the `TraceEvent`s; None if nobody would see them, and then there is no span.
        """
        self.context: SpanContext | None = None
        """None before it has begun, and where no span is recorded."""
        self.attributes = attributes
        """May be added to until the block ends."""
        self._name = name
        self._session = session
        self._show = show
        self._outer: Chain | None = None
        self._chain: Chain | None = None
        self._start = self._ticks = 0

    def __enter__(self) -> Self:
        outer = self._outer = current.get()
        parent = None if outer is None else SpanContext.parse(outer[4])
        if self._show is None or (parent is not None and not parent.sampled):
            return self
        self._start, self._ticks = time_ns(), perf_counter_ns()
        started = TraceEvent(
            self._name, _PENDING, _iso(self._start), attributes={**self.attributes}, session_id=self._session
        )
        if outer is not None:
            stamp(started, outer)
        own, correlation, _, _ = origin_of(started)
        correlation = correlation or own
        self.context = SpanContext.below(parent)
        started.span_context = self.context
        started.traceparent = traceparent = self.context.traceparent
        # Outside of any handler, what is sent inside was caused by the beginning of the span.
        _, cause, held, deadline, _, of_command = outer or (own, own, (), None, None, False)
        self._chain = correlation, cause, held, deadline, traceparent, of_command
        self._show(started)
        current.set(self._chain)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        chain, self._chain = self._chain, None
        if chain is None or self.context is None or self._show is None:
            return
        if current.get() is chain:  # not where a generator that was left inside is closed, from another context
            current.set(self._outer)
        if error is not None:
            text = str(error)
            self.attributes["error"] = f"{type(error).__name__}: {text}" if text else type(error).__name__
        ended = TraceEvent(
            self._name,
            self.context,
            _iso(self._start),
            _iso(self._start + perf_counter_ns() - self._ticks),
            "OK" if error is None else "ERROR",
            {**self.attributes},
            session_id=self._session,
        )
        stamp(ended, self._outer or chain)
        ended.traceparent = chain[4]
        self._show(ended)


_PENDING = SpanContext("", "")
