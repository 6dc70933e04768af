"""Spans have the parents that the messages name, also across tasks, queues, retries and buses that trace themselves."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from llmgine.bus import MessageBus
from llmgine.bus.interfaces import HandlerMiddleware
from llmgine.bus.middleware import RetryMiddleware
from llmgine.bus.session import SessionEndEvent, SessionStartEvent
from llmgine.bus.tracing import SpanContext, TraceEvent
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import (
    CommandResultEvent,
    CommandRetriedEvent,
    CommandStartedEvent,
    DeadLetterCommandEvent,
    EventHandlerFailedEvent,
)
from llmgine.observability import ObservabilityManager, semconv
from llmgine.observability.handlers.adapters import create_sync_file_handler
from llmgine.observability.otel_handler import OpenTelemetryHandler, OpenTelemetryMiddleware

REMOTE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Outer(Command[Any]):
    pass


class Inner(Command[Any]):
    pass


@dataclass
class Happened(Event):
    pass


class Traces:
    """A provider, what it was given, and a manager with the handler under test."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.handler = OpenTelemetryHandler(tracer_provider=self.provider, **options)
        self.manager = ObservabilityManager()
        self.manager.register_handler(self.handler)

    @asynccontextmanager
    async def bus(self, **options: Any) -> AsyncIterator[MessageBus]:
        bus = MessageBus.isolated(**options)
        bus.set_observability_manager(self.manager)
        await bus.start()
        yield bus
        await bus.stop()

    def finished(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        [span] = [span for span in self.finished() if span.name == name]
        return span

    def tree(self) -> set[tuple[str, str | None]]:
        """Every span with its parent, by name."""
        names = {span.context.span_id: span.name for span in self.finished() if span.context is not None}
        return {
            (span.name, None if span.parent is None else names.get(span.parent.span_id, "elsewhere"))
            for span in self.finished()
        }


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    yield traces
    traces.provider.shutdown()


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def trace_ids(traces: Traces) -> set[int]:
    return {span.context.trace_id for span in traces.finished() if span.context is not None}


# Parents


async def test_a_session_is_the_root_and_its_commands_are_below_it(traces: Traces) -> None:
    async with traces.bus() as bus:
        bus.register_command_handler(Outer, lambda _: None)
        async with bus.session("S") as session:
            await session.execute_with_session(Outer())
            await session.execute_with_session(Outer())

    assert traces.tree() == {("session_S", None), ("command_Outer", "session_S")}
    assert len(traces.finished()) == 3
    assert len(trace_ids(traces)) == 1


async def test_a_command_outside_of_any_session_begins_a_trace(traces: Traces) -> None:
    async with traces.bus() as bus:
        bus.register_command_handler(Outer, lambda _: None)
        await bus.execute(Outer())
        await bus.execute(Outer())

    assert traces.tree() == {("command_Outer", None)}
    assert len(trace_ids(traces)) == 2


async def test_a_trace_holds_together_across_nested_commands_tasks_and_queues(traces: Traces) -> None:
    done = asyncio.Event()
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            await asyncio.create_task(bus.execute(Inner()))
            await bus.publish(Happened(), await_processing=False)

        async def hear(_: Happened) -> None:
            await bus.execute(Inner(session_id=SessionID("other")))
            done.set()

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        bus.register_event_handler(Happened, hear)
        await bus.execute(Outer())
        await done.wait()
        await bus.wait_for_events()

    assert traces.tree() == {("command_Outer", None), ("command_Inner", "command_Outer")}
    assert len(traces.finished()) == 3
    assert len(trace_ids(traces)) == 1


async def test_what_is_sent_after_its_command_has_ended_is_still_below_it(traces: Traces) -> None:
    later: list[asyncio.Task[Any]] = []
    go = asyncio.Event()
    async with traces.bus() as bus:

        async def afterwards() -> None:
            await go.wait()
            await bus.execute(Inner())

        async def outer(_: Outer) -> None:
            later.append(asyncio.create_task(afterwards()))

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        await bus.execute(Outer())
        assert traces.tree() == {("command_Outer", None)}
        go.set()
        await later[0]

    assert traces.tree() == {("command_Outer", None), ("command_Inner", "command_Outer")}


async def test_every_attempt_of_a_command_is_in_its_one_span(traces: Traces) -> None:
    attempts = 0
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            nonlocal attempts
            attempts += 1
            await bus.execute(Inner())
            if attempts < 3:
                raise ConnectionError

        async def no_wait(_: float) -> None: ...

        bus.add_command_middleware(RetryMiddleware(sleep=no_wait))
        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        await bus.execute(Outer())

    assert [span.name for span in traces.finished()] == ["command_Inner"] * 3 + ["command_Outer"]
    assert traces.tree() == {("command_Outer", None), ("command_Inner", "command_Outer")}
    assert traces.one("command_Outer").status.status_code is StatusCode.UNSET


async def test_the_traceparent_of_a_message_from_elsewhere_is_the_parent(traces: Traces) -> None:
    async with traces.bus() as bus:
        bus.register_command_handler(Outer, lambda _: None)
        command = Outer()
        command.traceparent = REMOTE
        await bus.execute(command)

    span = traces.one("command_Outer")
    assert span.parent is not None
    assert span.parent.is_remote
    assert (ids(span)[0], f"{span.parent.span_id:016x}") == (REMOTE.split("-")[1], REMOTE.split("-")[2])
    assert command.traceparent == REMOTE


async def test_while_its_handler_runs_a_command_carries_its_span_and_afterwards_what_it_came_with(
    traces: Traces,
) -> None:
    seen: list[str | None] = []
    async with traces.bus() as bus:

        async def outer(command: Outer) -> None:
            seen.append(command.traceparent)
            await bus.publish(Happened())

        bus.register_command_handler(Outer, outer)
        bus.register_event_handler(Happened, lambda event: seen.append(event.traceparent))
        command = Outer()
        await bus.execute(command)
        await bus.execute(command)

    assert command.traceparent is None
    first, second = (SpanContext(*ids(span)).traceparent for span in traces.finished())
    assert seen == [first, first, second, second]


async def test_a_session_inside_a_command_stands_between_it_and_what_the_session_does(traces: Traces) -> None:
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            async with bus.session("S") as session:
                await session.execute_with_session(Inner())

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        await bus.execute(Outer())

    assert traces.tree() == {("command_Outer", None), ("session_S", "command_Outer"), ("command_Inner", "session_S")}


def test_without_a_bus_in_between_causation_and_correlation_ids_name_the_parent(traces: Traces) -> None:
    outer, inner, other = Outer(), Inner(), Happened()
    inner.causation_id = outer.command_id
    inner.traceparent = None
    traces.handler.handle(CommandStartedEvent(command=outer))
    traces.handler.handle(CommandStartedEvent(command=inner))
    for command in (inner, outer):
        result: CommandResult[Any] = CommandResult(success=True, command_id=command.command_id)
        traces.handler.handle(CommandResultEvent(command_result=result))
    traces.handler.handle(other)

    assert traces.tree() == {("command_Outer", None), ("command_Inner", "command_Outer")}


# The application's own spans


async def test_the_current_span_is_the_parent_of_what_was_injected(traces: Traces) -> None:
    tracer = traces.provider.get_tracer("application")
    async with traces.bus() as bus:
        bus.register_command_handler(Outer, lambda _: None)
        with tracer.start_as_current_span("request"):
            await bus.execute(traces.handler.inject(Outer()))
            await bus.execute(Outer())

    parents = [span.parent for span in traces.finished() if span.name == "command_Outer"]
    assert [parent is not None for parent in parents] == [True, False]
    assert ("command_Outer", "request") in traces.tree()


async def test_injecting_keeps_the_parent_that_a_message_has_and_gives_none_where_there_is_none(
    traces: Traces,
) -> None:
    command = Outer()
    assert traces.handler.inject(command) is command
    assert command.traceparent is None
    command.traceparent = REMOTE
    with traces.provider.get_tracer("application").start_as_current_span("request"):
        traces.handler.inject(command)
    assert command.traceparent == REMOTE


async def test_inside_handlers_the_application_sees_the_right_current_span(traces: Traces) -> None:
    tracer = traces.provider.get_tracer("application")
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            with tracer.start_as_current_span("query"):
                pass
            await bus.publish(Happened())
            await bus.execute(Inner())
            with tracer.start_as_current_span("query 2"):
                pass

        async def hear(_: Happened) -> None:
            await asyncio.sleep(0)
            with tracer.start_as_current_span("lookup"):
                pass
            await bus.execute(Inner())

        def inner(_: Inner) -> None:
            with tracer.start_as_current_span("deep"):
                pass

        middleware = OpenTelemetryMiddleware(traces.handler)
        bus.add_command_middleware(middleware)
        bus.add_event_middleware(middleware)
        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, inner)
        bus.register_event_handler(Happened, hear)
        await bus.execute(Outer())
        assert not trace.get_current_span().get_span_context().is_valid

    assert traces.tree() == {
        ("command_Outer", None),
        ("query", "command_Outer"),
        ("query 2", "command_Outer"),
        ("event_Happened", "command_Outer"),
        ("lookup", "event_Happened"),
        ("command_Inner", "event_Happened"),
        ("command_Inner", "command_Outer"),
        ("deep", "command_Inner"),
    }
    assert len(trace_ids(traces)) == 1


