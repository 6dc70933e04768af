"""What an application says itself: logs, metrics and spans, with the ids of what is being handled at the moment."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import llmgine.observability.manager
from llmgine.bus import MessageBus
from llmgine.bus.causality import current
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandStartedEvent
from llmgine.observability import (
    LogEvent,
    LogLevel,
    Metric,
    MetricEvent,
    ObservabilityBus,
    ObservabilityHandler,
    ObservabilityManager,
    SpanContext,
    TraceEvent,
)


@dataclass
class Collecting(ObservabilityHandler):
    events: list[Any] = field(default_factory=list[Any])

    def handle(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class Work(Command[None]):
    pass


@dataclass
class Worked(Event):
    pass


@pytest.fixture
def manager() -> ObservabilityManager:
    return ObservabilityManager()


@pytest.fixture
def seen(manager: ObservabilityManager) -> list[Any]:
    handler = Collecting()
    manager.register_handler(handler)
    return handler.events


def test_the_bus_of_observability_is_the_manager() -> None:
    assert ObservabilityBus is llmgine.observability.manager.ObservabilityBus is ObservabilityManager


def test_a_log_is_an_event_for_the_handlers(manager: ObservabilityManager, seen: list[Any]) -> None:
    manager.log(LogLevel.WARNING, "low on disk", source="disk", session_id=SessionID("s"), free=3, path="/")
    (event,) = seen
    assert type(event) is LogEvent
    assert (event.level, event.message, event.source) == (LogLevel.WARNING, "low on disk", "disk")
    assert (event.context, event.session_id) == ({"free": 3, "path": "/"}, "s")
    assert (event.correlation_id, event.causation_id, event.traceparent) == (event.event_id, None, None)


def test_a_level_may_be_its_name_and_no_other(manager: ObservabilityManager, seen: list[Any]) -> None:
    manager.log("error", "no")  # type: ignore[arg-type]
    assert seen[0].level is LogLevel.ERROR
    with pytest.raises(ValueError, match="loud"):
        manager.log("loud", "no")  # type: ignore[arg-type]


def test_a_metric_is_an_event_with_one_measurement(manager: ObservabilityManager, seen: list[Any]) -> None:
    manager.metric("upload", 12.5, unit="ms", region="eu", retries=2)
    (event,) = seen
    assert type(event) is MetricEvent
    assert event.metrics == [Metric("upload", 12.5, "ms", {"region": "eu", "retries": "2"})]


async def test_nothing_is_published_on_the_bus(manager: ObservabilityManager, seen: list[Any]) -> None:
    bus = MessageBus.isolated(observability=manager)
    published: list[Event] = []
    bus.register_event_handler(Event, published.append)
    await bus.start()
    manager.log(LogLevel.INFO, "here")
    manager.metric("n", 1)
    with manager.span("work"):
        pass
    await bus.stop()
    assert (published, len(seen)) == ([], 4)


@pytest.mark.parametrize("disabled", [False, True])
def test_where_nobody_looks_on_nothing_is_made(manager: ObservabilityManager, disabled: bool) -> None:
    if disabled:
        manager.register_handler(Collecting())
        manager.set_enabled(False)
    manager.log(LogLevel.INFO, "here")
    manager.metric("n", 1)
    with manager.span("work") as span:
        assert (span.context, current.get()) == (None, None)


async def test_what_is_said_in_a_handler_carries_the_ids_of_what_is_handled(
    manager: ObservabilityManager, seen: list[Any]
) -> None:
    bus = MessageBus.isolated(observability=manager)
    worked = Worked(session_id=SessionID("s"))

    async def work(command: Work) -> None:
        manager.log(LogLevel.INFO, "in the command")
        await bus.publish(worked)

    def heard(event: Worked) -> None:
        manager.metric("heard", 1)

    bus.register_command_handler(Work, work)
    bus.register_event_handler(Worked, heard)
    bus.register_event_handler(TraceEvent, lambda _: None)  # somebody listens for spans
    await bus.start()
    command = Work()
    await bus.execute(command)
    await bus.stop()

    (log,) = [event for event in seen if isinstance(event, LogEvent)]
    (metric,) = [event for event in seen if isinstance(event, MetricEvent)]
    span = next(event for event in seen if isinstance(event, TraceEvent))
    assert (log.correlation_id, log.causation_id) == (command.command_id, command.command_id)
    assert log.traceparent == span.span_context.traceparent is not None
    assert (metric.correlation_id, metric.causation_id) == (command.command_id, worked.event_id)
    assert (log.session_id, metric.session_id) == ("BUS", "s")


# Spans


def test_a_span_begins_and_ends_with_its_block(manager: ObservabilityManager, seen: list[Any]) -> None:
    with manager.span("import", session_id=SessionID("s"), files=3) as span:
        assert len(seen) == 1
        span.attributes["rows"] = 10
    begun, ended = seen
    assert (begun.name, begun.end_time, begun.status, begun.attributes) == ("import", None, None, {"files": 3})
    assert (ended.name, ended.status, ended.attributes) == ("import", "OK", {"files": 3, "rows": 10})
    assert begun.span_context == ended.span_context == span.context
    assert span.context is not None
    assert begun.start_time == ended.start_time <= ended.end_time
    assert begun.session_id == ended.session_id == "s"
    assert begun.traceparent == ended.traceparent == span.context.traceparent
    assert (ended.correlation_id, ended.causation_id) == (begun.event_id, begun.event_id)
    assert len(span.context.trace_id) == 32


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("no"), "ValueError: no"), (KeyError(), "KeyError"), (asyncio.CancelledError(), "CancelledError")],
)
def test_a_block_that_raises_ends_its_span_in_error(
    manager: ObservabilityManager, seen: list[Any], error: BaseException, text: str
) -> None:
    with pytest.raises(type(error)), manager.span("import", files=3):
        raise error
    assert (seen[-1].status, seen[-1].attributes) == ("ERROR", {"files": 3, "error": text})
    assert current.get() is None


async def test_spans_and_what_is_sent_inside_form_one_tree(manager: ObservabilityManager, seen: list[Any]) -> None:
    bus = MessageBus.isolated(observability=manager)
    bus.register_event_handler(TraceEvent, lambda _: None)

    async def work(command: Work) -> None:
        with manager.span("inner"):
            await asyncio.sleep(0)
            await bus.publish(Worked())
        await bus.publish(Worked())

    bus.register_command_handler(Work, work)
    await bus.start()
    with manager.span("outer"):
        await bus.execute(Work())
    await bus.stop()

    begun = {event.name: event for event in seen if isinstance(event, TraceEvent) and event.end_time is None}
    outer, command, inner = (begun[name].span_context for name in ("outer", "Command Work", "inner"))
    assert outer.parent_span_id is None
    assert (command.parent_span_id, inner.parent_span_id) == (outer.span_id, command.span_id)
    assert {outer.trace_id, command.trace_id, inner.trace_id} == {outer.trace_id}
    within, after = (event for event in seen if isinstance(event, Worked))
    assert (within.traceparent, after.traceparent) == (inner.traceparent, command.traceparent)
    started: Any = next(event for event in seen if isinstance(event, CommandStartedEvent))
    assert started.correlation_id == begun["outer"].event_id
    assert {event.correlation_id for event in seen} == {begun["outer"].event_id}
    assert within.causation_id == started.command.command_id  # the span does not come between cause and effect


async def test_spans_of_tasks_at_the_same_time_do_not_mix(manager: ObservabilityManager, seen: list[Any]) -> None:
    both = asyncio.Barrier(2)

    async def one(name: str) -> None:
        with manager.span(name):
            await both.wait()
            with manager.span(f"in {name}"):
                await both.wait()

    with manager.span("all"):
        await asyncio.gather(one("a"), one("b"))
    spans = {event.name: event.span_context for event in seen}
    assert spans["a"].parent_span_id == spans["b"].parent_span_id == spans["all"].span_id
    assert spans["in a"].parent_span_id == spans["a"].span_id
    assert spans["in b"].parent_span_id == spans["b"].span_id
    assert current.get() is None


def test_below_a_span_that_is_not_recorded_there_is_none(manager: ObservabilityManager, seen: list[Any]) -> None:
    unsampled = SpanContext("1" * 32, "2" * 16, sampled=False)
    token = current.set(("c", "m", (), None, unsampled.traceparent, True))
    try:
        with manager.span("work") as span:
            manager.log(LogLevel.INFO, "here")
    finally:
        current.reset(token)
    assert (span.context, len(seen), seen[0].traceparent) == (None, 1, unsampled.traceparent)


def test_a_span_that_is_left_from_another_context_leaves_that_alone(
    manager: ObservabilityManager, seen: list[Any]
) -> None:
    def work() -> Iterator[None]:
        with manager.span("work"):
            yield

    generator = work()
    contextvars.Context().run(next, generator)
    del generator  # closed here, where the span never was
    assert current.get() is None
    assert seen[-1].status == "ERROR"


async def test_the_lane_that_a_handler_holds_is_held_inside_a_span_too(
    manager: ObservabilityManager, seen: list[Any]
) -> None:
    bus = MessageBus.isolated(observability=manager)
    order: list[str] = []

    async def outer(event: Event) -> None:
        with manager.span("nested"):
            await bus.publish(Worked())  # into the lane that waits for this: inline, and no deadlock
            order.append("outer")

    @dataclass
    class First(Event):
        pass

    bus.register_event_handler(First, outer)
    bus.register_event_handler(Worked, lambda _: order.append("inner"))
    await bus.start()
    async with asyncio.timeout(60):
        await bus.publish(First())
    await bus.stop()
    assert order == ["inner", "outer"]
