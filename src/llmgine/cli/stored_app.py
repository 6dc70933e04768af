"""What `llmgine` understands about scheduled events, and about the log of events in a database."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from llmgine.cli.options import (
    BusSpec,
    Correlation,
    Db,
    DryRun,
    EventTypes,
    JsonLines,
    JsonObject,
    Last,
    Schema,
    Session,
    Since,
    Until,
    Yes,
    command_group,
)

__all__ = ["events", "replay", "schedule"]

schedule = command_group("Look at events that wait for their time, and cancel them.")
events = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")


@schedule.command("list")
def schedule_list(
    *,
    session: Session = None,
    first: Annotated[int | None, typer.Option("--first", "-n", min=0, help="Only the next so many of them.")] = None,
    json: JsonLines = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """List the events that wait for their time, those first that are due first.

    At a terminal they are a table; in a pipe, lines with tabs between date, type, session, repetition, id and summary.

    Example: llmgine schedule list --session alice
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.schedule import run_schedule_list

    use_database(db, schema)
    return partial(run_schedule_list, session=session, limit=first, as_json=json)


@schedule.command("cancel")
def schedule_cancel(
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID", help="Ids of events, or as much of each as no other begins with.", show_default=False
        ),
    ],
    *,
    dry_run: DryRun = False,
    json: JsonObject = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Forget scheduled events, unless they are being delivered just now.

    Example: llmgine schedule cancel 18e9bed903c2af
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.schedule import run_schedule_cancel

    use_database(db, schema)
    return partial(run_schedule_cancel, ids, dry_run=dry_run, as_json=json)


@events.callback()
def events_show(
    context: typer.Context,
    *,
    session: Session = None,
    types: EventTypes = None,
    since: Since = None,
    until: Until = None,
    correlation: Correlation = None,
    last: Last = None,
    json: JsonLines = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int] | None:
    """Show the log of events in the database, which LLMGINE_PERSIST_EVENTS=1 has an application write.

    It looks as that of llmgine logs does, which reads the log in files.

    Example: llmgine events --session alice --since 2h
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.events import EventsOptions, run_events

    use_database(db, schema)
    if (name := context.invoked_subcommand) is not None:
        if session or types or since or until or correlation or last is not None or json:
            msg = f"Options of events itself choose what is shown; those of {name} come after {name}."
            raise typer.BadParameter(msg)
        return None
    options = EventsOptions(
        session=session,
        types=tuple(types or ()),
        since=since,
        until=until,
        correlation_id=correlation,
        last=last,
        json=json,
    )
    return partial(run_events, options)


@events.command("prune")
def events_prune(
    *,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Delete what was published before this: 30d, 12w ago, or a date."),
    ] = None,
    keep: Annotated[int | None, typer.Option(metavar="NUMBER", min=1, help="Keep so many, the latest.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many would go.")] = False,
    yes: Yes = False,
    json: JsonObject = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Delete the oldest events of the log in the database. Asks first; in a pipe it needs --yes.

    Example: llmgine events prune --older-than 30d
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.events import run_events_prune

    use_database(db, schema)
    return partial(run_events_prune, older_than=older_than, keep=keep, dry_run=dry_run, yes=yes, as_json=json)


def replay(
    bus: BusSpec,
    *,
    session: Session = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", "-t", metavar="TYPE", help="Of this class: OrderPlacedEvent. May be repeated."),
    ] = None,
    since: Since = None,
    until: Until = None,
    handlers: Annotated[
        list[str] | None,
        typer.Option(
            "--handler", metavar="NAME", help="Run only this one, by its name in llmgine describe. May be repeated."
        ),
    ] = None,
    allow_tools: Annotated[bool, typer.Option("--allow-tools", help="Let handlers use tools once more.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which handlers would run on how many.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --dry-run, one on each line.")
    ] = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Run an application's handlers again on events of its log, in the order in which these were published.

    The events are not published again: only the handlers see them. But what handlers
    publish, execute and write is real, so name those that are meant.

    The module is imported and its bus is started, so its code runs. Exits with 1 if
    a handler failed.

    Example: llmgine replay my_app:bus --session alice --handler my_app.count_orders --dry-run
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.replay import ReplayOptions, run_replay

    use_database(db, schema)
    options = ReplayOptions(
        bus=bus,
        session=session,
        types=tuple(types or ()),
        since=since,
        until=until,
        handlers=tuple(handlers or ()),
        allow_tools=allow_tools,
        dry_run=dry_run,
        json=json,
    )
    return partial(run_replay, options)
