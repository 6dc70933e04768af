"""`llmgine replay`: an application's handlers run again on events of its log."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from rich.text import Text

from llmgine.bus import MessageBus
from llmgine.bus.handler_check import name_of
from llmgine.bus.interfaces import EventHandler
from llmgine.bus.registry import HandlerRegistry
from llmgine.bus.replay import ReplayReport, replay
from llmgine.cli.database import check_there
from llmgine.cli.events import class_names
from llmgine.cli.failure import ExitCode
from llmgine.cli.listing import Column, counted, print_json, print_list
from llmgine.cli.progress import Counted
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import notice, say
from llmgine.cli.user_bus import find_bus
from llmgine.errors import ConfigurationError
from llmgine.messages import Event, SessionID
from llmgine.messages.ids import BUS
from llmgine.observability.log_filter import parse_time

__all__ = ["ReplayOptions", "run_replay"]


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What the command line asks for; times are texts."""

    bus: str
    session: str | None = None
    types: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    handlers: tuple[str, ...] = ()
    allow_tools: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True)
class _Pair:
    """What events of a class would be handled by."""

    event_type: str
    handler: str | None
    """None where nobody hears them."""


def run_replay(options: ReplayOptions) -> int:
    """Run handlers again on events of the log, and print what came of it; return the exit code.

    Raises:
        ConfigurationError: there is no such bus or handler, it keeps no log, or the options make no sense.
        StoreError: the log cannot be read.
    """
    now = datetime.now().astimezone()
    since = None if options.since is None else parse_time(options.since, now)
    until = None if options.until is None else parse_time(options.until, now)
    types = class_names(options.types)
    if options.types and not types:
        msg = f"--type {' '.join(options.types)}: replay takes names of event classes, such as OrderPlacedEvent."
        raise ConfigurationError(msg)
    work = _Replay(options, since, until, types)
    with redirect_stdout(sys.stderr):  # what the application prints is no part of the answer
        code = asyncio.run(until_stopped(work.run(find_bus("replay", options.bus))))
    if options.dry_run:
        work.print_plan()
    elif work.report is None:
        say(f"{counted(work.read, 'event')} read before it was stopped")
    elif options.json:
        print_json(asdict(work.report))
    else:
        report = work.report
        runs = f"{counted(report.handled, 'run')} of handlers ended well, {report.failed:,} failed"
        print(f"{counted(report.events, 'event')} read, {runs}")  # noqa: T201
    if not work.read and code == ExitCode.OK:
        notice("the log of events has none of these")
    return code


class _Replay:
    """One replay: what is read, and what becomes of it."""

    def __init__(
        self, options: ReplayOptions, since: datetime | None, until: datetime | None, types: Sequence[str]
    ) -> None:
        self.report: ReplayReport | None = None
        """None until it has come to its end."""
        self.read = 0
        self._options = options
        self._since = since
        self._until = until
        self._types = types
        self._planned: Counter[_Pair] = Counter()
        self._progress = Counted("events", None)

    async def run(self, making: Coroutine[Any, Any, MessageBus]) -> int:
        """Do it, and return the exit code."""
        bus = await making
        try:
            stores = bus._open_stores()
            if stores is None:
                msg = (
                    f"replay {self._options.bus}: its bus keeps no log of events. Give it a database: "
                    "MessageBus(database=…)."
                )
                raise ConfigurationError(msg)
            if bus._kept.database is None:
                check_there()
            handlers = _handlers(self._options, bus._registry)
            session = None if self._options.session is None else SessionID(self._options.session)
            events = self._counted(stores.read_events(session, since=self._since, until=self._until, types=self._types))
            with self._progress, self._progress.among_others():
                if self._options.dry_run:
                    await self._plan(events, bus._registry, handlers)
                    return ExitCode.OK
                await bus.start()
                self.report = await replay(events, bus._registry, handlers, tools=self._options.allow_tools)
                return ExitCode.FAILURE if self.report.failed else ExitCode.OK
        finally:
            await bus.stop()

    def print_plan(self) -> None:
        """Say which handlers would run on how many events."""
        columns = [
            Column[tuple[_Pair, int]](title="EVENT", plain=lambda row: row[0].event_type, style="bold"),
            Column[tuple[_Pair, int]](title="EVENTS", plain=lambda row: row[1], right=True),
            Column[tuple[_Pair, int]](
                title="HANDLER",
                plain=lambda row: row[0].handler,
                shown=lambda row: row[0].handler or Text("nobody", "yellow"),
                gives_way=True,
            ),
        ]
        rows = sorted(self._planned.items(), key=lambda row: (row[0].event_type, row[0].handler or ""))
        print_list(rows, columns, lambda row: {**asdict(row[0]), "events": row[1]}, as_json=self._options.json)

    async def _counted(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        async for event in events:
            self.read += 1
            self._progress.advance()
            yield event

    async def _plan(
        self, events: AsyncIterator[Event], registry: HandlerRegistry, handlers: list[EventHandler] | None
    ) -> None:
        async for event in events:
            kind = type(event)
            hearing = registry.get_event_handlers(kind, event.session_id or BUS)
            heard = [each for each in hearing if handlers is None or each in handlers]
            for each in heard:
                self._planned[_Pair(kind.__name__, name_of(each))] += 1
            if not hearing:
                self._planned[_Pair(kind.__name__, None)] += 1


def _handlers(options: ReplayOptions, registry: HandlerRegistry) -> list[EventHandler] | None:
    """Return the handlers that are named; None if none is, which means all.

    Raises:
        ConfigurationError: there is no handler of a name.
    """
    if not options.handlers:
        return None
    named: dict[str, list[EventHandler]] = {}
    for _, events in registry.registered().values():
        for entries in events.values():
            for entry in entries:
                named.setdefault(name_of(entry.handler), []).append(entry.handler)
    chosen: list[EventHandler] = []
    for asked in options.handlers:
        found = [each for name, those in named.items() if f".{name}".endswith(f".{asked}") for each in those]
        if not found:
            shorts = {name.rpartition(".")[2]: name for name in named}
            near = get_close_matches(asked, [*named, *shorts], n=3, cutoff=0.5)
            meant = dict.fromkeys(shorts.get(each, each) for each in near) or sorted(named)[:5]
            hint = f"Did you mean {' or '.join(meant)}?" if meant else "The bus has no handlers of events."
            msg = f"--handler {asked}: no handler of events is called that. {hint}"
            raise ConfigurationError(msg)
        chosen += found
    return chosen
