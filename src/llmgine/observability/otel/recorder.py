"""From events to spans: which part sees which event, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as OwnTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import TracerProvider, get_current_span

from llmgine.bus.session import SessionEndEvent, SessionStartEvent
from llmgine.bus.tracing import TraceEvent
from llmgine.llm.engine.events import (
    EngineStatusEvent,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
)
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent
from llmgine.messages import Event
from llmgine.messages.events import (
    CommandResultEvent,
    CommandRetriedEvent,
    CommandStartedEvent,
    DeadLetterCommandEvent,
    EventHandlerFailedEvent,
)
from llmgine.messages.message import Message
from llmgine.observability import semconv
from llmgine.observability.otel.bus_spans import BusSpans
from llmgine.observability.otel.metrics import Metrics
from llmgine.observability.otel.open_spans import OpenSpans
from llmgine.observability.otel.prompt_spans import PromptSpans
from llmgine.observability.otel.spans import Spans, context_of

__all__ = ["Recorder"]

M = TypeVar("M", bound=Message)


class Recorder:
    """Turns events into spans and metrics."""

    def __init__(
        self,
        service_name: str,
        *,
        exporter: SpanExporter | None,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        record_content: bool,
        max_open_spans: int,
    ) -> None:
        self.evicted = 0
        self._own: OwnTracerProvider | None = None
        if exporter is not None:
            self._own = OwnTracerProvider(resource=Resource.create({semconv.SERVICE_NAME: service_name}))
            self._own.add_span_processor(BatchSpanProcessor(exporter))
        vocabulary = semconv.Vocabulary.asked_for()
        metrics = None if meter_provider is None else Metrics(meter_provider, vocabulary)
        spans = Spans(self._own or tracer_provider, max_open_spans)
        self.open = OpenSpans(spans, max_open_spans, self._count_evicted)
        self.bus = BusSpans(spans, self.open, vocabulary, metrics, max_open_spans)
        self._prompts = PromptSpans(
            spans,
            self.open,
            vocabulary,
            metrics,
            max_open_spans,
            count_evicted=self._count_evicted,
            record_content=record_content,
        )
        self._seen_by: dict[type[Event], Callable[[Any], None]] = {
            SessionStartEvent: self.bus.session_started,
            SessionEndEvent: self.bus.session_ended,
            CommandStartedEvent: self.bus.command_started,
            CommandRetriedEvent: self.bus.retried,
            DeadLetterCommandEvent: self.bus.dead_lettered,
            CommandResultEvent: self.bus.command_ended,
            EventHandlerFailedEvent: self.bus.handler_failed,
            TraceEvent: self.bus.traced,
            EngineStatusEvent: self._prompts.status,
            ModelCallEndedEvent: self._prompts.inferred,
            LLMResponseEvent: self._prompts.answered,
            PromptCancelledEvent: self._prompts.broken_off,
            PromptFailedEvent: self._prompts.broken_off,
            ToolCallEvent: self._prompts.called,
            ToolExecuteResultEvent: self._prompts.ran,
        }
        self._ways: dict[type[Event], Callable[[Any], None]] = {}

    def see(self, event: Event) -> None:
        """Take an event; most kinds are of no concern."""
        kind = type(event)
        way = self._ways.get(kind)
        if way is None:
            known = (self._seen_by[base] for base in kind.__mro__ if base in self._seen_by)
            way = self._ways[kind] = next(known, _ignore)
        way(event)

    def inject(self, message: M) -> M:
        """Make the current span, or else that of the message's session, the parent of a message that has none."""
        if message.traceparent is None:
            context = context_of(get_current_span())
            session = self.open.session(message.session_id)
            if context is None and session is not None:
                context = session.own
            message.traceparent = None if context is None else context.traceparent
        return message

    def close(self) -> None:
        """End the spans that are open, and what was made for the exporter."""
        self._prompts.close()
        self.open.close()
        if self._own is not None:
            self._own.shutdown()

    def _count_evicted(self) -> None:
        self.evicted += 1


def _ignore(event: Event) -> None:
    """Do nothing."""