async def test_after_a_handler_of_an_event_everything_is_as_before(traces: Traces) -> None:
    current: list[bool] = []

    class Outside(HandlerMiddleware):
        async def process_event(self, event: Event, handler: Any, next_middleware: Any) -> Any:
            await next_middleware(event, handler)
            current.append(trace.get_current_span().get_span_context().is_valid)
            await bus.execute(Inner())

    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            await bus.publish(Happened())

        bus.add_event_middleware(Outside())
        bus.add_event_middleware(OpenTelemetryMiddleware(traces.handler))
        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        bus.register_event_handler(
            Happened, lambda _: current.append(trace.get_current_span().get_span_context().is_valid)
        )
        await bus.execute(Outer())

    assert current == [True, False]
    assert ("command_Inner", "command_Outer") in traces.tree()
    assert ("event_Happened", "command_Outer") in traces.tree()


async def test_the_middleware_changes_no_outcome_without_its_handler_on_the_bus(bus: MessageBus) -> None:
    traces = Traces()
    bus.add_command_middleware(OpenTelemetryMiddleware(traces.handler))
    bus.register_command_handler(Outer, lambda _: 7)
    assert (await bus.execute(Outer())).result == 7
    command = Outer()
    command.traceparent = REMOTE
    bus.register_command_handler(Inner, lambda _: format(trace.get_current_span().get_span_context().span_id, "016x"))
    inner = Inner()
    inner.traceparent = REMOTE
    assert (await bus.execute(inner)).result == REMOTE.split("-")[2]
    assert traces.finished() == []


