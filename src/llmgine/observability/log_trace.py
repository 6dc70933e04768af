"""What caused what, and when: the events of one chain as a tree of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from llmgine.observability.events import LogLevel, SpanContext
from llmgine.observability.log_filter import instant_of, level_of

__all__ = ["Step", "StepKind", "Trace", "build_trace", "causes_of"]

_MISSING = "not in the log"


class StepKind(StrEnum):
    """What a step is."""

    COMMAND = "command"
    EVENT = "event"
    SPAN = "span"
    TOOL = "tool"
    MODEL = "model"
    """A request to a model."""
    MISSING = "missing"


@dataclass(slots=True, eq=False)
class Step:
    """A message, or a piece of work, and what it caused."""

    id: str
    kind: StepKind
    name: str
    """The class of a command or an event; what the span, the tool or the model is called."""
    data: Mapping[str, Any]
    """The event or command as it was logged; `{}` for what is missing."""
    cause: str | None
    """The id of what caused it."""
    start: datetime | None
    end: datetime | None = None
    """When it ended. Events take no time: theirs is their `start`. None if the log does not say that it has ended."""
    error: str | None = None
    within: str | None = None
    """The id of the span that it belongs to, which may be one of its own cause."""
    handler: str | None = None
    """Which handler it is about, where the log says so."""
    children: list[Step] = field(default_factory=list["Step"])
    """By their `start`."""
    depth: int = 0

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it takes no time, or has not ended."""
        if self.kind is StepKind.EVENT or self.start is None or self.end is None:
            return None
        return max(0.0, (self.end - self.start).total_seconds())

    @property
    def is_unfinished(self) -> bool:
        """Whether it began and, as far as the log says, has not ended."""
        return self.kind not in {StepKind.EVENT, StepKind.MISSING} and self.end is None


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that the log says of one chain."""

    steps: Mapping[str, Step]
    """By id. A step has several where the log tells of it several times."""
    roots: Sequence[Step]
    start: datetime | None
    end: datetime | None

    @property
    def seconds(self) -> float:
        """From its first moment to its last."""
        return 0.0 if self.start is None or self.end is None else (self.end - self.start).total_seconds()

    def walk(self) -> Iterator[Step]:
        """Give every step, causes before what they caused."""
        pending = list(reversed(self.roots))
        while pending:
            step = pending.pop()
            yield step
            pending.extend(reversed(step.children))


def build_trace(events: Iterable[Mapping[str, Any]]) -> Trace:
    """Return the tree that events make. What is named as a cause and is not there gets a step of its own.

    Args:
        events: as they were logged, in the order of their dates.
    """
    builder = _Builder()
    for data in events:
        builder.add(data)
    return builder.trace()


def causes_of(trace: Trace, identity: str) -> list[Step]:
    """Return a step and what led to it, the first cause first; of causes in a circle, each once."""
    chain: list[Step] = []
    step = trace.steps.get(identity)
    while step is not None and step not in chain:
        chain.append(step)
        step = trace.steps.get(step.cause) if step.cause is not None else None
    return chain[::-1]


class _Builder:
    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._order: list[Step] = []
        self._tools: dict[tuple[str, str], Step] = {}
        """Tool calls that have not ended, by engine and call."""

    def add(self, data: Mapping[str, Any]) -> None:
        kind = data.get("event_type")
        command, result, span = (_dict(data.get(name)) for name in ("command", "command_result", "span_context"))
        if kind == "CommandStartedEvent" and command.get("command_id"):
            self._command_started(data, command)
        elif kind in {"CommandResultEvent", "CommandErrorEvent"} and result.get("command_id"):
            self._command_ended(data, result)
        elif kind == "TraceEvent" and span.get("span_id"):
            self._span(data, span)
        elif kind == "ToolCallEvent" and data.get("tool_call_id"):
            step = self._new(data, _text(data, "event_id"), StepKind.TOOL, _text(data, "tool_name"))
            self._tools[_text(data, "engine_id"), _text(data, "tool_call_id")] = step
        elif kind == "ToolExecuteResultEvent":
            self._tool_ended(data)
        elif kind == "ModelCallEndedEvent":
            self._model_asked(data)
        else:
            step = self._new(data, _text(data, "event_id"), StepKind.EVENT, _text(data, "event_type"))
            step.end = step.start
            if level_of(data) in {LogLevel.ERROR, LogLevel.CRITICAL}:
                error = data.get("exception") or data.get("error") or data.get("message")
                step.error = str(error) if error else "failed"
            step.handler = _text(data, "handler") or None
            parent = SpanContext.parse(data.get("traceparent"))
            step.within = None if parent is None else parent.span_id

    def trace(self) -> Trace:
        for step in list(self._order):
            if step.cause is not None and step.cause not in self._steps:
                missing = Step(step.cause, StepKind.MISSING, _MISSING, {}, None, step.start)
                self._steps[step.cause] = missing
                self._order.append(missing)
        roots: list[Step] = []
        parents: dict[Step, Step | None] = {}
        for step in self._order:
            parent = self._steps.get(step.cause) if step.cause is not None else None
            span = self._steps.get(step.within) if step.within is not None else None
            if span is not None and span is not step and span.kind is StepKind.SPAN:
                parent = span
            parents[step] = parent
            (roots if parent is None else parent.children).append(step)
        seen = set(_below(roots))
        for step in self._order:  # what is left are circles, each of which is opened at its first step
            if step not in seen:
                parent = parents[step]
                if parent is not None:
                    parent.children.remove(step)
                roots.append(step)
                seen.update(_below([step]))
        starts = [step.start for step in self._order if step.start is not None]
        ends = [step.end for step in self._order if step.end is not None]
        trace = Trace(self._steps, _by_start(roots), min(starts, default=None), max([*starts, *ends], default=None))
        for step in trace.walk():
            step.children = _by_start(step.children)
            for child in step.children:
                child.depth = step.depth + 1
        return trace

    def _new(self, data: Mapping[str, Any], identity: str, kind: StepKind, name: str, **more: Any) -> Step:
        cause = more.pop("cause", data.get("causation_id"))
        identity = identity or f"(without an id: {len(self._order)})"
        start = more.pop("start", None) or instant_of(data)
        step = Step(identity, kind, name or "?", data, str(cause) if cause else None, start, **more)
        if identity not in self._steps:  # what has been logged twice is one
            self._steps[identity] = step
            self._order.append(step)
        return step

    def _command_started(self, data: Mapping[str, Any], command: Mapping[str, Any]) -> None:
        identity, name = _text(command, "command_id"), _text(command, "command_type")
        step = self._steps.get(identity)
        if step is None:
            cause = command.get("causation_id")
            step = self._new(command, identity, StepKind.COMMAND, name, cause=cause, start=instant_of(data))
        elif not step.data.get("command_type"):  # its span was logged before it
            step.name, step.data, step.cause = name, command, command.get("causation_id")
        self._steps[_text(data, "event_id")] = step

    def _command_ended(self, data: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        identity = _text(result, "command_id")
        step = self._steps.get(identity)
        if step is None:
            step = self._new(data, identity, StepKind.COMMAND, "command", cause=None)
            step.start = None
        step.end = step.end or instant_of(data)
        if not result.get("success"):
            step.error = str(result.get("error") or "failed")
        self._steps[_text(data, "event_id")] = step

    def _span(self, data: Mapping[str, Any], span: Mapping[str, Any]) -> None:
        identity, name = _text(span, "span_id"), _text(data, "name")
        step = self._steps.get(identity)
        if step is None and name.startswith("Command ") and data.get("causation_id"):
            command = str(data["causation_id"])
            step = self._steps.get(command)
            if step is None:
                step = self._new(data, command, StepKind.COMMAND, name.removeprefix("Command "), cause=None)
        elif step is None:
            step = self._new(data, identity, StepKind.SPAN, name)
        self._steps[identity] = self._steps[_text(data, "event_id")] = step
        step.within = _text(span, "parent_span_id") or None
        step.start = instant_of(data, "start_time") or step.start
        step.end = instant_of(data, "end_time") or step.end
        if data.get("status") == "ERROR" and step.error is None:
            step.error = str(_dict(data.get("attributes")).get("error") or "failed")

    def _model_asked(self, data: Mapping[str, Any]) -> None:
        ended, took = instant_of(data), _duration(data.get("duration"))
        start = ended - timedelta(seconds=took) if ended is not None and took is not None else None
        step = self._new(data, _text(data, "event_id"), StepKind.MODEL, _text(data, "model"), start=start)
        step.end = ended
        step.error = _text(data, "error") or None

    def _tool_ended(self, data: Mapping[str, Any]) -> None:
        step = self._tools.pop((_text(data, "engine_id"), _text(data, "tool_call_id")), None)
        ended, took = instant_of(data), _duration(data.get("duration"))
        if step is None:
            start = ended - timedelta(seconds=took) if ended is not None and took is not None else None
            step = self._new(data, _text(data, "event_id"), StepKind.TOOL, _text(data, "tool_name"), start=start)
        elif step.start is not None and took is not None:
            ended = step.start + timedelta(seconds=took)  # it is told when those asked for before it have ended as well
        step.end = ended
        if data.get("execution_succeed") is False:
            step.error = str(data.get("tool_result") or "failed")
        self._steps[_text(data, "event_id")] = step


def _below(steps: Iterable[Step]) -> Iterator[Step]:
    pending = list(steps)
    while pending:
        step = pending.pop()
        yield step
        pending.extend(step.children)


def _by_start(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: step.start.timestamp() if step.start is not None else 0.0)


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _duration(value: object) -> float | None:
    return value if isinstance(value, int | float) and 0 <= value < 1e9 else None
