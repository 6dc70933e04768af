"""Spans of sessions, of commands, of the handlers of events, and of what the application traces itself.

While a command's handler runs, the command's `traceparent` is its own span, so that whatever the handler sends carries
it; a bus that traces sees to that itself, and its ids are taken over.
"""

from __future__ import annotations

import re
from time import perf_counter_ns
from typing import Any

import orjson
from opentelemetry.trace import Span, SpanKind

from llmgine.bus.causality import Chain
from llmgine.bus.session import SessionEndEvent, SessionStartEvent
from llmgine.bus.tracing import SpanContext, TraceEvent
from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.events import (
    CommandResultEvent,
    CommandRetriedEvent,
    CommandStartedEvent,
    DeadLetterCommandEvent,
    EventHandlerFailedEvent,
)
from llmgine.messages.ids import BUS
from llmgine.observability import semconv
from llmgine.observability.otel.bounded import Bounded
from llmgine.observability.otel.metrics import Metrics
from llmgine.observability.otel.open_spans import Key, OpenCommand, OpenSession, OpenSpans
from llmgine.observability.otel.spans import Spans, context_of, fail, give_up, nanoseconds, note_exception
from llmgine.observability.redact import redact
from llmgine.observability.serialize import to_dict

__all__ = ["BusSpans", "kind_of_error"]

_ERROR = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception))(?::|$)")


