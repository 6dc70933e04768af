"""Metrics and spans on standard error: a line each, for a person, whatever is in them."""

from __future__ import annotations

import io
import os
import sys
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.messages import Event
from llmgine.observability import Metric, MetricEvent, SpanContext, TraceEvent
from llmgine.observability.handlers import ConsoleMetricsHandler, ConsoleTracesHandler


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Unreadable:
    def __str__(self, *_: object) -> str:
        raise RuntimeError

    __repr__ = __bool__ = __len__ = __eq__ = __hash__ = __str__  # type: ignore[assignment]


def shown(event: Event, stream: io.StringIO | None = None, **environment: str) -> str:
    stream = stream or io.StringIO()
    with patch.object(sys, "stderr", stream), patch.dict(os.environ, environment):
        ConsoleMetricsHandler().handle(event)
        ConsoleTracesHandler().handle(event)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("metrics", "lines"),
    [
        ([], []),
        ([Metric("files_processed", 10)], ["[METRIC] files_processed = 10"]),
        ([Metric("a", 1), Metric("b", 0.5)], ["[METRIC] a = 1", "[METRIC] b = 0.5"]),
        ([Metric("upload", 12, "ms")], ["[METRIC] upload = 12 ms"]),
        (
            [Metric("upload", 12, "ms", {"region": "eu", "kind": "image"})],
            ["[METRIC] upload = 12 ms {region=eu, kind=image}"],
        ),
        ([Metric("load", 1, tags={"cpu": "0"})], ["[METRIC] load = 1 {cpu=0}"]),
    ],
)
def test_each_metric_is_a_line(metrics: list[Metric], lines: list[str]) -> None:
    assert shown(MetricEvent(metrics=metrics)).splitlines() == lines


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "[TRACE] Import started trace=t span=s"),
        ({"start_time": "2026-01-01T00:00:00"}, "[TRACE] Import started trace=t span=s"),
        ({"end_time": "2026-01-01T00:00:00"}, "[TRACE] Import ended trace=t span=s"),
        ({"end_time": "2026-01-01T00:00:00", "status": "OK"}, "[TRACE] Import OK trace=t span=s"),
        (
            {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T01:00:00.001234+01:00", "status": "OK"},
            "[TRACE] Import OK 1.2 ms trace=t span=s",
        ),
        (
            {"start_time": "2026-01-01T00:00:00", "end_time": "2026-01-01T00:01:01.5", "status": "ERROR"},
            "[TRACE] Import ERROR 61.50 s trace=t span=s",
        ),
        (
            {"start_time": "2026-01-01T00:00:00", "end_time": "2026-01-01T00:00:01Z", "status": "OK"},
            "[TRACE] Import OK trace=t span=s",
        ),
        ({"start_time": "yesterday", "end_time": "today"}, "[TRACE] Import ended trace=t span=s"),
        (
            {"span_context": SpanContext("t", "s", "p"), "status": "ERROR", "attributes": {"error": "ValueError: no"}},
            "[TRACE] Import ERROR trace=t span=s parent=p {error=ValueError: no}",
        ),
    ],
)
def test_each_span_that_begins_or_ends_is_a_line(fields: dict[str, Any], line: str) -> None:
    fields = {"span_context": SpanContext("t", "s"), **fields}
    assert shown(TraceEvent(name="Import", **fields)) == f"{line}\n"


def test_other_events_are_no_lines() -> None:
    assert shown(Event()) == ""


