"""The console for people: one line for what matters, whatever is in it, and nothing about the rest."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from llmgine.bus import MessageBus
from llmgine.bus.session import SessionEndEvent, SessionStartEvent
from llmgine.llm.engine.events import LLMResponseEvent, ModelCallEndedEvent, PromptFailedEvent, TextChunkEvent
from llmgine.llm.tools.tool_events import ToolExecuteResultEvent
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import (
    CommandErrorEvent,
    CommandResultEvent,
    CommandRetriedEvent,
    CommandStartedEvent,
    EventHandlerFailedEvent,
)
from llmgine.observability import (
    LogEvent,
    LogLevel,
    Metric,
    MetricEvent,
    ObservabilityManager,
    SpanContext,
    TraceEvent,
)
from llmgine.observability.handlers import ConsoleHandler

AT = "2026-01-02T03:04:05.678901+00:00"
CLOCK = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Greet(Command[str]):
    name: str = ""


@dataclass
class Greeted(Event):
    name: str = ""
    times: float | None = None
    about: Any = None


@dataclass
class AudioDeltaEvent(Event):
    data: str = ""


@dataclass
class Recorded(Event):
    text: str = field(default="", metadata={"content": True})
    kind: str = "letter"


def shown(*events: Event, stream: io.StringIO | None = None, **options: Any) -> str:
    """Return what is written, without the time of day."""
    return "".join(re.sub(CLOCK, "", line) for line in written(*events, stream=stream, **options).splitlines(True))


def written(*events: Event, stream: io.StringIO | None = None, **options: Any) -> str:
    stream = stream or io.StringIO()
    with patch.object(sys, "stderr", stream):
        handler = ConsoleHandler(**options)
        for event in events:
            handler.handle(event)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "LLMGINE_RECORD_CONTENT"):
        monkeypatch.delenv(name, raising=False)


# What a line says


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Greeted("Ada"), "INFO  Greeted  name=Ada"),
        (Greeted("", 0.123456), "INFO  Greeted  times=0.1235"),
        (Greeted(about={"a": [1]}), "INFO  Greeted  about={'a': [1]}"),
        (Greeted(about=Greeted()), "INFO  Greeted  about=Greeted"),
        (Greeted(about=Greet()), "INFO  Greeted  about=Greet"),
        (Greeted(session_id=SessionID("mine")), "INFO  Greeted [mine]"),
        (Greeted(session_id=SessionID("0123456789abcdef")), "INFO  Greeted […89abcdef]"),
        (
            LogEvent(LogLevel.WARNING, "low on disk", {"free": 3}, "disk"),
            "WARN  LogEvent  low on disk  source=disk  free=3",
        ),
        (MetricEvent([Metric("a", 1, "ms"), Metric("b", 2)]), "INFO  MetricEvent  a = 1 ms  b = 2"),
        (PromptFailedEvent(error="RateLimitedError: no"), "ERROR PromptFailedEvent  error=RateLimitedError: no"),
        (
            CommandRetriedEvent(attempt=2, delay=0.5, error="OSError: no"),
            "WARN  CommandRetriedEvent  attempt=2  delay=0.5  error=OSError: no",
        ),
        (
            ToolExecuteResultEvent(tool_name="add", execution_succeed=False),
            "WARN  ToolExecuteResultEvent  execution_succeed=False  tool_name=add  duration=0",
        ),
        (SessionStartEvent(session_id=SessionID("s")), "INFO  SessionStartEvent [s]"),
        (CommandErrorEvent(command_result=CommandResult(success=False, error="no")), "ERROR CommandErrorEvent  no"),
    ],
)
def test_an_event_is_a_line_with_what_is_in_it(event: Event, line: str) -> None:
    assert shown(event).rstrip() == line


def test_a_line_begins_with_the_local_time() -> None:
    code = f"""
