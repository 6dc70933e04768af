"""`llmgine describe`: who handles what on the bus of an application, for people and as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmgine.bus.routing import CommandHandlerRoute, EventHandlerRoute, Part, Routing, describe_routing
from llmgine.cli.failure import ExitCode
from llmgine.cli.stderr import printable, warn
from llmgine.cli.user_bus import find_bus
from llmgine.messages.ids import BUS

__all__ = ["run_describe"]


def run_describe(spec: str, *, as_json: bool, check: bool) -> int:
    """Print the routing of a bus; return the exit code.

    Args:
        spec: `module:bus`, or a file in place of the module. The bus may be what a function returns, now or later.
        as_json: print a JSON object, the fields of `Routing`.
        check: whether a command without a handler is a failure.

    Raises:
        ConfigurationError: there is no such bus, or the code that makes it raises.
    """
    with redirect_stdout(sys.stderr):  # what the application prints is no part of the answer
        routing = describe_routing(asyncio.run(find_bus("describe", spec)))
    if as_json:
        print(json.dumps(asdict(routing), indent=2))  # noqa: T201
    else:
        console = Console(highlight=False)
        for line in _Page(routing, console.width if sys.stdout.isatty() else sys.maxsize).lines(spec):
            console.print(line, soft_wrap=True)
    if check and (missed := routing.unhandled_commands):
        warn(f"{_count(len(missed), 'command')} without a handler: {', '.join(part.name for part in missed)}")
        return ExitCode.FAILURE
    return ExitCode.OK


@dataclass(frozen=True)
class _Row:
    """A part with what is said before and after it. The rows of a section have their columns in common."""

    lead: Text
    part: Part
    note: str = ""
    style: str = ""


class _Page:
    """A routing as lines for people. Nothing is ever cut off: what does not fit goes to a line of its own."""

    def __init__(self, routing: Routing, width: int) -> None:
        self._routing = routing
        self._width = width
        self._folder = Path.cwd()
        messages = [*routing.unhandled_commands, *routing.unheard_events]
        messages += [route.command for route in routing.commands] + [route.event for route in routing.events]
        seen = Counter(_short(part) for part in messages)
        self._names = {part.name: _short(part) if seen[_short(part)] == 1 else part.name for part in messages}

    def lines(self, title: str) -> Iterator[Text]:
        """Give one line after the other, some of them wrapped."""
        routing = self._routing
        counts = (
            _count(len(routing.commands) + len(routing.unhandled_commands), "command"),
            _count(len(routing.events) + len(routing.unheard_events), "event"),
            _count(len(routing.sessions), "session"),
            _count(routing.observers, "observer"),
        )
        yield Text.assemble((printable(title), "bold"), "  ", (", ".join(counts), "dim"))
        yield from self._section("Command middleware, outermost first", _rows(routing.command_middleware))
        yield from self._section("Commands", self._commands())
        yield from self._section("Event filters, in the order in which they are asked", _rows(routing.filters))
        yield from self._section("Event middleware, outermost first", _rows(routing.event_middleware))
        yield from self._section("Events", self._events())
        yield from self._section("Names that no known event has", self._lost_patterns())
        missed = _rows(routing.unhandled_commands, "bold red")
        yield from self._section("Commands without a handler: executing one fails", missed)
        yield from self._section("Events that nobody hears", _rows(routing.unheard_events, "yellow"))

    def _commands(self) -> Iterator[_Row]:
        routes = self._routing.commands
        names = [self._names[route.command.name] for route in routes]
        column = max(map(len, names), default=0)
        for name, route in zip(names, routes, strict=True):
            for number, each in enumerate(route.handlers):
                lead = Text(f"  {'' if number else name:<{column}}  ", "bold cyan")
                yield _Row(lead, each.handler, self._note(each, route.command.name))

    def _events(self) -> Iterator[_Row | Text]:
        for route in self._routing.events:
            name = self._names[route.event.name]
            yield Text.assemble("  ", (name, "bold cyan"), "  ", (printable(route.event_name), "dim"))
            yield from self._hearers(route.handlers, route.event.name)

    def _lost_patterns(self) -> Iterator[_Row | Text]:
        for route in self._routing.patterns:
            if not route.stands_for:
                yield Text(f"  {printable(route.pattern)}", "yellow")
                yield from self._hearers(route.handlers, route.pattern)

    def _hearers(self, routes: tuple[EventHandlerRoute, ...], heading: str) -> Iterator[_Row]:
        for priority, group in groupby(routes, key=lambda each: each.priority):
            for number, each in enumerate(group):  # those of one priority run concurrently: it is written once
                shown = "" if number else f"{priority:>3} {each.priority_name or ''}"
                yield _Row(Text(f"  {shown:<11}  "), each.handler, self._note(each, heading))

    def _note(self, route: CommandHandlerRoute | EventHandlerRoute, heading: str) -> str:
        key = route.registered_for
        session = "" if route.scope == BUS else f"in session {route.scope}"
        base = "" if key == heading else f"as {self._names.get(key, key)}"
        return printable(", ".join(filter(None, (session, base))))

    def _section(self, title: str, content: Iterable[_Row | Text]) -> Iterator[Text]:
        lines = list(content)
        rows = [line for line in lines if isinstance(line, _Row)]
        shown = [(row.lead.cell_len, *map(len, self._shown(row.part))) for row in rows]
        if not shown:
            return
        yield Text(f"\n{title}", "bold")
        lead, name, place = (max(column) for column in zip(*shown, strict=True))
        columns = (lead, lead + name + 2, lead + name + 2 + (place + 2 if place else 0))
        for line in lines:
            yield line if isinstance(line, Text) else self._line(line, columns)

    def _line(self, row: _Row, columns: tuple[int, int, int]) -> Text:
        line, used = row.lead.copy(), row.lead.cell_len
        cells = zip((*self._shown(row.part), row.note), (row.style, "dim", "italic"), columns, strict=True)
        for text, style, column in cells:
            if not text:
                continue
            gap = max(column - used, 0)
            if used + gap + len(text) > self._width:  # better beside its column than on a line of its own
                gap = min(gap, 2)
            if used + gap + len(text) > self._width and used > columns[0]:
                line.append("\n")
                used, gap = 0, columns[0] + 2
            line.append(" " * gap).append(text, style)
            used += gap + len(text)
        return line

    def _shown(self, part: Part) -> tuple[str, str]:
        """Return a part's name and its place; of what is installed, the full name alone."""
        if part.file is None or part.module.partition(".")[0] == "llmgine" or "site-packages" in Path(part.file).parts:
            return printable(part.name), ""
        file = Path(part.file).resolve()
        if file.is_relative_to(self._folder):
            file = file.relative_to(self._folder)
        return printable(_short(part)), printable(f"{file}:{part.line}")


def _rows(parts: Iterable[Part], style: str = "") -> list[_Row]:
    return [_Row(Text("  "), part, style=style) for part in parts]


def _short(part: Part) -> str:
    return part.name.removeprefix(f"{part.module}.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