def test_each_handler_shows_its_own_kind(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleMetricsHandler().handle(TraceEvent("Import", SpanContext("t", "s")))
    ConsoleTracesHandler().handle(MetricEvent(metrics=[Metric("files", 1)]))

    assert capsys.readouterr() == ("", "")


def test_standard_error_is_looked_up_when_a_line_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(sys, "stderr", io.StringIO()):
        handler = ConsoleMetricsHandler()
    handler.handle(MetricEvent(metrics=[Metric("files", 1)]))

    assert capsys.readouterr() == ("", "[METRIC] files = 1\n")


# Colours


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (MetricEvent(metrics=[Metric("a", 1)]), "\x1b[36m[METRIC]\x1b[0m a = 1\n"),
        (TraceEvent("I", SpanContext("t", "s")), "\x1b[34m[TRACE]\x1b[0m I started trace=t span=s\n"),
        (TraceEvent("I", SpanContext("t", "s"), status="OK"), "\x1b[32m[TRACE]\x1b[0m I OK trace=t span=s\n"),
        (TraceEvent("I", SpanContext("t", "s"), status="ERROR"), "\x1b[31m[TRACE]\x1b[0m I ERROR trace=t span=s\n"),
    ],
)
def test_on_a_terminal_the_label_has_a_colour(event: Event, line: str) -> None:
    assert shown(event, Terminal(), NO_COLOR="", TERM="xterm") == line


@pytest.mark.parametrize(
    ("stream", "environment"),
    [
        (io.StringIO, {"NO_COLOR": "", "TERM": "xterm"}),
        (Terminal, {"NO_COLOR": "1", "TERM": "xterm"}),
        (Terminal, {"NO_COLOR": "", "TERM": "dumb"}),
    ],
)
def test_elsewhere_or_where_colour_is_not_wanted_it_has_none(
    stream: type[io.StringIO], environment: dict[str, str]
) -> None:
    assert shown(MetricEvent(metrics=[Metric("a", 1)]), stream(), **environment) == "[METRIC] a = 1\n"


# What comes from outside


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),
        ("one\ntwo\r", r"one\ntwo\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2028", r"\u2028"),
        ("\udc80", r"\udc80"),
        ("Grüße, 世界", "Grüße, 世界"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_an_escape(text: str, line: str) -> None:
    assert shown(MetricEvent(metrics=[Metric(text, 1)]), Terminal(), NO_COLOR="1") == f"[METRIC] {line} = 1\n"


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_can_write_more_than_its_line(a: str, b: str, c: str, d: str) -> None:
    value: Any = b
    lines = shown(MetricEvent(metrics=[Metric(a, value, c, {d: a})]), Terminal(), NO_COLOR="1")
    lines += shown(
        TraceEvent(a, SpanContext(b, c, d), start_time=a, end_time=b, status=c, attributes={a: d}),
        Terminal(),
        NO_COLOR="1",
    )

    metric, trace, end = lines.split("\n")
    assert (metric[:9], trace[:8], end) == ("[METRIC] ", "[TRACE] ", "")
    assert metric.isprintable()
    assert trace.isprintable()


def test_a_long_value_is_cut() -> None:
    assert shown(MetricEvent(metrics=[Metric("a" * 501, 1)])) == f"[METRIC] {'a' * 500}... = 1\n"


ODD: list[Any] = [
    None,
    Unreadable(),
    10**5000,
    float("nan"),
    b"\x1b",
    [],
    {},
    object(),
    {"a": 1},
    ["x"],
    Metric("m", 1),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_a_value_of_the_wrong_kind_is_shown_as_well_as_it_can_be(odd: Any) -> None:
    lines = shown(MetricEvent(metrics=[Metric(odd, odd, odd, odd), odd, Metric("m", 1, tags={"k": odd})]))
    assert len(lines.splitlines()) == 3
    lines = shown(TraceEvent(odd, odd, start_time=odd, end_time=odd, status=odd, attributes=odd))
    assert len(lines.splitlines()) == 1
    shown(MetricEvent(metrics=odd))


class Closed(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Closed(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")])
def test_without_a_standard_error_nothing_is_raised(stream: Any) -> None:
    with patch.object(sys, "stderr", stream):
        ConsoleMetricsHandler().handle(MetricEvent(metrics=[Metric("ü", 1)]))


def test_a_closed_standard_error_raises_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    with patch.object(sys, "stderr", stream):
        ConsoleMetricsHandler().handle(MetricEvent(metrics=[Metric("a", 1)]))
