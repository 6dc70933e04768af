"""What is said of a log is short, true to the numbers, and safe to print."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from llmgine.cli import progress
from llmgine.cli.log_text import Summaries, duration, fields_of, one_line, size
from llmgine.cli.progress import Progress
from llmgine.observability.log_files import LogFile


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (0.00083, "830 µs"),
        (0.0009999, "1.00 ms"),
        (0.00999, "9.99 ms"),
        (0.009996, "10.0 ms"),
        (0.9999, "999.9 ms"),
        (0.99999, "1.00 s"),
        (59.99, "59.99 s"),
        (59.999, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (2.5e6, "2.5 MB"), (3e12, "3000.00 GB")]
)
def test_sizes_have_the_unit_that_suits_them(count: float, text: str) -> None:
    assert size(count) == text


def test_a_line_is_one_line_and_moves_nothing_on_a_terminal() -> None:
    assert one_line("a\nb\t c\x1b[2J\x9b1m\x07\u2028d \u202etxt.exe\u2066") == "a b c1m d txt.exe"


@pytest.mark.parametrize(
    "kind", ["CommandStartedEvent", "CommandResultEvent", "TraceEvent", "LLMResponseEvent", "LogEvent", "MetricEvent"]
)
@pytest.mark.parametrize("fields", [{}, {"command": 1, "command_result": [], "usage": "x", "metrics": [1]}])
def test_an_event_in_another_shape_has_a_summary_as_any_other_has(kind: str, fields: dict[str, Any]) -> None:
    assert Summaries().of({"event_type": kind, **fields}) == one_line(fields_of(fields))


def test_a_value_nested_deeper_than_json_is_written_is_left_out() -> None:
    value: Any = []
    for _ in range(500):
        value = [value]
    assert fields_of({"item": "tea", "value": value}) == "item=tea value=…"


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


FILES = [LogFile(Path("log.jsonl"), 1000, "", 0.0)]


def test_a_long_read_shows_how_far_it_is_and_takes_the_line_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with Progress(FILES) as shown:
        shown.advance(500)
        assert "50% of 1.0 kB" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_a_short_read_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(FILES) as shown:
        shown.advance(1000)
    assert screen.getvalue() == ""


def test_nothing_is_shown_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with Progress(FILES) as shown:
        shown.advance(500)
    assert screen.getvalue() == ""
