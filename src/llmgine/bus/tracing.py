"""Spans: which work belongs to which trace, and how long it took. A bus that traces gives one to each command.

The identity of a span travels as a `traceparent` (W3C Trace Context, level 1). A command's says whose child it is when
it arrives, and which span it is itself while its handler runs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import perf_counter_ns, time_ns
from typing import Any

from llmgine.messages import Command, CommandResult, Event

__all__ = ["CommandSpan", "SpanContext", "TraceEvent", "begin_span"]

_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_TRACEPARENT = re.compile(
    rf"(?!ff)([0-9a-f]{{2}})-({_TRACE_ID.pattern})-({_SPAN_ID.pattern})-([0-9a-f]{{2}})(-.*)?", re.DOTALL
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SpanContext:
    """Which span, of which trace, below which other span."""

    trace_id: str
    """32 lower-case hexadecimal digits, if it is to leave the process as a `traceparent`."""
    span_id: str
    """16 of them, likewise."""
    parent_span_id: str | None = None
    sampled: bool = True
    """Whether the span is recorded. The bus records no span below one that is not."""

    @property
    def traceparent(self) -> str | None:
        """The W3C form; None where the ids do not have the form that it prescribes."""
        if _TRACE_ID.fullmatch(self.trace_id) and _SPAN_ID.fullmatch(self.span_id):
            return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"
        return None

    @classmethod
    def below(cls, parent: SpanContext | None) -> SpanContext:
        """Return a new span below another, or, without one, the first span of a new trace. Its ids are random."""
        if parent is None:
            return cls(_random_id(_TRACE_ID, 16), _random_id(_SPAN_ID, 8))
        return cls(parent.trace_id, _random_id(_SPAN_ID, 8), parent.span_id)

    @classmethod
    def parse(cls, traceparent: object) -> SpanContext | None:
        """Return the span that a `traceparent` names; None for anything that is not one.

        A version above 00 is read by what it has in common with 00, as section 4.3 of the recommendation asks.
        """
        match = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
        if match is None:
            return None
        version, trace_id, span_id, flags, more = match.groups()
        if version == "00" and more is not None:
            return None
        return cls(trace_id, span_id, sampled=bool(int(flags, 16) & 1))


@dataclass
class TraceEvent(Event):
    """A span has begun (it has no `end_time`) or has ended."""

    name: str
    span_context: SpanContext
    start_time: str | None = None
    """ISO 8601, as is `end_time`."""
    end_time: str | None = None
    status: str | None = None
    """"OK" or "ERROR" once it has ended."""
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


class CommandSpan:
    """The span of a command under way. Until it has ended, it is the command's `traceparent`."""

    __slots__ = ("_command", "_given", "_start", "_ticks", "context")

    def __init__(self, command: Command[Any], parent: SpanContext | None) -> None:
        self.context = SpanContext.below(parent)
        self._command = command
        self._given = command.traceparent
        self._start = time_ns()
        self._ticks = perf_counter_ns()
        command.traceparent = self.context.traceparent

    def started(self) -> TraceEvent:
        """Return the event that announces the span."""
        return self._event()

    def ended(self, result: CommandResult[Any]) -> TraceEvent:
        """End the span with the command's result, and return the event that says so.

        The command gets back the `traceparent` that it came with: if it is executed again, that is a span beside this
        one, not below it.
        """
        end = self._start + perf_counter_ns() - self._ticks
        self._command.traceparent = self._given
        return self._event(
            end_time=_iso(end),
            status="OK" if result.success else "ERROR",
            attributes={} if result.success else {"error": result.error},
        )

    def _event(self, **more: Any) -> TraceEvent:
        command = self._command
        event = TraceEvent(
            name=f"Command {type(command).__name__}",
            span_context=self.context,
            start_time=_iso(self._start),
            session_id=command.session_id,
            **more,
        )
        # Commands that a handler of spans executes have no spans of their own: those would be handled, and so on.
        event.traceparent = f"00-{self.context.trace_id}-{self.context.span_id}-00"
        return event


def begin_span(command: Command[Any], session: str | None = None) -> CommandSpan | None:
    """Begin a command's span, below the one that its `traceparent` names; None if that one is not recorded.

    Without a valid one it is below its session, if that is traced and `session` is its `traceparent`; or else it begins
    a trace.
    """
    parent = SpanContext.parse(command.traceparent) or SpanContext.parse(session)
    if parent is not None and not parent.sampled:
        return None
    return CommandSpan(command, parent)


def _random_id(form: re.Pattern[str], size: int) -> str:
    while not form.fullmatch(text := os.urandom(size).hex()):
        pass  # nothing but zeros
    return text


def _iso(nanoseconds: int) -> str:
    return (_EPOCH + timedelta(microseconds=nanoseconds // 1000)).isoformat(timespec="microseconds")