async def test_without_a_provider_of_the_application_nothing_is_recorded_and_nothing_installed(bus: MessageBus) -> None:
    before = trace.get_tracer_provider()
    manager = ObservabilityManager()
    manager.register_handler(OpenTelemetryHandler())
    bus.set_observability_manager(manager)
    bus.register_command_handler(Outer, lambda command: command.traceparent)
    async with bus.session("S") as session:
        assert (await session.execute_with_session(Outer())).result is None
    assert trace.get_tracer_provider() is before


# A bus that traces


async def test_the_spans_of_a_bus_that_traces_have_its_ids_and_times(traces: Traces, tmp_path: Path) -> None:
    traces.manager.register_handler(create_sync_file_handler(log_dir=tmp_path, filename="log.jsonl"))
    async with traces.bus(enable_console_traces=True) as bus:

        async def outer(_: Outer) -> None:
            with traces.manager.span("step", rows=3):
                await bus.execute(Inner())
            raise ValueError

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        await bus.execute(Outer())
    traces.manager.close()

    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = {
        (
            *(line["span_context"][name] for name in ("trace_id", "span_id", "parent_span_id")),
            line["start_time"],
            line["end_time"],
        )
        for line in lines
        if line["event_type"] == "TraceEvent" and line["end_time"] is not None
    }
    exported = {
        (
            *ids(span),
            None if span.parent is None else f"{span.parent.span_id:016x}",
            *(_iso(moment) for moment in (span.start_time, span.end_time)),
        )
        for span in traces.finished()
    }
    assert exported == logged
    assert len(exported) == 3
    assert traces.tree() == {("command_Outer", None), ("step", "command_Outer"), ("command_Inner", "step")}
    attributes = traces.one("step").attributes
    assert attributes is not None
    assert attributes["rows"] == 3
    assert traces.one("command_Outer").status.status_code is StatusCode.ERROR