from llmgine.messages import Event
from llmgine.observability.handlers import ConsoleHandler
ConsoleHandler().handle(Event(timestamp={AT!r}))
ConsoleHandler().handle(Event(timestamp="yesterday evening"))
"""
    environment = {**os.environ, "TZ": "UTC-2"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ended.stderr == "05:04:05.678 INFO  Event\nyesterday ev... INFO  Event\n"


async def test_what_fails_is_shown_with_its_traceback_and_what_succeeds_quickly_is_not() -> None:
    manager = ObservabilityManager()
    manager.register_handler(ConsoleHandler())
    bus = MessageBus.isolated(observability=manager)

    def greet(command: Greet) -> str:
        if command.name == "nobody":
            raise ValueError("there is nobody")
        return "hello"

    def hear(event: Greeted) -> None:
        raise KeyError(event.name)

    bus.register_command_handler(Greet, greet)
    bus.register_event_handler(Greeted, hear)
    await bus.start()
    stream = io.StringIO()
    with patch.object(sys, "stderr", stream):
        await bus.execute(Greet("Ada"))
        await bus.execute(Greet("nobody"))
        await bus.publish(Greeted("Ada"))
    await bus.stop()
    lines = [re.sub(CLOCK, "", line) for line in stream.getvalue().splitlines()]
    heads = [line for line in lines if not line.startswith("    ")]
    assert re.sub(r"[\d.]+ ms", "? ms", heads[0]) == (
        "ERROR CommandErrorEvent  Greet  ValueError: there is nobody  ? ms"
    )
    assert heads[1:] == [
        "INFO  Greeted  name=Ada",
        f"ERROR EventHandlerFailedEvent  {_name(hear)} on Greeted: KeyError: 'Ada'",
    ]
    assert lines.count("    Traceback (most recent call last):") == 2
    assert "    ValueError: there is nobody" in lines
    assert '        raise ValueError("there is nobody")' in lines


def test_the_error_that_ended_a_session_is_shown_with_its_traceback() -> None:
    lines = shown(SessionEndEvent(session_id=SessionID("s"), error=raised("no"))).splitlines()
    assert lines[:2] == ["ERROR SessionEndEvent [s]  error=ValueError: no", "    Traceback (most recent call last):"]
    assert lines[-1] == "    ValueError: no"


def test_of_a_long_traceback_the_last_lines_are_shown() -> None:
    result: CommandResult[Any] = CommandResult(
        success=False, error="no", metadata={"traceback": "".join(f"line {n}\n" for n in range(100))}
    )
    lines = shown(CommandErrorEvent(command_result=result)).splitlines()
    assert (lines[1], lines[2], lines[-1]) == ("    (60 lines left out)", "    line 60", "    line 99")


# Who is quiet

CHATTER = [
    TextChunkEvent(text="a"),
    AudioDeltaEvent(),
    CommandStartedEvent(command=Greet()),
    CommandResultEvent(command_result=CommandResult(success=True)),
    TraceEvent("Import", SpanContext("t", "s")),
    LogEvent(LogLevel.DEBUG, "a"),
    ModelCallEndedEvent(error="OSError: what the prompt's own end tells"),
]


@pytest.mark.parametrize("event", CHATTER, ids=lambda event: type(event).__name__)
def test_chatter_is_shown_to_those_who_ask_for_it(event: Event) -> None:
    assert shown(event) == ""
    assert shown(event, verbose=True).startswith(f"DEBUG {type(event).__name__}")
    assert shown(event, level=LogLevel.DEBUG).startswith(f"DEBUG {type(event).__name__}")


def test_a_command_that_takes_long_is_shown_although_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.5])
    monkeypatch.setattr("llmgine.observability.handlers.console.perf_counter", lambda: next(times))
    command = Greet()
    result = CommandResult.of("hello", command)
    events = CommandStartedEvent(command=command), CommandResultEvent(command_result=result)
    assert shown(*events) == "INFO  CommandResultEvent  Greet  2.50 s\n"


def test_below_the_level_nothing_is_shown() -> None:
    events = [LogEvent(level, str(level)) for level in LogLevel]
    lines = shown(*events, level=LogLevel.ERROR).splitlines()
    assert lines == ["ERROR LogEvent  error", "CRIT  LogEvent  critical"]


def test_who_is_verbose_says_the_ids_too() -> None:
    event = Greeted("Ada", event_id="e", metadata={"a": 1})
    event.causation_id = "c"
    assert shown(event, verbose=True) == "INFO  Greeted  name=Ada  id=e  cause=c  metadata={'a': 1}\n"


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        ConsoleHandler("loud")  # type: ignore[arg-type]


def test_only_so_many_commands_under_way_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgine.observability.handlers.console._COMMANDS", 3)
    handler = ConsoleHandler()
    for _ in range(10):
        handler.handle(CommandStartedEvent(command=Greet()))
    assert len(handler._commands) == 3


# Secrets and content


def test_secrets_are_not_shown() -> None:
    secret = "sk-abcdefghijklmnopqrstuvwxyz0123456789"
    error = raised(secret)
    text = shown(
        Greeted(secret, about={"password": "hunter2", "list": [f"Bearer {secret}"]}),
        LogEvent(message=f"the key is {secret}", context={"api_key": "short"}),
        EventHandlerFailedEvent(event=Event(), handler="h", exception=error),
        SessionEndEvent(error=error),
        CommandErrorEvent(
            command_result=CommandResult(success=False, error=secret, metadata={"traceback": f"E: {secret}"})
        ),
        MetricEvent([Metric("a", 1, tags={"token": secret})]),
        TraceEvent("t", SpanContext("t", "s"), status="ERROR", attributes={"error": f"ValueError: {secret}"}),
        verbose=True,
    )
    assert secret not in text
    assert "hunter2" not in text
    assert "short" not in text
    assert text.count("<redacted>") >= 8


def test_content_is_shown_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    event = Recorded("Dear Ada")
    assert shown(event) == "INFO  Recorded  kind=letter\n"
    assert shown(event, record_content=True) == "INFO  Recorded  text=Dear Ada  kind=letter\n"
    monkeypatch.setenv("LLMGINE_RECORD_CONTENT", "1")
    assert shown(event) == "INFO  Recorded  text=Dear Ada  kind=letter\n"
    assert shown(event, record_content=False) == "INFO  Recorded  kind=letter\n"
    assert "secret plan" not in shown(LLMResponseEvent(text="secret plan"), verbose=True, record_content=False)


# The terminal


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"NO_COLOR": ""}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {}, False),
        (io.StringIO, {"COLORTERM": "truecolor"}, False),
    ],
)
def test_colours_are_for_terminals_where_they_are_wanted(
    stream: type[io.StringIO], environment: dict[str, str], coloured: bool
) -> None:
    with patch.dict(os.environ, environment):
        text = written(LogEvent(LogLevel.ERROR, "no"), stream=stream())
    assert ("\x1b[" in text) is coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", text)[13:] == "ERROR LogEvent  no\n"


TEXT = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=200)


@given(TEXT, TEXT, TEXT)
def test_no_text_breaks_the_layout_of_a_terminal(a: str, b: str, c: str) -> None:
    result: CommandResult[Any] = CommandResult(success=False, error=a, metadata={"traceback": f"{b}\n  {c}"})
    with patch.dict(os.environ, {"NO_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}):
        text = written(
            Greeted(a, about={b: c}, session_id=SessionID(c)),
            LogEvent(message=b, context={a: c}),
            CommandErrorEvent(command_result=result, session_id=SessionID(a)),
            stream=Terminal(),
        )
    *lines, end = text.split("\n")
    assert end == ""
    assert sum(CLOCK.match(line) is not None for line in lines) == 3
    for line in lines:
        assert line.isprintable()
        assert cell_len(line) <= 80
        assert CLOCK.match(line) or line.startswith("    ")


def test_elsewhere_lines_are_whole() -> None:
    assert shown(Greeted("a" * 100)) == f"INFO  Greeted  name={'a' * 100}\n"
    assert shown(Greeted("a" * 121)) == f"INFO  Greeted  name={'a' * 120}...\n"


def test_standard_error_is_looked_up_for_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    handler = ConsoleHandler()
    other = Terminal()
    with patch.object(sys, "stderr", other):
        handler.handle(Event())
    handler.handle(Event())
    assert "\x1b[" in other.getvalue()
    assert capsys.readouterr().err[13:] == "INFO  Event\n"


class Closed(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Closed(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")])
def test_without_a_standard_error_nothing_is_raised(stream: Any) -> None:
    with patch.object(sys, "stderr", stream):
        ConsoleHandler().handle(Greeted("ü"))


def test_nothing_is_imported_before_a_line_is_written() -> None:
    code = """
import sys
from llmgine.messages.events import CommandStartedEvent
from llmgine.messages import Event
from llmgine.observability.handlers.console import ConsoleHandler
handler = ConsoleHandler()
handler.handle(CommandStartedEvent())
assert not any(name.partition(".")[0] == "rich" for name in sys.modules)
handler.handle(Event())
assert "rich.console" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def raised(text: str) -> ValueError:
    """Return an error with a traceback."""
    error = ValueError(text)
    try:
        raise error
    except ValueError:
        return error


def _name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
