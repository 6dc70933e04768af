"""What happens on a bus, as spans of OpenTelemetry: a handler that sees events, middleware that makes spans current.

Parents come from the messages, so that a trace holds together across tasks, queues, retries and processes. While a
command's handler runs, the command's `traceparent` names its span, and so does that of whatever the handler sends.

A bus that traces (one with a log) has given a command's span its ids already; they are taken over, so that its log and
the traces agree. A session's span is made here, and the bus is told of it, so that the session's commands are below it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from llmgine.bus import causality
from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerMiddleware
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult, Event
from llmgine.messages.message import Message
from llmgine.observability.sink import ObservabilityHandler

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider

    from llmgine.observability.otel.recorder import Recorder

__all__ = ["OpenTelemetryHandler", "OpenTelemetryMiddleware"]

M = TypeVar("M", bound=Message)

_log = logging.getLogger("llmgine.observability")
_warned = False


class OpenTelemetryHandler(ObservabilityHandler):
    """Sessions, commands, prompts, requests to models, tools and the application's own spans, for OpenTelemetry.

    Spans are called `session_<id>`, `command_<Type>`, `invoke_agent`, `chat <model>` and `execute_tool <name>`; what an
    event's handler raises is an exception on the span that the event is below. It belongs on a manager, without a queue
    in between: it has to see that a command has begun before the command's handler runs. Without OpenTelemetry it does
    nothing and says so once.

    The names of attributes are the old ones, or those that `OTEL_SEMCONV_STABILITY_OPT_IN` asks for when it is made.
    """

    def __init__(
        self,
        service_name: str = "llmgine",
        *,
        exporter: SpanExporter | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        record_content: bool = False,
        max_open_spans: int = 10_000,
    ) -> None:
        """Say where spans and metrics go.

        Args:
            service_name: the service that the exporter's spans are of; other providers say that themselves.
            exporter: gets the spans, a batch at a time, from a provider that is made for it and shut down by `close`.
            tracer_provider: makes the spans; by default the application's, whichever that is when an event comes.
            meter_provider: makes the metrics; by default there are none.
            record_content: record prompts, replies, and arguments and results of tools, less what looks secret. So does
                LLMGINE_RECORD_CONTENT=1.
            max_open_spans: how many spans of each kind may be open; when there are more, the oldest is ended.

        Raises:
            ConfigurationError: there are both an exporter and a provider, or `max_open_spans` is below 1.
        """
        if exporter is not None and tracer_provider is not None:
            msg = "Give an exporter, for which a provider is made, or a tracer_provider with exporters of its own."
            raise ConfigurationError(msg)
        if max_open_spans < 1:
            msg = f"max_open_spans must be at least 1; got {max_open_spans}."
            raise ConfigurationError(msg)
        self._recorder: Recorder | None = None
        try:
            from llmgine.observability.otel.recorder import Recorder
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "opentelemetry":
                raise
            _warn()
            return
        self._recorder = Recorder(
            service_name,
            exporter=exporter,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            record_content=record_content or os.environ.get("LLMGINE_RECORD_CONTENT") == "1",
            max_open_spans=max_open_spans,
        )

    @property
    def evicted(self) -> int:
        """How many spans were ended because too many were open."""
        return 0 if self._recorder is None else self._recorder.evicted

    def handle(self, event: Event) -> None:
        """Begin or end what an event tells of."""
        if self._recorder is not None:
            self._recorder.see(event)

    def inject(self, message: M) -> M:
        """Make the application's current span the parent of a message that has none, and return the message.

        For what is sent from outside of any handler: `await bus.execute(otel.inject(command))`. Where no span is
        current, it is the span of the message's session, if that has one.
        """
        return message if self._recorder is None else self._recorder.inject(message)

    def close(self) -> None:
        """End what is open. Flush and shut down what was made for the exporter, which may take as long as it takes."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()


class OpenTelemetryMiddleware(HandlerMiddleware):
    """Makes spans current for the application's own instrumentation.

    A command's handler runs inside the command's span. Each handler of an event runs inside a span of its own,
    `event_<Type>`, and what it sends is below that.
    """

    def __init__(self, handler: OpenTelemetryHandler) -> None:
        """Use the spans of `handler`, which has to see the events of the same bus."""
        self._handler = handler

    async def process_command(  # noqa: D102
        self,
        command: Command[Any],
        handler: CommandHandler,
        next_middleware: Callable[[Command[Any], CommandHandler], Awaitable[CommandResult[Any]]],
    ) -> CommandResult[Any]:
        recorder = self._handler._recorder
        span = None if recorder is None else recorder.open.span_of(command)
        if span is None:
            return await next_middleware(command, handler)
        from opentelemetry import context, trace

        token = context.attach(trace.set_span_in_context(span))
        try:
            return await next_middleware(command, handler)
        finally:
            context.detach(token)

    async def process_event(  # noqa: D102
        self, event: Event, handler: EventHandler, next_middleware: Callable[[Event, EventHandler], Awaitable[Any]]
    ) -> Any:
        recorder = self._handler._recorder
        if recorder is None:
            return await next_middleware(event, handler)
        from opentelemetry import context, trace

        span = recorder.bus.handling(event, handler)
        outer = causality.current.get()
        inner = recorder.bus.chain_below(span, outer)
        token = context.attach(trace.set_span_in_context(span))
        causality.current.set(inner)
        began = perf_counter()
        raised: BaseException | None = None
        try:
            return await next_middleware(event, handler)
        except (Exception, asyncio.CancelledError) as error:
            raised = error
            raise
        finally:
            if causality.current.get() is inner:
                causality.current.set(outer)
            context.detach(token)
            recorder.bus.handled(event, span, perf_counter() - began, raised)


def _warn() -> None:
    global _warned  # noqa: PLW0603  # once per process
    if not _warned:
        _warned = True
        _log.warning(
            "OpenTelemetry is not installed, so there will be no spans. Install it with: pip install 'llmgine[otel]'"
        )
