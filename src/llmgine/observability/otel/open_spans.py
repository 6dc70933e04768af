"""Which spans of sessions and commands are open, and which of them a message is below.

A span's parent is what the message says: the span that its `traceparent` names, or else that of the command that caused
it, or else its session's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from opentelemetry.trace import Span

from llmgine.bus.tracing import SpanContext
from llmgine.messages import Command, Event
from llmgine.messages.message import Message
from llmgine.observability import semconv
from llmgine.observability.otel.bounded import Bounded
from llmgine.observability.otel.spans import Spans, give_up

__all__ = ["Key", "OpenCommand", "OpenSession", "OpenSpans"]

Key: TypeAlias = tuple[str, str]
"""A trace id and a span id, in hexadecimal digits."""


@dataclass(slots=True)
class OpenSession:
    """The span of a session that has not ended."""

    span: Span
    own: SpanContext | None
    """Its identity; None where nobody provides spans."""
    below: str | None
    """The `traceparent` that the session began with."""


@dataclass(slots=True)
class OpenCommand:
    """The span of a command under way."""

    span: Span
    own: SpanContext
    command: Command[Any]
    below: str | None
    """The `traceparent` that the command came with."""
    began: int
    """By the performance counter, in nanoseconds."""
    traced: bool
    """Whether the bus traces the command, and will say when its span ends."""


class OpenSpans:
    """Keeps up to a number of sessions, and of commands."""

    def __init__(self, spans: Spans, limit: int, count_evicted: Callable[[], None]) -> None:
        self._spans = spans
        self._count_evicted = count_evicted
        self._sessions: Bounded[str, OpenSession] = Bounded(limit, self._evict_session)
        self._commands: Bounded[Key, OpenCommand] = Bounded(limit, self._evict_command)
        self._keys: Bounded[str, Key] = Bounded(limit)
        """Of the commands, by their ids."""
        self._evicted: Bounded[Key, bool] = Bounded(limit)
        """Spans that a bus traces and that have been exported before their end."""

    def parent_of(self, message: Message) -> Span | None:
        """Return the span that a message is below, open or not; None if it begins a trace."""
        carried = SpanContext.parse(message.traceparent)
        if carried is None:
            for cause in (message.causation_id, message.correlation_id):
                known = self.command(cause) if cause is not None and cause != message.id else None
                if known is not None:
                    return known.span
        session = self._sessions.get(message.session_id)
        # What is sent where the session began is below the session.
        if session is not None and (carried is None or session.below == message.traceparent):
            return session.span
        return None if carried is None else self.named(carried, session)

    def named(self, context: SpanContext, session: OpenSession | None = None) -> Span:
        """Return the span with an identity: that of a command, that of the session in question, or one elsewhere."""
        known: OpenCommand | OpenSession | None = self._commands.get((context.trace_id, context.span_id))
        if known is None and session is not None and session.own == context:
            known = session
        return self._spans.remote(context) if known is None else known.span

    def span_of(self, command: Command[Any]) -> Span | None:
        """Return the span of a command whose handler runs; what its `traceparent` names if it has none."""
        carried = SpanContext.parse(command.traceparent)
        if carried is not None:
            return self.named(carried)
        known = self.command(command.command_id)
        return None if known is None else known.span

    def command(self, command_id: str) -> OpenCommand | None:
        """Return a command by its id."""
        key = self._keys.get(command_id)
        return None if key is None else self._commands.get(key)

    def command_with(self, context: SpanContext | None) -> OpenCommand | None:
        """Return the command whose span has an identity."""
        return None if context is None else self._commands.get((context.trace_id, context.span_id))

    def sender_of(self, event: Event) -> Command[Any] | None:
        """Return the command whose handler sent an event."""
        known = self.command(event.causation_id) if event.causation_id is not None else None
        return None if known is None else known.command

    def session(self, session_id: str) -> OpenSession | None:
        """Return a session by its id."""
        return self._sessions.get(session_id)

    def add_session(self, session_id: str, session: OpenSession) -> None:
        """Keep a session until it is ended."""
        self._sessions.put(session_id, session)

    def pop_session(self, session_id: str) -> OpenSession | None:
        """Remove a session, whose span the caller has to end, and return it."""
        return self._sessions.pop(session_id)

    def add_command(self, known: OpenCommand) -> None:
        """Keep a command until it is ended."""
        key = known.own.trace_id, known.own.span_id
        self._keys.put(known.command.command_id, key)
        self._commands.put(key, known)

    def end_command(self, known: OpenCommand, ended: int | None = None) -> None:
        """End a command's span, at a time in nanoseconds since 1970; by default now."""
        self._commands.pop((known.own.trace_id, known.own.span_id))
        self._keys.pop(known.command.command_id)
        if not known.traced and known.command.traceparent == known.own.traceparent:
            # Executed again, it has a span beside this one, not below it.
            known.command.traceparent = known.below
        known.span.end(ended)

    def was_evicted(self, key: Key) -> bool:
        """Return, once, whether the span of a command has been exported before its end."""
        return self._evicted.pop(key) is not None

    def close(self) -> None:
        """End what is open."""
        for known in self._commands.drain():
            self._give_up(known, "closed")
        for session in self._sessions.drain():
            give_up(session.span, "closed")

    def _evict_session(self, _: str, session: OpenSession) -> None:
        self._count_evicted()
        give_up(session.span, "too many open spans")

    def _evict_command(self, key: Key, known: OpenCommand) -> None:
        self._count_evicted()
        if known.traced:
            self._evicted.put(key, True)  # noqa: FBT003  # the table is a set
        self._give_up(known, "too many open spans")

    def _give_up(self, known: OpenCommand, why: str) -> None:
        known.span.set_attribute(semconv.UNFINISHED, why)
        self.end_command(known)