def _iso(nanoseconds: int | None) -> str:
    from datetime import UTC, datetime, timedelta

    assert nanoseconds is not None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds")


async def test_on_a_bus_that_traces_a_session_inside_a_command_stands_in_between_too(traces: Traces) -> None:
    async with traces.bus(enable_console_traces=True) as bus:

        async def outer(_: Outer) -> None:
            async with bus.session("S") as session:
                await session.execute_with_session(Inner())

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        await bus.execute(Outer())

    assert traces.tree() == {("command_Outer", None), ("session_S", "command_Outer"), ("command_Inner", "session_S")}


async def test_what_the_sampler_drops_stays_in_the_log_of_a_bus_that_traces(traces: Traces) -> None:
    traces.provider.sampler = ALWAYS_OFF
    logged: list[str] = []
    async with traces.bus(enable_console_traces=True) as bus:
        bus.add_observer(lambda event: logged.append(event.name) if isinstance(event, TraceEvent) else None)
        bus.add_event_middleware(OpenTelemetryMiddleware(traces.handler))

        async def outer(_: Outer) -> None:
            await bus.publish(Happened())

        async def hear(_: Happened) -> None:
            await bus.execute(Inner())

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        bus.register_event_handler(Happened, hear)
        await bus.execute(Outer())

    assert logged == ["Command Outer", "Command Inner", "Command Inner", "Command Outer"]
    assert traces.finished() == []


async def test_on_a_bus_that_traces_a_session_is_one_trace(traces: Traces) -> None:
    async with traces.bus(enable_console_traces=True) as bus:
        bus.register_command_handler(Outer, lambda _: None)
        async with bus.session("S") as session:
            await session.execute_with_session(Outer())
            await bus.execute(traces.handler.inject(Outer(session_id=session.session_id)))
        await bus.execute(Outer())

    session_span = traces.one("session_S")
    in_session, injected, outside = (span for span in traces.finished() if span.name == "command_Outer")
    for span in (in_session, injected):
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (
            session_span.context.trace_id,
            session_span.context.span_id,
        )
        assert span.context.trace_id == session_span.context.trace_id
    assert outside.parent is None
    assert outside.context.trace_id != session_span.context.trace_id


async def test_what_the_sampler_drops_it_drops_whole(traces: Traces) -> None:
    traces.provider.sampler = ParentBased(ALWAYS_OFF)  # which keeps what is below a span that was kept elsewhere
    async with traces.bus(enable_console_traces=True) as bus:

        async def outer(_: Outer) -> None:
            await bus.publish(Happened(), await_processing=False)

        async def hear(_: Happened) -> None:
            await bus.execute(Inner())

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        bus.register_event_handler(Happened, hear)
        await bus.execute(Outer())
        await bus.wait_for_events()
    assert traces.finished() == []


