"""What a log adds up to, in bounded memory: counts, errors, durations, tokens and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from llmgine.bus.histogram import Histogram
from llmgine.observability.events import LogLevel
from llmgine.observability.log_filter import instant_of, level_of

__all__ = ["ErrorStats", "LogStats", "ModelStats", "Price", "SessionStats", "Table", "TypeStats", "WorkStats"]

_KEYS = 1000
"""Different things of one kind that are counted one by one."""
_UNDER_WAY = 100_000
"""Commands that have started and not ended."""
_MESSAGE = 200
"""Characters of an error by which errors are told apart."""


@dataclass(slots=True)
class _Counted:
    count: int = 0


C = TypeVar("C", bound=_Counted)


class Table(Generic[C]):
    """A row for each key. When there is no room for another, the half with the smaller counts is given up.

    So rows are exact unless some were given up: then one that came back lacks what it had before.
    """

    def __init__(self, make: Callable[[], C], capacity: int = _KEYS) -> None:
        self.rows: dict[str, C] = {}
        self.given_up = 0
        """Rows that were given up."""
        self.given_up_count = 0
        """What they had counted."""
        self._make = make
        self._capacity = capacity

    def __getitem__(self, key: str) -> C:
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= self._capacity:
                for name, small in self.top(len(self.rows))[self._capacity // 2 :]:
                    self.given_up += 1
                    self.given_up_count += small.count
                    del self.rows[name]
            row = self.rows[key] = self._make()
        return row

    def top(self, count: int) -> list[tuple[str, C]]:
        """Return the rows with the largest counts, the largest first."""
        return sorted(self.rows.items(), key=lambda item: (-item[1].count, item[0]))[:count]

    def rest(self, shown: int) -> tuple[int, int]:
        """Return how many rows there are besides the top ones, and what they count together."""
        small = self.top(len(self.rows))[shown:]
        return len(small) + self.given_up, sum(row.count for _, row in small) + self.given_up_count


@dataclass(slots=True)
class TypeStats(_Counted):
    """Events of one type."""


@dataclass(slots=True)
class ErrorStats(_Counted):
    """Errors of one event type with one message."""

    event_type: str = ""
    message: str = ""
    last: str = ""
    """The date of the latest."""


@dataclass(slots=True)
class WorkStats(_Counted):
    """Commands, spans or tools of one name: how many have ended, and how long they took."""

    failed: int = 0
    durations: Histogram = field(default_factory=lambda: Histogram(""))


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, for a million tokens."""

    input: float
    output: float


