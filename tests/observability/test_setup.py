"""What the options of a bus attach, and that the log then has one line for each event."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.tracing import begin_span
from llmgine.errors import ConfigurationError
from llmgine.messages import Command, CommandResult, Event
from llmgine.observability import Metric, MetricEvent, SpanContext, TraceEvent
from llmgine.observability.setup import from_options

LOG, METRICS, TRACES = "log", "metrics", "traces"


@dataclass
class Greet(Command[str]):
    name: str = ""


@dataclass
class Greeted(Event):
    name: str = ""


@pytest.mark.parametrize(
    ("options", "attached"),
    [
        ({}, set()),
        ({"enable_console_metrics": False, "enable_console_traces": False}, set()),
        ({"log_dir": "logs"}, {LOG, METRICS, TRACES}),
        ({"log_filename": "log.jsonl"}, {LOG, METRICS, TRACES}),
        ({"log_dir": "logs", "enable_console_metrics": False}, {LOG, TRACES}),
        ({"log_dir": "logs", "enable_console_traces": False}, {LOG, METRICS}),
        ({"log_dir": "logs", "enable_console_metrics": False, "enable_console_traces": False}, {LOG}),
        ({"enable_console_metrics": True}, {METRICS}),
        ({"enable_console_traces": True}, {TRACES}),
        ({"enable_console_metrics": True, "enable_console_traces": True}, {METRICS, TRACES}),
        ({"enable_console_metrics": False, "enable_console_traces": True}, {TRACES}),
    ],
)
def test_each_option_attaches_its_part_and_a_log_both_consoles_unless_told_otherwise(
    options: dict[str, Any],
    attached: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = from_options(**options)
    manager.observe_event(MetricEvent(metrics=[Metric(name="files", value=1)]))
    manager.observe_event(TraceEvent(name="Import", span_context=SpanContext("t", "s")))
    manager.close()
    shown = capsys.readouterr()

    assert {"[METRIC]": METRICS, "[TRACE]": TRACES}.keys() >= {line.split()[0] for line in shown.err.splitlines()}
    assert ("[METRIC]" in shown.err) is (METRICS in attached)
    assert ("[TRACE]" in shown.err) is (TRACES in attached)
    assert shown.out == ""
    assert [path.suffix for path in tmp_path.glob("**/*") if path.is_file()] == ([".jsonl"] if LOG in attached else [])


def test_the_log_is_where_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (
        {"log_dir": "here", "log_filename": "a.jsonl"},
        {"log_filename": "b.jsonl"},
        {"log_dir": tmp_path / "there" / "below"},
    ):
        from_options(**options).close()
    named = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("**/*.jsonl")}

    assert {"here/a.jsonl", "logs/b.jsonl"} < named
    (made,) = named - {"here/a.jsonl", "logs/b.jsonl"}
    assert made.startswith("there/below/events_")


@pytest.mark.parametrize("name", ["../log.jsonl", "/tmp/log.jsonl", "", "."])  # noqa: S108  # nothing is written there
def test_a_file_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        from_options(log_dir=tmp_path / "logs", log_filename=name)


async def test_the_log_of_a_bus_has_one_line_for_each_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manager = from_options(log_dir=tmp_path, log_filename="app_events.jsonl")
    bus = MessageBus.isolated(observability=manager)
    published: list[Event] = []

    async def publish(event: Event, **options: bool) -> None:
        published.append(event)
        await bus.publish(event, **options)

    async def greet(command: Greet) -> str:
        span = begin_span(command)
        assert span is not None
        await publish(span.started())
        await publish(Greeted(name=command.name), await_processing=False)
        await publish(span.ended(CommandResult(success=True)))
        return f"Hello, {command.name}"

    bus.register_command_handler(Greet, greet)
    bus.register_event_handler(Greeted, lambda event: None)
    bus.register_event_handler(Event, lambda event: None)
    await publish(Greeted(name="early"))
    await bus.start()
    await publish(MetricEvent(metrics=[Metric(name="files_processed", value=10)]))
    await bus.execute(Greet(name="Ada"))
    await bus.stop()
    manager.close()
    lines = [json.loads(line) for line in (tmp_path / "app_events.jsonl").read_text().splitlines()]

    bus_reports = {"CommandStartedEvent", "CommandResultEvent"}
    ours = [line["event_id"] for line in lines if line["event_type"] not in bus_reports]
    assert ours == [event.event_id for event in published]
    assert sorted(line["event_type"] for line in lines if line["event_type"] in bus_reports) == sorted(bus_reports)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in shown] == ["[METRIC]", "[TRACE]", "[TRACE]"]


async def test_a_log_that_cannot_be_written_is_a_warning_and_the_bus_runs_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    bus = MessageBus.isolated(log_dir=tmp_path / "file" / "logs", enable_console_traces=False)
    await bus.start()
    await bus.publish(Event())
    await bus.stop()

    (warning,) = [record.getMessage() for record in caplog.records]
    assert "file/logs' cannot be written: Not a directory. The application runs on" in warning
    assert "Name another folder in log_dir" in warning