def test_spans_of_the_applications_own_making_are_exported_when_they_end(traces: Traces) -> None:
    root, child = SpanContext("a" * 32, "b" * 16), SpanContext("a" * 32, "c" * 16, "b" * 16)
    start, end = "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00"
    for event in (
        TraceEvent("root", root, start),
        TraceEvent("child", child, start, end, "ERROR", {"error": "OSError: disk", "password": "hunter2hunter2"}),
        TraceEvent("root", root, start, end, "OK", {"big": 2**63, "many": [1, {"a": 2}], "none": None}),
        TraceEvent("odd", SpanContext("mine", "own"), start, end),
        TraceEvent("secret", SpanContext("d" * 32, "e" * 16, sampled=False), start, end),
    ):
        traces.handler.handle(event)

    assert traces.tree() == {("root", None), ("child", "root"), ("odd", None)}
    assert ids(traces.one("root")) == ("a" * 32, "b" * 16)
    assert traces.one("root").attributes == {"big": str(2**63), "many": '[1,{"a":2}]'}
    child_span = traces.one("child")
    assert child_span.attributes == {"error": "OSError: disk", "password": "<redacted>", "error.type": "OSError"}
    assert child_span.status.status_code is StatusCode.ERROR
    assert (child_span.end_time or 0) - (child_span.start_time or 0) == 1_000_000_000


# How things end


async def test_a_failed_command_has_the_exception_without_secrets(traces: Traces) -> None:
    async with traces.bus() as bus:

        def outer(_: Outer) -> None:
            msg = "password=hunter2hunter2"
            raise ValueError(msg)

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: CommandResult(success=False, error="no such thing"))
        await bus.execute(Outer())
        await bus.execute(Inner())

    span = traces.one("command_Outer")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: password=<redacted>")
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"
    [exception] = span.events
    assert exception.name == "exception"
    assert "hunter2" not in str(exception.attributes)
    assert "in outer" in str(exception.attributes["exception.stacktrace"] if exception.attributes else "")
    other = traces.one("command_Inner")
    assert (other.status.description, other.events) == ("no such thing", ())
    assert other.attributes is not None
    assert other.attributes["error.type"] == "_OTHER"


async def test_a_cancelled_command_ends_in_error(traces: Traces) -> None:
    started = asyncio.Event()
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            started.set()
            await asyncio.Event().wait()

        bus.register_command_handler(Outer, outer)
        task = asyncio.create_task(bus.execute(Outer()))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])

    span = traces.one("command_Outer")
    assert span.attributes is not None
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "CancelledError")


async def test_what_a_handler_of_an_event_raises_is_an_exception_on_the_command_that_caused_it(
    traces: Traces,
) -> None:
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            await bus.publish(Happened())

        def hear(_: Happened) -> None:
            raise ValueError("boom")

        bus.register_command_handler(Outer, outer)
        bus.register_event_handler(Happened, hear)
        await bus.execute(Outer())

    span = traces.one("command_Outer")
    assert [event.attributes and event.attributes["exception.message"] for event in span.events] == ["boom"]
    assert span.status.status_code is StatusCode.UNSET


async def test_commands_inside_a_span_of_the_application_are_below_it_also_where_the_bus_does_not_trace(
    traces: Traces,
) -> None:
    async with traces.bus() as bus:

        async def outer(_: Outer) -> None:
            with traces.manager.span("inside"):
                await bus.execute(Inner())

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        with traces.manager.span("outside"):
            await bus.execute(Outer())

    assert traces.tree() == {
        ("outside", None),
        ("command_Outer", "outside"),
        ("inside", "command_Outer"),
        ("command_Inner", "inside"),
    }
    assert len(traces.finished()) == 4
    assert len(trace_ids(traces)) == 1


@pytest.mark.parametrize("inside", [False, True])
async def test_a_failure_below_nothing_open_has_a_span_of_its_own_once(traces: Traces, inside: bool) -> None:
    async with traces.bus() as bus:

        def hear(_: Happened) -> None:
            raise ValueError("boom")

        bus.register_event_handler(Happened, hear)
        if inside:
            bus.add_event_middleware(OpenTelemetryMiddleware(traces.handler))
        await bus.publish(Happened())

    span = traces.one("event_Happened")
    assert len(traces.finished()) == 1
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


