"""`llmgine why`: what led to one event or command, from the first cause down to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from llmgine.cli.failure import ExitCode
from llmgine.cli.log_text import clock, duration, one_line
from llmgine.cli.logs import log_files
from llmgine.cli.stderr import warn
from llmgine.cli.trace import ChainReader, explain_search, step_as_json
from llmgine.cli.trace_rows import said_by
from llmgine.observability.log_chain import OpenReader, find_chain, find_message
from llmgine.observability.log_trace import Step, StepKind, build_trace, causes_of

__all__ = ["run_why"]

_SEARCHES = 20
"""How often the log is read for a cause that belongs to another chain."""


def run_why(identity: str, path: str, *, as_json: bool) -> int:
    """Print what led to an event or a command; return the exit code.

    Args:
        identity: its id, or how that begins.
        path: the log.
        as_json: print one JSON object.

    Raises:
        ConfigurationError: there is no such log.
    """
    source = ChainReader(log_files(Path(path).expanduser()))
    with source.progress:
        search = find_chain(identity, source.open, exact=True)
        if search.chain is None:
            return explain_search(identity, search)
        steps = _causes(search.chain.events, search.chain.id, source.open)
    if not steps:
        warn(f"{search.chain.id} is no event and no command; to see everything with this correlation id: llmgine trace")
        return ExitCode.FAILURE
    if as_json:
        answer = {
            "id": search.chain.id,
            "correlation_id": search.chain.correlation_id,
            "complete": all(step.kind is not StepKind.MISSING for step in steps),
            "steps": [step_as_json(step) for step in steps],
        }
        print(json.dumps(answer, indent=2))  # noqa: T201
    else:
        console = Console(highlight=False)
        for lead, text in _lines(steps):
            wrapped = text.wrap(console, max(20, console.width - len(lead))) if console.is_terminal else [text]
            for line in wrapped:
                console.print(Text(lead).append_text(line), soft_wrap=True)
                lead = " " * len(lead)  # noqa: PLW2901  # for what goes on below
    for step in steps:
        if step.kind is StepKind.MISSING:
            warn(f"{step.id} is named as a cause and is not in the log; what led to it is not known")
    return source.report()


def _causes(events: Sequence[dict[str, Any]], identity: str, open_reader: OpenReader) -> list[Step]:
    """Return the causes of a step, the first one first, also those that belong to other chains."""
    trace = build_trace(events)
    steps = causes_of(trace, identity)
    known = list(events)
    for _ in range(_SEARCHES):
        if not steps or steps[0].kind is not StepKind.MISSING:
            break
        elsewhere = find_message(steps[0].id, open_reader)
        if not elsewhere:
            break
        known = sorted([*elsewhere, *known], key=lambda data: str(data.get("timestamp")))
        steps = causes_of(build_trace(known), identity)
    return steps


def _lines(steps: Sequence[Step]) -> Iterator[tuple[str, Text]]:
    """Give lines, each as what stands before it and what may be wrapped."""
    before: datetime | None = None
    for number, step in enumerate(steps, 1):
        if step.kind is StepKind.MISSING:
            yield f"{number:>2}  {'':12}  ", Text(step.name, "yellow").append(f" {one_line(step.id)}", "default")
            continue
        style = "bold red" if step.error is not None else "bold cyan" if step.kind is StepKind.COMMAND else "bold"
        said = said_by(step)
        line = Text.assemble((f"{step.kind.value} ", "dim"), (one_line(step.name), style), f" {said}" if said else "")
        yield f"{number:>2}  {clock(step.start)}  ", line
        facts = [f"id {step.id}", f"session {step.data.get('session_id')}"]
        if step.handler and step.handler not in said:
            facts.append(f"handler {step.handler}")
        if step.seconds is not None:
            facts.append(f"took {duration(step.seconds)}")
        if step.is_unfinished:
            facts.append("its end is not in the log")
        passed = f"+{duration((step.start - before).total_seconds())}" if before and step.start else ""
        yield f"    {passed:<12}  ", Text(one_line(" · ".join(facts)), "dim")
        if step.error is not None:
            yield " " * 18, Text(f"✗ {one_line(step.error)}", "red")
        before = step.start or before
