"""Lists in three forms: a table at a terminal, lines with tabs in a pipe, a JSON object on each line for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from llmgine.cli.log_text import duration, one_line

__all__ = ["Column", "counted", "iso", "local", "print_json", "print_list", "shortest_ids", "until"]

T = TypeVar("T")

_GAP = 2
_LEAST = 12
"""Characters that are left of a column that gives way."""
_SHORT_ID = 14
"""Characters of an id that nearly always tell it from others."""


@dataclass(frozen=True, kw_only=True)
class Column(Generic[T]):
    """What a list says of each thing in one place."""

    title: str
    plain: Callable[[T], object]
    """In a pipe: in full, whatever the width; None and "" become "-"."""
    shown: Callable[[T], Text | str] | None = None
    """At a terminal, where that is to look differently."""
    style: str = ""
    gives_way: bool = False
    """Whether it is cut off where there is no room."""
    right: bool = False


def print_list(
    things: Sequence[T],
    columns: Sequence[Column[T]],
    as_data: Callable[[T], Mapping[str, Any]],
    *,
    as_json: bool,
) -> None:
    """Write a list, a line for each thing.

    Args:
        things: in the order in which they are shown.
        columns: for people.
        as_data: what is said of a thing in JSON.
        as_json: whether that is wanted.
    """
    if as_json:
        for thing in things:
            print_json(as_data(thing))
    elif sys.stdout.isatty():
        _print_table(things, columns)
    else:
        lines = ("\t".join(_cell(column.plain(thing)) for column in columns) + "\n" for thing in things)
        sys.stdout.write("".join(lines))


def print_json(data: Mapping[str, Any]) -> None:
    """Write a JSON object on a line of its own; other characters than ASCII's as escapes, so that none is obeyed."""
    print(json.dumps(data, default=str))  # noqa: T201


def shortest_ids(ids: Iterable[str]) -> Callable[[str], str]:
    """Return what shortens ids so far that those of a list still differ."""
    whole = set(ids)
    length = max(map(len, whole), default=0)
    for short in range(_SHORT_ID, length):
        if len({each[:short] for each in whole}) == len(whole):
            return lambda identity: one_line(identity[:short])
    return one_line


def iso(when: datetime) -> str:
    """Return a date for programs: ISO 8601, UTC."""
    return when.astimezone(UTC).isoformat()


def local(when: datetime) -> str:
    """Return a date for people, here: the time of day if it is today, or else the day, and the time to the minute."""
    here = when.astimezone()
    is_today = here.date() == datetime.now().astimezone().date()
    return f"{here:%H:%M:%S}" if is_today else f"{here:%Y-%m-%d %H:%M}"


def until(when: datetime, now: datetime) -> str:
    """Return how long it is until a moment, or since."""
    seconds = (when - now).total_seconds()
    return f"in {duration(seconds)}" if seconds >= 0 else f"{duration(-seconds)} ago"


def counted(number: int, what: str) -> str:
    """Return a number and what there are so many of: `1 dead letter`, `3 dead letters`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cell(value: object) -> str:
    return one_line(str(value)) or "-" if value is not None else "-"


def _print_table(things: Sequence[T], columns: Sequence[Column[T]]) -> None:
    if not things:
        return
    console = Console(highlight=False)
    rows = [[_shown(column, thing) for column in columns] for thing in things]
    widths = [
        max(cell_len(column.title), *(cell.cell_len for cell in cells))
        for column, cells in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    excess = sum(widths) + _GAP * (len(widths) - 1) - console.width
    grid = Grid(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        grid.add_column(
            column.title,
            style=column.style,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=max(min(width, _LEAST), width - max(0, excess)) if column.gives_way else width,
        )
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def _shown(column: Column[T], thing: T) -> Text:
    value = column.plain(thing) if column.shown is None else column.shown(thing)
    return value if isinstance(value, Text) else Text(one_line(str(value)) if value is not None else "")
