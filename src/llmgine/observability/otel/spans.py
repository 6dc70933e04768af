"""Spans with the ids that messages carry, opened and closed by hand, below a parent that is named and never ambient."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import local
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode, TraceFlags

from llmgine import __version__
from llmgine.bus.tracing import SpanContext
from llmgine.observability import semconv
from llmgine.observability.otel.bounded import Bounded
from llmgine.observability.redact import redact

__all__ = ["Spans", "context_of", "fail", "give_up", "nanoseconds", "note_exception"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Ids:
    """Gives a tracer the ids that a span is to have, where it is to have certain ones, and otherwise the usual."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual
        self._wanted = local()

    @contextmanager
    def exactly(self, ids: SpanContext) -> Generator[None]:
        self._wanted.ids = ids
        try:
            yield
        finally:
            self._wanted.ids = None

    def generate_trace_id(self) -> int:
        ids: SpanContext | None = getattr(self._wanted, "ids", None)
        return self._usual.generate_trace_id() if ids is None else int(ids.trace_id, 16)

    def generate_span_id(self) -> int:
        ids: SpanContext | None = getattr(self._wanted, "ids", None)
        return self._usual.generate_span_id() if ids is None else int(ids.span_id, 16)

    def is_trace_id_random(self) -> bool:
        # Before version 1.40, the SDK had no such question.
        return getattr(self._wanted, "ids", None) is None and bool(
            getattr(self._usual, "is_trace_id_random", lambda: False)()
        )


class Spans:
    """Makes spans by way of a provider, or of the application's, whichever that is by then."""

    def __init__(self, provider: trace.TracerProvider | None, limit: int) -> None:
        self._provider = provider
        self._tracer: trace.Tracer | None = None
        self._tracer_of: trace.TracerProvider | None = None
        self._dropped: Bounded[int, bool] = Bounded(limit)
        """Traces that messages call recorded, and that the provider's sampler has decided against."""

    def start(
        self,
        name: str,
        parent: Span | None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        begun: int | None = None,
        ids: SpanContext | None = None,
        link: Span | None = None,
    ) -> Span:
        """Start a span.

        Args:
            name: what it is called.
            parent: None if it is to begin a trace.
            kind: the kind of the span.
            attributes: known at the start, where samplers see them.
            begun: nanoseconds since 1970; by default now.
            ids: which it is to have. A provider that is not the SDK's may have its own way.
            link: another span that it has to do with.
        """
        tracer = self._current_tracer()
        options: dict[str, Any] = {
            "context": Context() if parent is None else trace.set_span_in_context(parent, Context()),
            "kind": kind,
            "attributes": attributes,
            "start_time": begun,
            "links": () if link is None else (Link(link.get_span_context()),),
        }
        source = getattr(tracer, "id_generator", None)
        if ids is None or not isinstance(source, _Ids):
            return tracer.start_span(name, **options)
        with source.exactly(ids):
            span = tracer.start_span(name, **options)
        context = span.get_span_context()
        if context.is_valid and not context.trace_flags.sampled:
            self._dropped.put(context.trace_id, True)  # noqa: FBT003  # the table is a set
        return span

    def remote(self, context: SpanContext) -> Span:
        """Return what stands for a span that is not open here, as a parent."""
        trace_id = int(context.trace_id, 16)
        sampled = context.sampled and self._dropped.get(trace_id) is None
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return NonRecordingSpan(
            trace.SpanContext(trace_id, int(context.span_id, 16), is_remote=True, trace_flags=flags)
        )

    def _current_tracer(self) -> trace.Tracer:
        provider = self._provider or trace.get_tracer_provider()
        if self._tracer is not None and provider is self._tracer_of:
            return self._tracer
        tracer: Any = provider.get_tracer(semconv.LLMGINE, __version__)
        # Nobody else has the tracer of our scope, so that the ids of other spans stay what they are.
        if hasattr(tracer, "id_generator") and not isinstance(tracer.id_generator, _Ids):
            tracer.id_generator = _Ids(tracer.id_generator)
        self._tracer, self._tracer_of = tracer, provider
        return cast("trace.Tracer", tracer)


def context_of(span: Span) -> SpanContext | None:
    """Return a span's identity as messages carry it; None if it has none."""
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return SpanContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled=context.trace_flags.sampled)


def fail(span: Span, kind: str, text: str) -> None:
    """Set a span's status to a failure of some kind."""
    span.set_attribute(semconv.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, redact.text(text)))


def give_up(span: Span, why: str) -> None:
    """End the span of something that has not ended."""
    span.set_attribute(semconv.UNFINISHED, why)
    span.end()


def note_exception(span: Span, error: BaseException) -> None:
    """Add an exception to a span, without the secrets that its text may have."""
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    span.add_event(
        semconv.EXCEPTION,
        {
            semconv.EXCEPTION_TYPE: f"{module}{kind.__qualname__}",
            semconv.EXCEPTION_MESSAGE: redact.text(_text(error)),
            semconv.EXCEPTION_STACKTRACE: redact.text("".join(_traceback(error))),
        },
    )


def nanoseconds(timestamp: str | None) -> int | None:
    """Return an ISO 8601 time in nanoseconds since 1970; None if it is not one."""
    try:
        moment = datetime.fromisoformat(timestamp or "")
    except ValueError:
        return None
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1) * 1000


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # an exception may fail to say what it is
        return f"<its text raised {type(broken).__name__}>"


def _traceback(error: BaseException) -> Sequence[str]:
    try:
        return traceback.format_exception(error)
    except Exception:  # noqa: BLE001  # likewise
        return traceback.format_tb(error.__traceback__)