@dataclass(slots=True)
class ModelStats(_Counted):
    """What one model has answered: prompts, each with one request to the model or several."""

    requests: int = 0
    failed: int = 0
    """Requests that were not answered, also because they were cancelled. Older logs do not tell of them."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    """None where no price is known."""
    durations: Histogram = field(default_factory=lambda: Histogram(""))
    """Of the answers, with everything that led to them."""


@dataclass(slots=True)
class SessionStats(_Counted):
    """What happened in one session."""

    errors: int = 0
    commands: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    """Answers, or requests, whose price is not known."""
    first: str = ""
    last: str = ""


class LogStats:
    """Adds up events, in the order of their dates."""

    def __init__(self, prices: Mapping[str, Price] | None = None, *, by_session: bool = False) -> None:
        """Begin at zero.

        Args:
            prices: by `provider:model`, or by the model's name alone.
            by_session: whether to keep a row for each session.
        """
        self.events = 0
        self.errors_total = 0
        self.first = ""
        """The earliest date, ISO 8601; "" if there is none. So is `last`, the latest."""
        self.last = ""
        self.types = Table(TypeStats)
        self.errors = Table(ErrorStats)
        self.commands = Table(WorkStats)
        self.spans = Table(WorkStats)
        self.tools = Table(WorkStats)
        self.models = Table(ModelStats)
        self.sessions = Table(SessionStats) if by_session else None
        self._prices = prices or {}
        self._command_spans = Table(WorkStats)
        self._under_way: dict[str, tuple[str, datetime | None]] = {}
        self._by_request: dict[tuple[str, str], None] = {}
        """Prompts whose tokens were counted with each request, by engine and command."""
        self._ways = {
            "CommandStartedEvent": self._command_started,
            "CommandResultEvent": self._command_ended,
            "CommandErrorEvent": self._command_ended,
            "TraceEvent": self._span,
            "ToolExecuteResultEvent": self._tool,
            "ModelCallEndedEvent": self._request,
            "LLMResponseEvent": self._answer,
        }

    @property
    def seconds(self) -> float:
        """From the earliest date to the latest."""
        first, last = instant_of({"timestamp": self.first}), instant_of({"timestamp": self.last})
        return 0.0 if first is None or last is None else (last - first).total_seconds()

    def add(self, data: Mapping[str, Any]) -> None:
        """Count an event."""
        self.events += 1
        kind = str(data.get("event_type"))
        self.types[kind].count += 1
        stamp = data.get("timestamp")
        if isinstance(stamp, str):
            self.first = min(self.first, stamp) if self.first else stamp
            self.last = max(self.last, stamp)
        else:
            stamp = ""
        session: SessionStats | None = None
        if self.sessions is not None:
            session = self.sessions[str(data.get("session_id"))]
            session.count += 1
            session.first = session.first or stamp
            session.last = stamp or session.last
        name = ""
        way = self._ways.get(kind)
        if way is not None:
            # An event of this name in another shape still counts as an event.
            with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
                name = way(data, session)
        if level_of(data) in {LogLevel.ERROR, LogLevel.CRITICAL}:
            self._error(kind, name, data, stamp)
            if session is not None:
                session.errors += 1

    def finish(self) -> None:
        """Fill in from spans what commands took whose start or result was not there."""
        for name, row in self._command_spans.rows.items():
            if name not in self.commands.rows:
                self.commands.rows[name] = row

    def _error(self, kind: str, name: str, data: Mapping[str, Any], stamp: str) -> None:
        self.errors_total += 1
        result = data.get("command_result")
        given = result.get("error") if isinstance(result, dict) else data.get("exception") or data.get("error")
        text = str(given or data.get("message") or data.get("name") or "")
        about = name or str(data.get("handler") or "")
        message = " ".join(f"{about}: {text}".removeprefix(": ").split())[:_MESSAGE]
        row = self.errors[f"{kind} {message}"]
        row.count += 1
        row.event_type, row.message, row.last = kind, message, max(row.last, stamp)

    def _command_started(self, data: Mapping[str, Any], session: SessionStats | None) -> str:
        command = data["command"]
        name = str(command["command_type"])
        self._under_way[str(command["command_id"])] = name, instant_of(data)
        if len(self._under_way) > _UNDER_WAY:
            del self._under_way[next(iter(self._under_way))]
        if session is not None:
            session.commands += 1
        return name

    def _command_ended(self, data: Mapping[str, Any], _: SessionStats | None) -> str:
        result = data["command_result"]
        name, began = self._under_way.pop(str(result["command_id"]), ("", None))
        if name:
            _measure(self.commands[name], began, instant_of(data), failed=not result["success"])
        return name

    def _span(self, data: Mapping[str, Any], _: SessionStats | None) -> str:
        name = str(data["name"])
        if data.get("end_time"):
            is_command = name.startswith("Command ")
            row = self._command_spans[name.removeprefix("Command ")] if is_command else self.spans[name]
            _measure(
                row, instant_of(data, "start_time"), instant_of(data, "end_time"), failed=data["status"] == "ERROR"
            )
        return name

    def _tool(self, data: Mapping[str, Any], _: SessionStats | None) -> str:
        name = str(data["tool_name"])
        took = float(data["duration"])
        row = self.tools[name]
        row.count += 1
        row.failed += not data["execution_succeed"]
        row.durations.observe(took)
        return name

    def _request(self, data: Mapping[str, Any], session: SessionStats | None) -> str:
        name = f"{data['provider']}:{data['model']}"
        row = self.models[name]
        row.requests += 1
        row.failed += data["finish_reason"] is None
        self._by_request[_prompt_of(data)] = None
        if len(self._by_request) > _UNDER_WAY:
            del self._by_request[next(iter(self._by_request))]
        self._spend(row, name, data, session)
        return name

    def _answer(self, data: Mapping[str, Any], session: SessionStats | None) -> str:
        name = f"{data['provider']}:{data['model']}"
        took = float(data["duration"])
        row = self.models[name]
        row.count += 1
        row.durations.observe(took)
        prompt = _prompt_of(data)
        if prompt in self._by_request:
            del self._by_request[prompt]
        else:  # an older log, which tells what all requests took together
            row.requests += int(data.get("turns", 1))
            self._spend(row, name, data, session)
        return name

    def _spend(self, row: ModelStats, name: str, data: Mapping[str, Any], session: SessionStats | None) -> None:
        read, written = int(data["usage"]["input_tokens"]), int(data["usage"]["output_tokens"])
        row.input_tokens += read
        row.output_tokens += written
        price = self._prices.get(name, self._prices.get(str(data["model"])))
        cost = None if price is None else (read * price.input + written * price.output) / 1e6
        row.cost = None if cost is None or row.cost is None else row.cost + cost
        if session is not None:
            session.input_tokens += read
            session.output_tokens += written
            session.cost += cost or 0.0
            session.unpriced += cost is None


def _prompt_of(data: Mapping[str, Any]) -> tuple[str, str]:
    return str(data.get("engine_id")), str(data.get("causation_id"))


def _measure(row: WorkStats, began: datetime | None, ended: datetime | None, *, failed: bool) -> None:
    row.count += 1
    row.failed += failed
    if began is not None and ended is not None:
        row.durations.observe((ended - began).total_seconds())
