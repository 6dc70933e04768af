"""`llmgine logs`: the events of a log, as a table, as tab-separated text, or as they were written."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from time import sleep
from typing import Protocol

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from llmgine.cli.failure import ExitCode
from llmgine.cli.log_text import LEVEL_STYLES, Summaries, clock, one_line
from llmgine.cli.progress import Progress
from llmgine.cli.stderr import notice, warn
from llmgine.errors import ConfigurationError
from llmgine.observability.events import LogLevel
from llmgine.observability.log_files import LogFile, find_logs, former_logs
from llmgine.observability.log_filter import LogFilter, instant_of, level_of, parse_time
from llmgine.observability.log_follow import LogFollower
from llmgine.observability.log_reader import LogLine, LogReader

__all__ = ["LogsOptions", "log_files", "report", "run_logs", "view_of"]

_POLL = 0.3
"""Seconds between two looks at a log that is followed."""
_BEFORE = 10
"""Events that are shown before those that are waited for."""
_BATCH = 200
_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")


@dataclass(frozen=True, kw_only=True)
class LogsOptions:
    """What the command line asks for; times are texts."""

    path: str
    session: str | None = None
    types: tuple[str, ...] = ()
    correlation_id: str | None = None
    causation_id: str | None = None
    since: str | None = None
    until: str | None = None
    text: str | None = None
    level: str | None = None
    last: int | None = None
    follow: bool = False
    json: bool = False


def run_logs(options: LogsOptions) -> int:
    """Print the wanted events of a log; return the exit code.

    Raises:
        ConfigurationError: there is no such log, or the options make no sense.
    """
    now = datetime.now().astimezone()
    wanted = LogFilter(
        session=options.session,
        types=options.types,
        correlation_id=options.correlation_id,
        causation_id=options.causation_id,
        since=None if options.since is None else parse_time(options.since, now),
        until=None if options.until is None else parse_time(options.until, now),
        text=options.text,
        level=None if options.level is None else _level(options.level),
    )
    path = Path(options.path).expanduser()
    if options.follow:
        return _follow(path, wanted, options)
    files = log_files(path)
    summaries = Summaries()
    view = view_of(summaries, as_json=options.json)
    with Progress(files) as progress:
        batch = _Batch(view, progress)
        reader = LogReader(files, wanted, batch.advance, None if options.json else summaries.note)
        for line in reader if options.last is None else reader.last(options.last):
            batch.add(line)
        batch.flush()
    if not batch.count:
        notice("no event matches" if wanted != LogFilter() else "the log is empty")
    return report(reader)


def log_files(path: Path) -> list[LogFile]:
    """Return the files of a log.

    Raises:
        ConfigurationError: there are none.
    """
    files = find_logs(path)
    if not files:
        msg = f"There is no log in the folder {str(path)!r}: no file there is called NAME.jsonl or NAME.jsonl.gz."
        raise ConfigurationError(msg)
    return files


def report(reader: LogReader) -> int:
    """Tell what could not be read; return the exit code."""
    if reader.broken:
        warn(f"{reader.broken} broken line{'s were' if reader.broken > 1 else ' was'} left out")
    for problem in reader.problems:
        warn(f"not read to its end: {problem}")
    return ExitCode.FAILURE if reader.problems else ExitCode.OK


def _level(name: str) -> LogLevel:
    try:
        return LogLevel(name.lower())
    except ValueError as error:
        msg = f"--level {name}: expected one of {', '.join(LogLevel)}"
        raise ConfigurationError(msg) from error


def _follow(path: Path, wanted: LogFilter, options: LogsOptions) -> int:
    if wanted.until is not None:
        msg = "--follow waits for what is still to come, so it cannot be used with --until."
        raise ConfigurationError(msg)
    is_one = path.is_file() or (bool(path.suffix) and path.parent.is_dir() and not path.exists())
    former = former_logs(path) if is_one else []  # first: what is renamed from now on is not one of them
    files = find_logs(path, whole_lines=True) if path.exists() else []
    summaries = Summaries()
    view = view_of(summaries, as_json=options.json)
    with closing(LogFollower(path, [*files, *former])) as follower:
        with Progress(files) as progress:
            reader = LogReader(files, wanted, progress.advance, None if options.json else summaries.note)
            before = reader.last(_BEFORE if options.last is None else options.last)
        view.show(before)
        if not path.exists():
            notice(f"waiting for {path}")
        while True:
            lines = [line for block in follower.poll() for line in reader.search(block)]
            if lines:  # of several files: in the order of their dates
                view.show(sorted(lines, key=lambda line: str(line.data.get("timestamp"))))
            sleep(_POLL)


class _View(Protocol):
    def show(self, lines: Iterable[LogLine]) -> None:
        """Write some events, and have them seen."""


class _Batch:
    """Collects what is found, so that much is written at once and yet nothing is kept back for long."""

    def __init__(self, view: _View, progress: Progress) -> None:
        self.count = 0
        self._view = view
        self._progress = progress
        self._lines: list[LogLine] = []

    def add(self, line: LogLine) -> None:
        self.count += 1
        self._lines.append(line)
        if len(self._lines) >= _BATCH:
            self.flush()

    def advance(self, count: int) -> None:
        self.flush()
        self._progress.advance(count)

    def flush(self) -> None:
        if self._lines:
            self._progress.hide()
            lines, self._lines = self._lines, []
            self._view.show(lines)


def view_of(summaries: Summaries, *, as_json: bool) -> _View:
    """Return what shows events where they are read: as a table, as lines in a pipe, or as JSON."""
    if as_json:
        return _Raw()
    return _Table(summaries) if sys.stdout.isatty() else _Plain(summaries)


class _Raw:
    """Lines as they are. Only at a terminal, the control characters that JSON allows are written as escapes."""

    def __init__(self) -> None:
        self._escape = sys.stdout.isatty()

    def show(self, lines: Iterable[LogLine]) -> None:
        text = b"".join(line.raw.rstrip() + b"\n" for line in lines)
        if self._escape:
            text = _CONTROLS.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), text)
        sys.stdout.buffer.write(text)
        sys.stdout.flush()


class _Plain:
    """One line each: date, level, type, session, id, summary, with tabs between them."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries

    def show(self, lines: Iterable[LogLine]) -> None:
        sys.stdout.write("".join(map(self._row, lines)))
        sys.stdout.flush()

    def _row(self, line: LogLine) -> str:
        data = line.data
        own = (
            data.get("timestamp"),
            level_of(data),
            data.get("event_type"),
            data.get("session_id"),
            data.get("event_id"),
        )
        cells = (*(one_line(str(cell or "-")) for cell in own), self._summaries.of(data))
        return "\t".join(cells) + "\n"


