"""Metrics and spans are ordinary events: published like any other, and written as what they hold."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import MessageBus, tracing
from llmgine.messages import Event
from llmgine.observability import Metric, MetricEvent, SpanContext, TraceEvent
from llmgine.observability.handlers import SyncFileEventHandler

MEASURED = MetricEvent(
    metrics=[
        Metric(name="files_processed", value=10),
        Metric(name="upload", value=1.5, unit="s", tags={"region": "eu"}),
    ]
)
BEGUN = TraceEvent(
    name="Import",
    span_context=SpanContext(trace_id="custom_trace_1", span_id="custom_span_1"),
    start_time=datetime(2026, 1, 2, 3, 4, 5).isoformat(),  # noqa: DTZ001  # as many applications write it
)
ENDED = TraceEvent(
    name="Import",
    span_context=SpanContext("custom_trace_1", "custom_span_2", "custom_span_1"),
    end_time="2026-01-02T03:04:06+00:00",
    status="OK",
    attributes={"files": 3, "from": {"path": "a"}},
)


def test_the_bus_and_observability_speak_of_the_same_spans() -> None:
    assert (SpanContext, TraceEvent) == (tracing.SpanContext, tracing.TraceEvent)


@pytest.mark.parametrize("event", [MEASURED, BEGUN, ENDED])
async def test_they_reach_their_handlers_like_any_event(bus: MessageBus, event: Event) -> None:
    heard: list[Event] = []
    bus.register_event_handler(type(event), heard.append)
    bus.register_event_handler(Event, heard.append)
    await bus.publish(event)

    assert heard == [event, event]


def test_one_metric_is_enough_and_two_events_share_nothing() -> None:
    first, second = MetricEvent(), MetricEvent()
    first.metrics.append(Metric("files_processed", 10))

    assert second.metrics == []
    assert Metric("files_processed", 10) == Metric(name="files_processed", value=10, unit=None, tags={})


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (
            MEASURED,
            {
                "metrics": [
                    {"name": "files_processed", "value": 10, "unit": None, "tags": {}},
                    {"name": "upload", "value": 1.5, "unit": "s", "tags": {"region": "eu"}},
                ]
            },
        ),
        (
            BEGUN,
            {
                "name": "Import",
                "span_context": {
                    "trace_id": "custom_trace_1",
                    "span_id": "custom_span_1",
                    "parent_span_id": None,
                    "sampled": True,
                },
                "start_time": "2026-01-02T03:04:05",
                "end_time": None,
                "status": None,
                "attributes": {},
            },
        ),
        (
            ENDED,
            {
                "name": "Import",
                "span_context": {
                    "trace_id": "custom_trace_1",
                    "span_id": "custom_span_2",
                    "parent_span_id": "custom_span_1",
                    "sampled": True,
                },
                "start_time": None,
                "end_time": "2026-01-02T03:04:06+00:00",
                "status": "OK",
                "attributes": {"files": 3, "from": {"path": "a"}},
            },
        ),
    ],
)
def test_the_log_holds_them_as_objects(tmp_path: Path, event: Event, written: dict[str, Any]) -> None:
    handler = SyncFileEventHandler(tmp_path, "log.jsonl")
    handler.handle(event)
    handler.close()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    data = json.loads(line)
    base = {field.name for field in fields(Event)}

    assert (data["event_type"], data["event_id"]) == (type(event).__name__, event.event_id)
    assert {field.name: data[field.name] for field in fields(event) if field.name not in base} == written