class BusSpans:
    """Begins and ends the spans of the buses whose events it sees."""

    def __init__(
        self,
        spans: Spans,
        opened: OpenSpans,
        vocabulary: semconv.Vocabulary,
        metrics: Metrics | None,
        limit: int,
    ) -> None:
        self._spans = spans
        self._open = opened
        self._vocabulary = vocabulary
        self._metrics = metrics
        self._announced: Bounded[Key, TraceEvent] = Bounded(limit)
        """Spans that a bus or the application has begun."""
        self._recorded: BaseException | None = None
        """What the last handler of an event that had a span has raised."""

    # Sessions

    def session_started(self, event: SessionStartEvent) -> None:
        """Begin the span of a session."""
        session_id = event.session_id
        before = self._open.pop_session(session_id)
        if before is not None:
            give_up(before.span, "begun again")
        name = semconv.SESSION_SPAN.format(session_id)
        span = self._spans.start(name, self._open.parent_of(event), attributes={semconv.SESSION_ID: session_id})
        own = context_of(span)
        self._open.add_session(session_id, OpenSession(span, own, event.traceparent))
        if own is not None:
            event.traceparent = own.traceparent  # so that a bus which traces puts the session's commands below it

    def session_ended(self, event: SessionEndEvent) -> None:
        """End the span of a session."""
        session = self._open.pop_session(event.session_id)
        if session is None:
            return
        if event.error is not None:
            note_exception(session.span, event.error)
            fail(session.span, type(event.error).__qualname__, repr(event.error))
        session.span.end()

    # Commands

    def command_started(self, event: CommandStartedEvent) -> None:
        """Begin the span of a command, with the ids that the bus has announced for it, if it has."""
        command = event.command
        if command is None:
            return
        below = command.traceparent
        announced = self._announced_for(command)
        kind = type(command).__name__
        name = semconv.COMMAND_SPAN.format(kind)
        attributes = {**self._vocabulary.processing("execute", kind), **_about(command)}
        if announced is not None:
            own: SpanContext | None = announced.span_context
            span = self._start_as(announced, name, SpanKind.CONSUMER, attributes)
        else:
            parent = self._open.parent_of(command)
            span = self._spans.start(name, parent, kind=SpanKind.CONSUMER, attributes=attributes)
            own = context_of(span)
            if own is not None:  # otherwise nobody provides spans yet
                command.traceparent = own.traceparent
        if own is not None:
            traced = announced is not None
            self._open.add_command(OpenCommand(span, own, command, below, perf_counter_ns(), traced))

    def command_ended(self, event: CommandResultEvent) -> None:
        """Say how a command ended, and end its span, unless the bus is about to say when it did."""
        result = event.command_result
        known = self._open.command_with(SpanContext.parse(event.traceparent))
        if known is None and result is not None:
            known = self._open.command(result.command_id)
        if known is None:
            return
        problem = None
        if result is not None and not result.success:
            problem = _kind_of_failure(result)
            if result.exception is not None:
                note_exception(known.span, result.exception)
            fail(known.span, problem, result.error or problem)
        if self._metrics is not None:
            seconds = (perf_counter_ns() - known.began) / 1e9
            self._metrics.processed(seconds, "execute", type(known.command).__name__, problem)
        if not known.traced:
            self._open.end_command(known)

    def retried(self, event: CommandRetriedEvent) -> None:
        """Note on a command's span that an attempt has failed."""
        self._note(event, semconv.RETRY, {semconv.ATTEMPTS: event.attempt, semconv.RETRY_DELAY: event.delay})

    def dead_lettered(self, event: DeadLetterCommandEvent) -> None:
        """Note on a command's span that it has become a dead letter; that it has failed, its result will say."""
        self._note(event, semconv.DEAD_LETTER, {semconv.ATTEMPTS: event.attempts})

    # Spans that a bus or the application traces

    def traced(self, event: TraceEvent) -> None:
        """Take note of a span that has begun; export one that has ended."""
        key = event.span_context.trace_id, event.span_context.span_id
        if event.end_time is None:
            self._announced.put(key, event)
            return
        self._announced.pop(key)
        ended = nanoseconds(event.end_time)
        known = self._open.command_with(event.span_context)
        if known is not None:
            self._open.end_command(known, ended)
        elif event.span_context.sampled and not self._open.was_evicted(key):
            data = to_dict(event).get("attributes")
            attributes = redact(data) if isinstance(data, dict) else {}
            attributes = {name: _attribute(value) for name, value in attributes.items() if value is not None}
            session = {semconv.SESSION_ID: event.session_id} if event.session_id != BUS else {}
            span = self._start_as(event, event.name, SpanKind.INTERNAL, {**attributes, **session})
            if event.status == "ERROR":
                text = str(attributes.get("error") or event.name)
                fail(span, kind_of_error(text), text)
            span.end(ended)

    # Handlers of events

    def handling(self, event: Event, handler: object) -> Span:
        """Begin the span of one handler's run."""
        kind = type(event).__name__
        name = _name_of(handler)
        attributes = {
            **self._vocabulary.processing("handle", kind, name),
            **_about(event),
            semconv.CODE_FUNCTION: name,
        }
        parent = self._open.parent_of(event)
        return self._spans.start(semconv.EVENT_SPAN.format(kind), parent, kind=SpanKind.CONSUMER, attributes=attributes)

    def chain_below(self, span: Span, chain: Chain | None) -> Chain | None:
        """Return a chain that goes on below a handler's span, if that is recorded.

        Otherwise it stays as it is: what the sampler drops here may well be in the log of a bus that traces.
        """
        own = context_of(span)
        if chain is None or own is None or not own.sampled:
            return chain
        correlation, cause, held, deadline, _, of_command = chain
        return correlation, cause, held, deadline, own.traceparent, of_command

    def handled(self, event: Event, span: Span, seconds: float, error: BaseException | None) -> None:
        """End the span of a handler's run."""
        problem = None
        if error is not None:
            problem = type(error).__qualname__
            note_exception(span, error)
            fail(span, problem, repr(error))
            self._recorded = error if isinstance(error, Exception) else None
        if self._metrics is not None:
            self._metrics.processed(seconds, "handle", type(event).__name__, problem)
        span.end()

    def handler_failed(self, event: EventHandlerFailedEvent) -> None:
        """Note what a handler raised: on the open span that the event is below, or else on a span of its own."""
        error = event.exception
        recorded, self._recorded = self._recorded, None
        if error is None:
            return
        failed = event.event or event
        parent = self._open.parent_of(failed)
        if parent is not None and parent.is_recording():
            note_exception(parent, error)
        elif recorded is not error:
            span = self.handling(failed, event.handler or "")
            note_exception(span, error)
            fail(span, type(error).__qualname__, repr(error))
            span.end()

    # Inside

    def _note(
        self, event: CommandRetriedEvent | DeadLetterCommandEvent, name: str, attributes: dict[str, int | float]
    ) -> None:
        known = self._open.command(event.command.command_id) if event.command is not None else None
        if known is not None:
            text = event.error or ""
            about = {semconv.EXCEPTION_TYPE: kind_of_error(text), semconv.EXCEPTION_MESSAGE: redact.text(text)}
            known.span.add_event(name, {**attributes, **about})

    def _announced_for(self, command: Command[Any]) -> TraceEvent | None:
        """Return what the bus has just said of a command's span; None if it does not trace."""
        carried = SpanContext.parse(command.traceparent)
        key = ("", "") if carried is None else (carried.trace_id, carried.span_id)
        begun = self._announced.get(key)
        # The command may also be inside a span that the application has begun.
        if begun is None or begun.causation_id != command.command_id:
            return None
        return self._announced.pop(key)

    def _start_as(self, event: TraceEvent, name: str, kind: SpanKind, attributes: dict[str, Any]) -> Span:
        """Start the span that an event describes."""
        begun = nanoseconds(event.start_time or event.end_time)
        ids = event.span_context
        if ids.traceparent is None:  # ids of somebody's own making
            return self._spans.start(name, self._open.parent_of(event), kind=kind, attributes=attributes, begun=begun)
        session = self._open.session(event.session_id)
        above = SpanContext(ids.trace_id, ids.parent_span_id or "")
        if above.traceparent is None:
            link = None if session is None else session.span
            return self._spans.start(name, None, kind=kind, attributes=attributes, begun=begun, ids=ids, link=link)
        inside = session is not None and session.below == above.traceparent
        parent = session.span if session is not None and inside else self._open.named(above, session)
        return self._spans.start(name, parent, kind=kind, attributes=attributes, begun=begun, ids=ids)


def kind_of_error(text: str) -> str:
    """Return the class that an error's text begins with, as in `"ValueError: text"`."""
    match = _ERROR.match(text)
    return match[1] if match is not None else semconv.OTHER_ERROR


def _kind_of_failure(result: CommandResult[Any]) -> str:
    error = result.exception
    return kind_of_error(result.error or "") if error is None else type(error).__qualname__


def _about(message: Command[Any] | Event) -> dict[str, str]:
    about = {semconv.MESSAGE_ID: message.id, semconv.CONVERSATION_OF_MESSAGE: message.correlation_id}
    if message.session_id != BUS:
        about[semconv.SESSION_ID] = message.session_id
    return about


def _attribute(value: Any) -> str | bool | int | float:
    """Return a value that JSON has as one that an attribute can have."""
    if isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    return orjson.dumps(value).decode()


def _name_of(handler: object) -> str:
    return handler if isinstance(handler, str) else getattr(handler, "__qualname__", None) or type(handler).__qualname__