class _Table:
    """A row each, cut to the width of the terminal; ids only where there is room for them."""

    def __init__(self, summaries: Summaries) -> None:
        self._summaries = summaries
        self._console = Console(highlight=False)
        self._day: date | None = None
        self._headed = False

    def show(self, lines: Iterable[LogLine]) -> None:
        roomy = self._console.width >= 100
        type_width, session_width = (22, 10) if roomy else (18, 8)
        rows: list[Text] = []
        if not self._headed:
            self._headed = True
            head = f"{'TIME':12} {'LEVEL':5} {'TYPE':{type_width}} {'SESSION':{session_width}} "
            rows.append(Text(f"{head}{'ID':14} WHAT" if roomy else f"{head}WHAT", "bold"))
        for line in lines:
            data = line.data
            when, level = instant_of(data), level_of(data)
            if when is not None and when.astimezone().date() != self._day:
                self._day = when.astimezone().date()
                rows.append(Text(f"{self._day:%A} {self._day.isoformat()}", "dim"))
            style = LEVEL_STYLES[level]
            row = Text.assemble(
                (clock(when), "dim"),
                f" {_LEVELS[level]} ",
                _cell(str(data.get("event_type") or "-").removesuffix("Event") or "Event", type_width),
                " ",
                (_cell(str(data.get("session_id") or "-"), session_width), "cyan"),
                style=style,
            )
            if roomy:
                row.append(f" {set_cell_size(one_line(str(data.get('event_id') or '-')), 14)}", "dim")
            rows.append(row.append(f" {self._summaries.of(data)}"))
        self._console.print(*rows, sep="\n", no_wrap=True, overflow="ellipsis", crop=True)


_LEVELS = dict(zip(LogLevel, ("debug", "info ", "warn ", "error", "crit "), strict=True))


def _cell(text: str, width: int) -> str:
    text = one_line(text)
    return set_cell_size(text if len(text) <= width else f"{text[: width - 1]}…", width)
