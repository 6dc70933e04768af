"""The rows of the table: what is measured, in which unit, and the goal."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import measurements
from contestants import CONTESTANTS
from measurements import Figures, Size


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    title: str
    """May name the fields of a `Size` in braces."""
    unit: str
    goal: float | None = None
    """The most that LLMgine may need."""
    least: bool = False
    """More is better, and the goal the least."""
    ratio: bool = False
    """The goal, and every contestant's figure, is a multiple of the limit of the same round."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One process per contestant and round, and what comes of it."""

    name: str
    measure: Callable[[Any, Size], Awaitable[Figures]]
    """Takes a contestant."""
    figures: tuple[Figure, ...]
    package: str = "contestants"
    """Where the contestants are."""
    contestants: Sequence[str] = CONTESTANTS


ROWS = (
    Row(
        name="execute",
        measure=measurements.execute,
        figures=(Figure(name="execute", title="execute, one handler", unit="µs", goal=0.5, ratio=True),),
    ),
    Row(
        name="execute-built",
        measure=measurements.execute_built,
        figures=(Figure(name="execute-built", title="execute, message already built", unit="µs", goal=0.9),),
    ),
    Row(
        name="publish",
        measure=measurements.publish,
        figures=(Figure(name="publish", title="publish and wait, one handler", unit="µs", goal=0.5, ratio=True),),
    ),
    Row(
        name="fan-out",
        measure=measurements.fan_out,
        figures=(Figure(name="fan-out", title="one event, 10 handlers", unit="µs", goal=1.0, ratio=True),),
    ),
    Row(
        name="burst",
        measure=measurements.burst,
        figures=(Figure(name="burst", title="burst of {burst:,}, then drain", unit="µs", goal=0.55, ratio=True),),
    ),
    Row(
        name="concurrency",
        measure=measurements.concurrency,
        figures=(
            Figure(name="concurrency", title="{tasks} tasks × {commands} commands", unit="µs", goal=0.6, ratio=True),
            Figure(name="p99", title="— latency, 99th percentile", unit="µs", goal=1.3, ratio=True),
        ),
    ),
    Row(
        name="sessions",
        measure=measurements.sessions,
        figures=(
            Figure(name="sessions", title="publish, {sessions:,} sessions against 10", unit="×", goal=1.05),
            Figure(name="session-register", title="— register a session's handler", unit="µs", goal=3.0),
            Figure(name="session-end", title="— end a session", unit="µs", goal=3.0),
        ),
    ),
    Row(
        name="log",
        measure=measurements.log,
        figures=(Figure(name="log", title="publish, with a log of every event", unit="µs", goal=1.3, ratio=True),),
    ),
    Row(
        name="queued-memory",
        measure=measurements.queued_memory,
        figures=(Figure(name="queued-memory", title="memory, {queued:,} queued events", unit="MB", goal=30.0),),
    ),
    Row(
        name="growth",
        measure=measurements.growth,
        figures=(Figure(name="growth", title="— growth over {processed:,} processed", unit="MB", goal=1.0),),
    ),
    Row(
        name="import",
        measure=measurements.importing,
        figures=(
            Figure(name="import", title="import", unit="ms", goal=50.0),
            Figure(name="third-party", title="— packages beyond the standard library", unit="", goal=0.0),
        ),
    ),
    Row(
        name="idle",
        measure=measurements.idle,
        figures=(
            Figure(name="idle", title="event on an idle bus → handled (wall clock)", unit="µs", goal=1.3, ratio=True),
        ),
    ),
)