async def test_a_session_that_ends_in_error_says_so(traces: Traces) -> None:
    async with traces.bus() as bus:
        with pytest.raises(ValueError, match="boom"):
            async with bus.session("S"):
                raise ValueError("boom")

    span = traces.one("session_S")
    assert (span.status.status_code, [event.name for event in span.events]) == (StatusCode.ERROR, ["exception"])


def test_a_failure_in_a_session_without_a_command_is_on_the_sessions_span(traces: Traces) -> None:
    traces.handler.handle(SessionStartEvent(session_id=SessionID("S")))
    failed = EventHandlerFailedEvent(event=Happened(session_id=SessionID("S")), handler="f", exception=ValueError("x"))
    traces.handler.handle(failed)
    traces.handler.handle(SessionEndEvent(session_id=SessionID("S")))
    assert [event.name for event in traces.one("session_S").events] == ["exception"]


# Bounds


def test_the_oldest_of_too_many_open_spans_is_ended_and_counted() -> None:
    traces = Traces(max_open_spans=2)
    commands = [Outer() for _ in range(3)]
    for command in commands:
        traces.handler.handle(CommandStartedEvent(command=command))
    for number in range(4):
        traces.handler.handle(SessionStartEvent(session_id=SessionID(str(number))))

    assert [span.name for span in traces.finished()] == ["command_Outer", "session_0", "session_1"]
    assert {(span.attributes or {})["llmgine.unfinished"] for span in traces.finished()} == {"too many open spans"}
    assert traces.handler.evicted == 3
    assert commands[0].traceparent is None
    result: CommandResult[Any] = CommandResult(success=True, command_id=commands[0].command_id)
    traces.handler.handle(CommandResultEvent(command_result=result))
    traces.handler.close()
    assert len(traces.finished()) == 7
    assert [(span.attributes or {})["llmgine.unfinished"] for span in traces.finished()[3:]] == ["closed"] * 4
    traces.handler.handle(SessionStartEvent(session_id=SessionID("late")))
    assert len(traces.finished()) == 7


async def test_a_span_that_was_ended_early_is_not_exported_again() -> None:
    traces = Traces(max_open_spans=1)
    async with traces.bus(enable_console_traces=True) as bus:

        async def outer(_: Outer) -> None:
            await bus.execute(Inner())

        bus.register_command_handler(Outer, outer)
        bus.register_command_handler(Inner, lambda _: None)
        await bus.execute(Outer())

    assert sorted(span.name for span in traces.finished()) == ["command_Inner", "command_Outer"]
    assert (traces.one("command_Outer").attributes or {})["llmgine.unfinished"] == "too many open spans"


async def test_nothing_is_kept_of_what_has_ended(traces: Traces) -> None:
    async with traces.bus(enable_console_traces=True) as bus:
        bus.register_command_handler(Outer, lambda _: None)
        async with bus.session("S") as session:
            await session.execute_with_session(Outer())
    recorder = traces.handler._recorder
    assert recorder is not None
    tables = [value for part in (recorder.open, recorder.bus, recorder._prompts) for value in vars(part).values()]
    kept = [value._entries for value in tables if hasattr(value, "_entries")]
    assert len(kept) == 7
    assert not any(kept)


# Construction


def test_an_exporter_gets_a_provider_of_its_own_that_closing_shuts_down() -> None:
    before = trace.get_tracer_provider()
    exporter = InMemorySpanExporter()
    handler = OpenTelemetryHandler("shop", exporter=exporter)
    handler.handle(SessionStartEvent(session_id=SessionID("S")))
    handler.handle(SessionEndEvent(session_id=SessionID("S")))
    handler.close()
    handler.close()

    [span] = exporter.get_finished_spans()
    assert span.resource.attributes["service.name"] == "shop"
    assert trace.get_tracer_provider() is before
    assert exporter._stopped


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="exporter"):
        OpenTelemetryHandler(exporter=InMemorySpanExporter(), tracer_provider=TracerProvider(shutdown_on_exit=False))
    with pytest.raises(ConfigurationError, match="max_open_spans"):
        OpenTelemetryHandler(max_open_spans=0)


