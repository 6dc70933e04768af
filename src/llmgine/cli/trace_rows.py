"""The rows in which a tree of steps is shown; many small events in a row share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmgine.cli.log_text import Summaries, clock, duration, fields_of, one_line, said_of_call
from llmgine.observability.log_chain import Chain
from llmgine.observability.log_trace import Step, StepKind, Trace

__all__ = ["Row", "facts_of", "rows_of", "said_by"]

_FOLD = 3
"""From so many on, events of one class that follow each other and caused nothing share a row."""
_SESSIONS = 3
_GUIDE = 60
"""Characters of guide lines; of what is nested deeper, the lines near it are shown."""


@dataclass(frozen=True, slots=True)
class Row:
    """A step, or several events alike."""

    steps: Sequence[Step]
    guide: str
    """The lines that lead to it from above, such as `│  ├─ `."""
    guide_below: str
    """Those that go on below it."""

    @property
    def step(self) -> Step:
        """The step, or the first of them."""
        return self.steps[0]

    @property
    def last(self) -> Step:
        """The step, or the last of them."""
        return self.steps[-1]

    @property
    def name(self) -> str:
        """What to call it."""
        return self.step.name if len(self.steps) == 1 else f"{self.step.name} × {len(self.steps)}"


def rows_of(trace: Trace) -> Iterator[Row]:
    """Give the rows of a trace from the top to the bottom."""
    pending = [Row(steps, "", "│  " if steps[0].children else "   ") for steps in _folded(trace.roots)][::-1]
    while pending:
        row = pending.pop()
        yield row
        below = _folded(row.step.children)
        outer = row.guide_below[:-3]
        children: list[Row] = []
        for number, steps in enumerate(below, 1):
            is_last = number == len(below)
            inner = (outer + ("   " if is_last else "│  "))[-_GUIDE:]
            guide = (outer + ("└─ " if is_last else "├─ "))[-_GUIDE:]
            children.append(Row(steps, guide, inner + ("│  " if steps[0].children else "   ")))
        pending.extend(reversed(children))


def facts_of(chain: Chain, trace: Trace) -> str:
    """Return how many events a trace has, how long it took, of which sessions and when it began."""
    count = len(chain.events)
    of = f" of {count + chain.left_out}" if chain.left_out else ""
    sessions = sorted({str(event["session_id"]) for event in chain.events if event.get("session_id")})
    shown = ", ".join(sessions[:_SESSIONS]) + (f" and {len(sessions) - _SESSIONS} more" if sessions[_SESSIONS:] else "")
    date = "" if trace.start is None else f"{trace.start.astimezone():%Y-%m-%d} {clock(trace.start)}"
    facts = (f"{count}{of} event{'' if count == 1 else 's'}", duration(trace.seconds), f"session {shown}", date)
    return one_line(" · ".join(facts))


def said_by(step: Step) -> str:
    """Return what a step says besides its name and its error, on one line."""
    if step.kind is StepKind.EVENT:
        said = Summaries().of(step.data)
        return said if step.error is None else said.removesuffix(one_line(step.error)).rstrip(": ")
    if step.kind is StepKind.TOOL:
        return one_line(str(step.data.get("arguments") or ""))
    if step.kind is StepKind.MODEL:
        return _said_of_call(step)
    if step.kind is StepKind.SPAN:
        attributes = step.data.get("attributes")
        return one_line(fields_of(attributes)) if isinstance(attributes, dict) else ""
    if step.kind is StepKind.MISSING:
        return one_line(step.id)
    return one_line(fields_of(step.data)) if "command_type" in step.data else ""


def _said_of_call(step: Step) -> str:
    try:
        return "" if step.error is not None else one_line(said_of_call(step.data))
    except (KeyError, TypeError):
        return ""  # an event of this name in another shape


def _folded(steps: Sequence[Step]) -> list[Sequence[Step]]:
    folded: list[Sequence[Step]] = []
    for name, group in groupby(steps, key=lambda step: step.name if _is_small(step) else None):
        alike = list(group)
        if name is not None and len(alike) >= _FOLD:
            folded.append(alike)
        else:
            folded.extend([step] for step in alike)
    return folded


def _is_small(step: Step) -> bool:
    return step.kind is StepKind.EVENT and not step.children and step.error is None
