"""What happens, for a person who looks on: a line for each event that matters, on standard error."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO

from llmgine.messages import Event
from llmgine.messages.events import (
    CommandErrorEvent,
    CommandResultEvent,
    CommandRetriedEvent,
    CommandStartedEvent,
    EventHandlerFailedEvent,
)
from llmgine.messages.ids import BUS
from llmgine.observability.content import content_fields, content_wanted
from llmgine.observability.events import LogEvent, LogLevel, MetricEvent, ObservabilityBaseEvent, TraceEvent
from llmgine.observability.handlers.console_lines import duration, is_coloured, metric_lines, shown, span_parts
from llmgine.observability.redact import redact
from llmgine.observability.sink import ObservabilityHandler

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ConsoleHandler"]

_RANK = {level: rank for rank, level in enumerate(LogLevel)}
_LABELS = {
    LogLevel.DEBUG: ("DEBUG", "dim"),
    LogLevel.INFO: ("INFO ", "green"),
    LogLevel.WARNING: ("WARN ", "yellow"),
    LogLevel.ERROR: ("ERROR", "bold red"),
    LogLevel.CRITICAL: ("CRIT ", "bold white on red"),
}
_CHATTER = frozenset({"chunk", "delta"})
"""The last words of the names of events that carry a piece of a stream."""
_TOLD_AGAIN = "model.call.ended"
"""The name of an event of which the one that ends its prompt says the most important."""
_GIVEN = frozenset(
    {
        *("event_type", "event_id", "timestamp", "session_id", "metadata", "level"),
        *("correlation_id", "causation_id", "traceparent"),
    }
)
"""What every event has, and what is said of it in another way."""
_SLOW = 1.0
"""Seconds from which on a command that succeeds is worth a line."""
_COMMANDS = 10_000
"""Commands under way that are remembered, for what they are called and how long they take."""
_LONGEST = 120
"""Characters of a value among others that are shown."""
_TRACE_LINES = 40
"""Lines of a traceback that are shown, the last ones."""


class ConsoleHandler(ObservabilityHandler):
    """Writes a line about each event: the time, how much it matters, what it is, its session and what is in it.

    Commands that succeed within a second, pieces of streams and spans are of level DEBUG; what failed is ERROR, with
    its traceback. On a terminal there are colours, and a line that is longer than it is wide is cut. Secrets are
    redacted.
    """

    def __init__(
        self, level: LogLevel = LogLevel.INFO, *, verbose: bool = False, record_content: bool | None = None
    ) -> None:
        """Decide what is shown.

        Args:
            level: events below this are not.
            verbose: show events of every level, and their ids.
            record_content: show what people and models say; by default if `LLMGINE_RECORD_CONTENT` is 1.
        """
        self._rank = 0 if verbose else _RANK[LogLevel(level)]
        self._verbose = verbose
        self._content = content_wanted(record_content)
        self._commands: dict[str, tuple[str, float]] = {}
        """The class of each command under way and when it began, by id."""
        self._console: Console | None = None

    def handle(self, event: Event) -> None:
        """Write a line about the event, if it matters enough."""
        command, seconds = self._follow(event)
        level = _level(event, seconds)
        stream: TextIO | None = sys.stderr
        if _RANK[level] < self._rank or stream is None:
            return
        about = "  ".join(part for part in self._about(event, command, seconds) if part)
        text = self._render(stream, event, level, about)
        try:
            stream.write(text)  # one call, so that the lines of threads do not mix
            stream.flush()
        except (OSError, ValueError):
            return  # standard error is closed: nobody is left to tell

    def _follow(self, event: Event) -> tuple[str, float | None]:
        """Return what the command that an event is about is called, and if it has ended, how many seconds it took."""
        if isinstance(event, CommandStartedEvent) and event.command is not None:
            name = type(event.command).__name__
            if len(self._commands) >= _COMMANDS:
                self._commands.pop(next(iter(self._commands)), None)
            self._commands[event.command.command_id] = name, perf_counter()
            return name, None
        if isinstance(event, CommandResultEvent) and event.command_result is not None:
            name, begun = self._commands.pop(event.command_result.command_id, ("", None))
            return name, None if begun is None else perf_counter() - begun
        return "", None

    def _about(self, event: Event, command: str, seconds: float | None) -> Iterator[str]:
        """Say what is in an event."""
        from llmgine.observability.serialize import to_dict  # and with it orjson, for those who look on

        data = to_dict(event, max_text=1000, max_depth=4, max_values=100, redactor=redact, record_content=self._content)
        if command:
            yield command
        if isinstance(event, CommandResultEvent):
            yield shown((data["command_result"] or {}).get("error") or "")
        elif isinstance(event, LogEvent):
            yield shown(data["message"])
            yield from _pairs({"source": data["source"]} | data["context"])
        elif isinstance(event, EventHandlerFailedEvent):
            yield f"{shown(data['handler'])} on {type(event.event).__name__}: {shown(data['exception'])}"
        elif isinstance(event, MetricEvent):
            yield "  ".join(metric_lines(event.metrics))
        elif isinstance(event, TraceEvent):
            yield " ".join(span_parts(event))
        elif not isinstance(event, CommandStartedEvent):
            kind: Any = type(event)
            left_out = () if self._content else content_fields(kind)
            yield from _pairs({name: data[name] for name in data if name not in _GIVEN and name not in left_out})
        if seconds is not None:
            yield duration(seconds)
        if self._verbose:
            yield from _pairs({"id": data["event_id"], "cause": data["causation_id"], "metadata": data["metadata"]})

    def _render(self, stream: TextIO, event: Event, level: LogLevel, about: str) -> str:
        from rich.color import ColorSystem
        from rich.console import Console
        from rich.text import Text

        console = self._console = self._console or Console(stderr=True)
        label, style = _LABELS[level]
        line = Text.assemble((_clock(event), "dim"), " ", (label, style), " ", (type(event).__name__, "bold"))
        if event.session_id != BUS:
            line.append(f" [{_short(shown(event.session_id))}]", "cyan")
        line.append(f"  {about}" if about else "")
        lines = [line]
        terminal = stream.isatty()
        if terminal:
            line.truncate(console.width, overflow="ellipsis")
        for trace in _trace(event):
            text = Text(trace, "red" if trace[:1].strip() else "dim")
            parts = text.wrap(console, max(20, console.width - 4), overflow="fold") if terminal else [text]
            lines += [Text("    ").append_text(part) for part in parts]
        if not is_coloured(stream):
            return "".join(f"{each.plain}\n" for each in lines)
        # Not by `print`, which ends the program where standard error is a broken pipe.
        return "".join(
            part.style.render(part.text, color_system=ColorSystem.STANDARD) if part.style else part.text
            for each in lines
            for part in each.render(console, end="\n")
        )


def _level(event: Event, seconds: float | None) -> LogLevel:
    if isinstance(event, ObservabilityBaseEvent):
        return LogLevel(event.level)
    if isinstance(event, CommandErrorEvent | EventHandlerFailedEvent):
        return LogLevel.ERROR
    if isinstance(event, CommandResultEvent):
        return LogLevel.INFO if seconds is not None and seconds >= _SLOW else LogLevel.DEBUG
    chatter = event.event_name == _TOLD_AGAIN or event.event_name.rpartition(".")[2] in _CHATTER
    if chatter or isinstance(event, CommandStartedEvent | TraceEvent):
        return LogLevel.DEBUG
    if isinstance(event, CommandRetriedEvent) or getattr(event, "execution_succeed", True) is False:
        return LogLevel.WARNING
    error: Any = getattr(event, "error", None)
    return LogLevel.ERROR if isinstance(error, BaseException) or (isinstance(error, str) and error) else LogLevel.INFO


def _pairs(data: dict[str, Any]) -> Iterator[str]:
    """Say what is called how, of what there is."""
    for name, value in data.items():
        if isinstance(value, dict) and ("event_type" in value or "command_type" in value):
            yield f"{shown(name)}={shown(value.get('event_type') or value.get('command_type'))}"
        elif isinstance(value, float):
            yield f"{shown(name)}={value:.4g}"
        elif value is not None and value not in ("", {}, []):
            yield f"{shown(name)}={shown(value, _LONGEST)}"


def _trace(event: Event) -> list[str]:
    """Return the lines of the traceback of what failed, the last ones."""
    if isinstance(event, CommandResultEvent):
        result = event.command_result
        text = "" if result is None or result.success else str(result.metadata.get("traceback", ""))
    else:
        error: Any = event.exception if isinstance(event, EventHandlerFailedEvent) else getattr(event, "error", None)
        text = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
    lines = [shown(line) for line in redact.text(text).splitlines()]
    left_out = len(lines) - _TRACE_LINES
    return [f"({left_out} lines left out)", *lines[left_out:]] if left_out > 0 else lines


def _clock(event: Event) -> str:
    try:
        return datetime.fromisoformat(event.timestamp).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (TypeError, ValueError):
        return shown(event.timestamp, 12)


def _short(session: str) -> str:
    return session if len(session) <= 12 else f"…{session[-8:]}"