WITHOUT = """
import asyncio, sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nowhere())
from llmgine import Command, MessageBus
from llmgine.observability import ObservabilityManager
from llmgine.observability.otel_handler import OpenTelemetryHandler, OpenTelemetryMiddleware

class Ping(Command):
    pass

async def main():
    handler = OpenTelemetryHandler(service_name="shop")
    OpenTelemetryHandler()
    manager = ObservabilityManager()
    manager.register_handler(handler)
    bus = MessageBus(observability=manager)
    bus.add_command_middleware(OpenTelemetryMiddleware(handler))
    bus.add_event_middleware(OpenTelemetryMiddleware(handler))
    bus.register_command_handler(Ping, lambda command: command.traceparent)
    await bus.start()
    async with bus.session() as session:
        print((await session.execute_with_session(handler.inject(Ping()))).success)
    await bus.stop()
    manager.close()
    print(handler.evicted, any(name.startswith("opentelemetry") for name in sys.modules))

asyncio.run(main())
"""


def test_without_opentelemetry_it_does_nothing_and_says_so_once() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "0", "False"]
    assert done.stderr.count("\n") == 1
    assert "pip install 'llmgine[otel]'" in done.stderr


def test_importing_observability_does_not_import_opentelemetry() -> None:
    code = (
        "import sys, llmgine.observability, llmgine.observability.otel_handler;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_broken_event_does_not_reach_the_bus(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    traces.handler.handle(SessionStartEvent(session_id=SessionID("S")))
    traces.handler.handle(EventHandlerFailedEvent(event=Happened(session_id=SessionID("S")), exception=MuteError()))
    traces.handler.handle(SessionEndEvent(session_id=SessionID("S"), error=MuteError()))
    traces.handler.handle(CommandStartedEvent())
    traces.handler.handle(CommandResultEvent())
    assert traces.one("session_S").status.status_code is StatusCode.ERROR
    assert caplog.records == []


class Counting(SpanProcessor):
    def __init__(self) -> None:
        self.started: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started.append(span.name)


async def test_spans_of_commands_begin_when_the_command_does(traces: Traces) -> None:
    live = Counting()
    traces.provider.add_span_processor(live)
    async with traces.bus() as bus:
        bus.register_command_handler(Outer, lambda _: list(live.started))
        assert (await bus.execute(Outer())).result == ["command_Outer"]
    assert traces.one("command_Outer").kind is SpanKind.CONSUMER
    assert semconv.COMMAND_SPAN.format("Outer") == "command_Outer"


# Retries and dead letters


async def test_retries_and_dead_letters_are_noted_on_the_span_of_their_own_command(traces: Traces) -> None:
    async with traces.bus() as bus:

        async def inner(command: Inner) -> None:
            refused = "OSError: the key sk-abcdefghijklmnop1234 was refused"
            await bus.publish(CommandRetriedEvent(command=command, attempt=1, delay=0.5, error=refused))
            await bus.publish(DeadLetterCommandEvent(command=command, attempts=2, error="OSError: no"))
            raise OSError("no")

        async def outer(_: Outer) -> None:
            await bus.execute(Inner())

        bus.register_command_handler(Inner, inner)
        bus.register_command_handler(Outer, outer)
        await bus.execute(Outer())

    span = traces.one("command_Inner")
    retry, letter = [event for event in span.events if event.name in {semconv.RETRY, semconv.DEAD_LETTER}]
    assert dict(retry.attributes or {}) == {
        "llmgine.attempts": 1,
        "llmgine.retry.delay": 0.5,
        "exception.type": "OSError",
        "exception.message": "OSError: the key <redacted> was refused",
    }
    assert (letter.name, (letter.attributes or {})["llmgine.attempts"]) == ("llmgine.dead_letter", 2)
    assert span.status.status_code is StatusCode.ERROR
    assert not traces.one("command_Outer").events


def test_what_is_said_of_a_command_without_a_span_is_passed_over(traces: Traces) -> None:
    for event in (CommandRetriedEvent(), DeadLetterCommandEvent(command=Inner(), error="OSError: no")):
        traces.handler.handle(event)
    assert not traces.finished()
