"""Events of a log in words: one line each, with nothing in it that a terminal would obey."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import orjson

from llmgine.cli.stderr import printable
from llmgine.observability.events import LogLevel
from llmgine.observability.log_filter import instant_of

__all__ = ["LEVEL_STYLES", "Summaries", "clock", "duration", "fields_of", "one_line", "said_of_call", "size"]

LEVEL_STYLES = {
    LogLevel.DEBUG: "dim",
    LogLevel.INFO: "",
    LogLevel.WARNING: "yellow",
    LogLevel.ERROR: "red",
    LogLevel.CRITICAL: "bold red",
}
_BASE = frozenset(
    {
        *("event_type", "command_type", "message_type", "event_id", "command_id", "timestamp", "metadata"),
        *("correlation_id", "causation_id", "session_id", "traceparent", "engine_id"),
    }
)
_DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What makes text run the other way, and so look like something else."""
_REMEMBERED = 10_000


class Summaries:
    """Says what events are about, in the order in which they are given: a command's result names the command."""

    def __init__(self) -> None:
        self._commands: dict[str, str] = {}

    def of(self, data: Mapping[str, Any]) -> str:
        """Return what an event says besides its type, on one line; "" if nothing."""
        words = _WORDS.get(str(data.get("event_type")))
        if words is not None:
            try:
                return one_line(words(self, data))
            except (KeyError, AttributeError, TypeError, ValueError):
                pass  # an event of this name in another shape
        return one_line(fields_of(data))

    def note(self, data: Mapping[str, Any]) -> None:
        """Remember what the command of a `CommandStartedEvent` is called."""
        with suppress(KeyError, TypeError):
            self._remember(data["command"])

    def _remember(self, command: Mapping[str, Any]) -> str:
        name = str(command["command_type"])
        self._commands[str(command["command_id"])] = name
        if len(self._commands) > _REMEMBERED:
            del self._commands[next(iter(self._commands))]
        return name

    def _started(self, data: Mapping[str, Any]) -> str:
        command = data["command"]
        return f"{self._remember(command)} {fields_of(command)}"

    def _ended(self, data: Mapping[str, Any]) -> str:
        result = data["command_result"]
        identity = str(result["command_id"])
        name = self._commands.pop(identity, f"command {identity[:14]}")
        if result["success"]:
            return f"{name} → {_value(result['result'])}" if result.get("result") is not None else name
        return f"{name}: {result['error']}"

    def _retried(self, data: Mapping[str, Any]) -> str:
        name, delay = data["command"]["command_type"], duration(float(data["delay"]))
        return f"{name}, attempt {data['attempt']}, the next after {delay}: {data['error']}"

    def _dead_letter(self, data: Mapping[str, Any]) -> str:
        return f"{data['command']['command_type']} after {_count(data['attempts'], 'attempt')}: {data['error']}"

    def _span(self, data: Mapping[str, Any]) -> str:
        began, ended = instant_of(data, "start_time"), instant_of(data, "end_time")
        if began is None or ended is None:
            return f"{data['name']} began"
        attributes = fields_of(data.get("attributes") or {})
        return f"{data['name']} {data.get('status') or ''} {duration((ended - began).total_seconds())} {attributes}"

    def _failed_handler(self, data: Mapping[str, Any]) -> str:
        return f"{data['handler']} on {data['event']['event_type']}: {data['exception']}"

    def _model_call(self, data: Mapping[str, Any]) -> str:
        model = f"{data['provider']}:{data['model']}"
        return f"{model}, turn {data['turn']}, {said_of_call(data)}, {duration(float(data['duration']))}"

    def _response(self, data: Mapping[str, Any]) -> str:
        tokens = _tokens(data)
        text = f": {data['text']}" if data.get("text") else ""
        return f"{data['provider']}:{data['model']}, {tokens}, {duration(float(data['duration']))}{text}"

    def _tool_call(self, data: Mapping[str, Any]) -> str:
        return f"{data['tool_name']} {data.get('arguments', '')}"

    def _tool_result(self, data: Mapping[str, Any]) -> str:
        result = f": {data['tool_result']}" if data.get("tool_result") else ""
        outcome = "" if data["execution_succeed"] else " failed"
        return f"{data['tool_name']}{outcome}, {duration(float(data['duration']))}{result}"

    def _metrics(self, data: Mapping[str, Any]) -> str:
        return ", ".join(f"{each['name']}={each['value']}{_unit(each.get('unit'))}" for each in data["metrics"])

    def _text(self, data: Mapping[str, Any]) -> str:
        return _value(data["text"], quoted=True)

    def _message(self, data: Mapping[str, Any]) -> str:
        return f"{data['message']} {fields_of(data.get('context') or {})}"


