"""`llmgine stats`: what a log adds up to, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from llmgine.bus.histogram import Histogram
from llmgine.cli.log_text import clock, duration, one_line, size
from llmgine.cli.logs import log_files, report
from llmgine.cli.progress import Progress
from llmgine.errors import ConfigurationError
from llmgine.llm.prices import PriceTable
from llmgine.observability.log_files import LogFile
from llmgine.observability.log_filter import LogFilter, instant_of, parse_time
from llmgine.observability.log_reader import LogReader
from llmgine.observability.log_stats import LogStats, Price, Table, WorkStats

__all__ = ["StatsOptions", "read_prices", "run_stats"]

_TOP = 15
"""Rows of a table for people; JSON has as many as were counted."""

_TABLES = ("types", "errors", "commands", "tools", "spans", "models", "sessions")


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    """What the command line asks for; times are texts."""

    path: str
    since: str | None = None
    until: str | None = None
    session: str | None = None
    by: str | None = None
    prices: str | None = None
    json: bool = False


def run_stats(options: StatsOptions) -> int:
    """Print what a log adds up to; return the exit code.

    Raises:
        ConfigurationError: there is no such log, or the options or the prices make no sense.
    """
    if options.by not in {None, "session"}:
        msg = f"--by {options.by}: expected session"
        raise ConfigurationError(msg)
    now = datetime.now().astimezone()
    wanted = LogFilter(
        session=options.session,
        since=None if options.since is None else parse_time(options.since, now),
        until=None if options.until is None else parse_time(options.until, now),
    )
    prices = {} if options.prices is None else read_prices(Path(options.prices).expanduser())
    files = log_files(Path(options.path).expanduser())
    stats = LogStats(prices, by_session=options.by is not None)
    with Progress(files) as progress:
        reader = LogReader(files, wanted, progress.advance)
        for line in reader:
            stats.add(line.data)
    stats.finish()
    if options.json:
        answer = _as_json(stats, files, reader.broken)
        print(json.dumps(answer, indent=2))  # noqa: T201
    else:
        _Page(stats, files).print()
    return report(reader)


def read_prices(path: Path) -> dict[str, Price]:
    """Read what models cost; see `PriceTable.parse`.

    Raises:
        ConfigurationError: there is no such file, or it is something else.
    """
    return {name: Price(float(price.input), float(price.output)) for name, price in PriceTable.read(path).items()}


class _Page:
    def __init__(self, stats: LogStats, files: list[LogFile]) -> None:
        self._stats = stats
        self._files = files
        self._console = Console(highlight=False)

    def print(self) -> None:
        stats, seconds = self._stats, self._stats.seconds
        files = self._files
        read = f"{len(files)} file{'' if len(files) == 1 else 's'}, {size(sum(file.size for file in files))}"
        self._console.print(Text(f"{stats.events:,} events, {stats.errors_total:,} errors", "bold"))
        if seconds:
            read += f" · {_rate(stats.events, seconds)}"
        self._console.print(Text(read, "dim"))
        if stats.first:
            begin, end = instant_of({"timestamp": stats.first}), instant_of({"timestamp": stats.last})
            self._console.print(Text(f"{_moment(begin)} to {_moment(end)} · {duration(seconds)}", "dim"))
        self._types(seconds)
        self._errors()
        self._work("Commands", stats.commands)
        self._work("Tools", stats.tools)
        self._work("Spans", stats.spans)
        self._models()
        self._sessions()

    def _types(self, seconds: float) -> None:
        grid = _grid("Events", "count", "share", "rate")
        for name, row in self._stats.types.top(_TOP):
            grid.add_row(
                _name(name), f"{row.count:,}", f"{row.count / self._stats.events:.1%}", _rate(row.count, seconds)
            )
        self._show(grid, self._stats.types)

    def _errors(self) -> None:
        grid = _grid("Errors", "count", "last")
        for _, row in self._stats.errors.top(_TOP):
            name = _name(row.event_type, "red").append(f" {one_line(row.message)}", "default")
            grid.add_row(name, f"{row.count:,}", _moment(instant_of({"timestamp": row.last})))
        self._show(grid, self._stats.errors)

    def _work(self, title: str, table: Table[WorkStats]) -> None:
        grid = _grid(title, "count", "failed", "p50", "p95", "p99")
        for name, row in table.top(_TOP):
            failed = Text(f"{row.failed:,}", "red" if row.failed else "dim")
            grid.add_row(_name(name), f"{row.count:,}", failed, *_percentiles(row.durations))
        self._show(grid, table)

    def _models(self) -> None:
        grid = _grid("Models", "answers", "requests", "input", "output", "p50", "cost")
        unpriced: list[str] = []
        for name, row in self._stats.models.top(_TOP):
            cost = Text("no price", "yellow") if row.cost is None else f"{row.cost:,.4f}"
            tokens = f"{row.input_tokens:,}", f"{row.output_tokens:,}"
            counts = f"{row.count:,}", f"{row.requests:,}"
            grid.add_row(_name(name), *counts, *tokens, _percentiles(row.durations)[0], cost)
            if row.cost is None:
                unpriced.append(one_line(name))
        self._show(grid, self._stats.models)
        if unpriced:
            text = f"No price is known for {', '.join(unpriced)}. Give it with --prices FILE."
            self._console.print(Text(text, "dim"))

    def _sessions(self) -> None:
        table = self._stats.sessions
        if table is None:
            return
        roomy = self._console.width >= 100
        grid = _grid(
            "Sessions", "events", "errors", "commands", "tokens", "cost", "lasted", *(("first",) if roomy else ())
        )
        for name, row in table.top(_TOP):
            first, last = (instant_of({"timestamp": stamp}) for stamp in (row.first, row.last))
            lasted = "" if first is None or last is None else duration((last - first).total_seconds())
            cost = f"{row.cost:,.4f}" if not row.unpriced else "no price" if not row.cost else f"> {row.cost:,.4f}"
            errors = Text(f"{row.errors:,}", "red" if row.errors else "dim")
            tokens = row.input_tokens + row.output_tokens
            when = (_moment(first),) if roomy else ()
            spent = (f"{tokens:,}", cost) if tokens else ("", "")
            grid.add_row(_name(name), f"{row.count:,}", errors, f"{row.commands:,}", *spent, lasted, *when)
        self._show(grid, table)

    def _show(self, grid: Grid, table: Table[Any]) -> None:
        if not grid.row_count:
            return
        others, count = table.rest(_TOP)
        if others:
            grid.add_row(Text(f"{others} others", "dim"), Text(f"{count:,}", "dim"))
        self._console.print()
        self._console.print(grid)


def _grid(title: str, *columns: str) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column(title, overflow="ellipsis", min_width=12)  # the one that gives way where there is no room
    for column in columns:
        grid.add_column(column, justify="right", no_wrap=True)
    return grid


def _name(name: str, style: str = "") -> Text:
    return Text(one_line(name), style, no_wrap=True, overflow="ellipsis")


def _moment(when: datetime | None) -> str:
    return "" if when is None else f"{when.astimezone():%Y-%m-%d} {clock(when)[:8]}"


def _rate(count: int, seconds: float) -> str:
    if not seconds:
        return ""
    for name, unit in (("s", 1), ("min", 60), ("h", 3600)):
        rate = count / seconds * unit
        if rate >= 1 or name == "h":
            return f"{rate:,.1f}/{name}"
    return ""


def _percentiles(durations: Histogram) -> tuple[str, ...]:
    values: Mapping[str, float | None] = durations.snapshot()["percentiles"]
    return tuple("" if value is None else duration(value) for value in values.values())


def _as_json(stats: LogStats, files: list[LogFile], broken: int) -> dict[str, Any]:
    seconds = stats.seconds
    answer: dict[str, Any] = {
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "events": stats.events,
        "errors_total": stats.errors_total,
        "broken_lines": broken,
        "first": stats.first or None,
        "last": stats.last or None,
        "seconds": seconds,
        "events_per_second": stats.events / seconds if seconds else None,
        "types": {
            name: {"count": row.count, "per_second": row.count / seconds if seconds else None}
            for name, row in _all(stats.types)
        },
        "errors": [
            {"event_type": row.event_type, "message": row.message, "count": row.count, "last": row.last}
            for _, row in _all(stats.errors)
        ],
    }
    for name, table in (("commands", stats.commands), ("tools", stats.tools), ("spans", stats.spans)):
        answer[name] = {
            key: {"count": row.count, "failed": row.failed, **_seconds(row.durations)} for key, row in _all(table)
        }
    answer["models"] = {
        name: {
            "answers": row.count,
            "requests": row.requests,
            "failed_requests": row.failed,
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens,
            "cost": row.cost,
            **_seconds(row.durations),
        }
        for name, row in _all(stats.models)
    }
    if stats.sessions is not None:
        answer["sessions"] = {
            name: {
                "events": row.count,
                "errors": row.errors,
                "commands": row.commands,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "cost": None if row.unpriced else row.cost,
                "first": row.first or None,
                "last": row.last or None,
            }
            for name, row in _all(stats.sessions)
        }
    tables: dict[str, Table[Any] | None] = {name: getattr(stats, name) for name in answer if name in _TABLES}
    answer["left_out"] = {
        name: {"rows": table.given_up, "count": table.given_up_count}
        for name, table in tables.items()
        if table is not None and table.given_up
    }
    return answer


def _all(table: Table[Any]) -> list[tuple[str, Any]]:
    return table.top(len(table.rows))


def _seconds(durations: Histogram) -> dict[str, float | None]:
    snapshot = durations.snapshot()
    return {
        "total_seconds": snapshot["sum"],
        **{f"{name}_seconds": value for name, value in snapshot["percentiles"].items()},
    }
