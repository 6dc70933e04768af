"""`llmgine trace`: one chain as a tree, each step beside a bar that shows when it ran and for how long."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from llmgine.cli.failure import ExitCode
from llmgine.cli.log_text import duration, one_line
from llmgine.cli.logs import log_files, report
from llmgine.cli.progress import Progress
from llmgine.cli.stderr import say, warn
from llmgine.cli.trace_html import trace_page
from llmgine.cli.trace_rows import Row, facts_of, rows_of, said_by
from llmgine.observability.log_chain import Chain, Search, find_chain
from llmgine.observability.log_files import LogFile
from llmgine.observability.log_filter import LogFilter
from llmgine.observability.log_reader import LogReader
from llmgine.observability.log_trace import Step, StepKind, Trace, build_trace

__all__ = ["ChainReader", "explain_search", "run_trace", "step_as_json"]

_STYLES = {
    StepKind.COMMAND: "bold cyan",
    StepKind.EVENT: "",
    StepKind.SPAN: "magenta",
    StepKind.TOOL: "yellow",
    StepKind.MODEL: "green",
    StepKind.MISSING: "italic",
}


def run_trace(identity: str, path: str, *, as_json: bool, html: str | None) -> int:
    """Print the chain that an id belongs to; return the exit code.

    Args:
        identity: of an event, a command or the chain, or how it begins.
        path: the log.
        as_json: print one JSON object.
        html: write a page to this file instead.

    Raises:
        ConfigurationError: there is no such log.
        OSError: the page could not be written.
    """
    source = ChainReader(log_files(Path(path).expanduser()))
    with source.progress:
        search = find_chain(identity, source.open)
    if search.chain is None:
        return explain_search(identity, search)
    chain = search.chain
    trace = build_trace(chain.events)
    if html is not None:
        page = Path(html).expanduser()
        page.write_text(trace_page(chain, trace), encoding="utf-8")
        say(f"{page}: {len(chain.events)} events")
    elif as_json:
        print(json.dumps(_as_json(chain, trace), indent=2))  # noqa: T201
    else:
        console = Console(highlight=False)
        for line in _Waterfall(chain, trace, console.width).lines():
            console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    if chain.left_out:
        warn(f"the chain is longer: its last {chain.left_out} events are left out")
    return source.report()


class ChainReader:
    """Reads the same files again and again, each time for something else."""

    def __init__(self, files: Sequence[LogFile]) -> None:
        self._files = files
        self._readers: list[LogReader] = []
        self.progress = Progress(files)

    def open(self, wanted: LogFilter) -> LogReader:
        """Begin to read."""
        self.progress.restart()
        self._readers.append(LogReader(self._files, wanted, self.progress.advance))
        return self._readers[-1]

    def report(self) -> int:
        """Tell what could not be read; return the exit code."""
        return report(max(self._readers, key=lambda reader: (len(reader.problems), reader.broken)))


def explain_search(identity: str, search: Search) -> int:
    """Tell why there is no chain; return the exit code."""
    if search.candidates:
        shown = "\n".join(f"  {each}" for each in search.candidates)
        more = "\n  and others" if search.more else ""
        warn(f"several ids begin with {identity!r}; give more of the one that is meant:\n{shown}{more}")
    else:
        warn(f"no event in the log has an id that begins with {identity!r}")
    return ExitCode.FAILURE


@dataclass(frozen=True)
class _Scale:
    """Where on a line of `width` cells a moment is."""

    trace: Trace
    width: int

    def bar(self, row: Row) -> tuple[str, str]:
        """Return the spaces before a row's bar, and the bar."""
        start = row.step.start or row.step.end
        if self.trace.start is None or start is None:
            return "", ""
        first = self._cell((start - self.trace.start).total_seconds())
        end = row.last.end or (self.trace.end if row.step.is_unfinished else None) or start
        last = max(first, self._cell((end - self.trace.start).total_seconds()))
        if row.step.kind is StepKind.EVENT:
            bar = "•" if first == last else f"•{'·' * (last - first - 1)}•"
        elif row.step.is_unfinished:
            bar = f"{'━' * (last - first)}▶"
        else:
            bar = "━" * (last - first + 1)
        return " " * first, bar

    def _cell(self, seconds: float) -> int:
        total = self.trace.seconds
        return min(self.width - 1, int(seconds / total * self.width)) if total else 0


class _Waterfall:
    def __init__(self, chain: Chain, trace: Trace, width: int) -> None:
        self._chain = chain
        self._trace = trace
        self._rows = [(row, _label(row), _took(row)) for row in rows_of(trace)]
        longest = max((label.cell_len for _, label, _ in self._rows), default=0)
        self._left = min(longest, max(24, width // 2))
        self._took = max((cell_len(took) for _, _, took in self._rows), default=0)
        self._scale = _Scale(trace, max(8, width - self._left - self._took - 4))

    def lines(self) -> Iterator[Text]:
        """Give one line after the other."""
        trace, chain = self._trace, self._chain
        yield Text.assemble((f"Trace {one_line(chain.correlation_id)}", "bold"))
        yield Text(facts_of(chain, trace), "dim")
        total = duration(trace.seconds)
        gap = max(1, self._scale.width - 1 - cell_len(total))
        yield Text(f"{'':{self._left + self._took + 4}}0{' ' * gap}{total}", "dim")
        for row, label, took in self._rows:
            yield self._line(row, label, took)
            if row.step.error is not None:
                yield Text.assemble((row.guide_below, "dim"), (f"✗ {one_line(row.step.error)}", "red"))

    def _line(self, row: Row, label: Text, took: str) -> Text:
        label.truncate(self._left, overflow="ellipsis", pad=True)
        space, bar = self._scale.bar(row)
        style = "red" if row.step.error is not None else _STYLES[row.step.kind].replace("bold ", "")
        label.append(f"  {took:>{self._took}}  ", "yellow" if row.step.is_unfinished else "")
        return label.append(space).append(bar, style)


def _label(row: Row) -> Text:
    step = row.step
    label = Text(row.guide, "dim").append(
        one_line(row.name), f"not dim {'bold red' if step.error is not None else _STYLES[step.kind]}"
    )
    said = said_by(step) if len(row.steps) == 1 else ""
    return label.append(f" {said}" if said else "")


def _took(row: Row) -> str:
    seconds = row.step.seconds
    return "unfinished" if row.step.is_unfinished else "" if seconds is None else duration(seconds)


def _as_json(chain: Chain, trace: Trace) -> dict[str, Any]:
    return {
        "correlation_id": chain.correlation_id,
        "start": None if trace.start is None else trace.start.isoformat(),
        "seconds": trace.seconds,
        "events": len(chain.events),
        "left_out": chain.left_out,
        "steps": [step_as_json(step) for step in trace.walk()],
    }


def step_as_json(step: Step) -> dict[str, Any]:
    """Return a step for JSON; its place in the tree is in `cause` and `depth`."""
    return {
        "id": step.id,
        "kind": step.kind,
        "name": step.name,
        "cause": step.cause,
        "depth": step.depth,
        "start": None if step.start is None else step.start.isoformat(),
        "seconds": step.seconds,
        "unfinished": step.is_unfinished,
        "session_id": step.data.get("session_id"),
        "error": step.error,
        "handler": step.handler,
        "data": step.data,
    }