_WORDS = {
    "CommandStartedEvent": Summaries._started,
    "CommandResultEvent": Summaries._ended,
    "CommandErrorEvent": Summaries._ended,
    "CommandRetriedEvent": Summaries._retried,
    "DeadLetterCommandEvent": Summaries._dead_letter,
    "TraceEvent": Summaries._span,
    "EventHandlerFailedEvent": Summaries._failed_handler,
    "ModelCallEndedEvent": Summaries._model_call,
    "LLMResponseEvent": Summaries._response,
    "ToolCallEvent": Summaries._tool_call,
    "ToolExecuteResultEvent": Summaries._tool_result,
    "MetricEvent": Summaries._metrics,
    "TextChunkEvent": Summaries._text,
    "LogEvent": Summaries._message,
}


def said_of_call(data: Mapping[str, Any]) -> str:
    """Return what a request to a model took and how it ended: `120 + 30 tokens, tool_calls`.

    Raises:
        KeyError, TypeError: the event has another shape.
    """
    if data["finish_reason"] is None:
        return f"failed: {data['error']}" if data["error"] else "cancelled"
    return f"{_tokens(data)}, {data['finish_reason']}"


def one_line(text: str) -> str:
    """Return a text with single spaces for all white space, and without what a terminal would obey."""
    return " ".join(_DIRECTIONS.sub("", printable(" ".join(text.split()))).split())


def fields_of(data: Mapping[str, Any]) -> str:
    """Return what a message says beyond what every message has: `item=tea count=3`."""
    return " ".join(
        f"{name}={_value(value)}"
        for name, value in data.items()
        if name not in _BASE and value not in (None, "", {}, [])
    )


def cut(text: str, length: int) -> str:
    """Return at most so many characters, the last of them `…` if there were more."""
    return text if len(text) <= length else f"{text[: max(0, length - 1)]}…"


def clock(when: datetime | None) -> str:
    """Return the time of day here, to the millisecond; as many spaces if there is none."""
    return " " * 12 if when is None else f"{when.astimezone():%H:%M:%S.}{when.microsecond // 1000:03}"


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: `830 µs`, `12.3 ms`, `4.56 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 0.000_999_5:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.999_95:
        milliseconds = seconds * 1000
        return f"{milliseconds:.{2 if milliseconds < 9.995 else 1}f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def size(count: float) -> str:
    """Return a number of bytes: `830 B`, `1.2 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _value(value: object, *, quoted: bool = False) -> str:
    if isinstance(value, str) and value and not quoted and not any(c.isspace() for c in value):
        return cut(value, 120)
    try:
        return cut(orjson.dumps(value).decode(), 120)
    except orjson.JSONEncodeError:  # nested more deeply than orjson writes, which is less than it reads
        return "…"


def _count(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _tokens(data: Mapping[str, Any]) -> str:
    return f"{data['usage']['input_tokens']} + {data['usage']['output_tokens']} tokens"


def _unit(unit: object) -> str:
    return f" {unit}" if isinstance(unit, str) and unit else ""
