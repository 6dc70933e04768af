"""What `llmgine dlq` understands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from llmgine.cli.options import (
    All,
    BusSpec,
    CommandType,
    Db,
    DryRun,
    JsonLines,
    JsonObject,
    Last,
    LetterId,
    LetterIds,
    Schema,
    Session,
    Since,
    Yes,
    command_group,
)

__all__ = ["dlq"]

dlq = command_group("Look at commands that failed for good, mend them, and try them again.")


@dlq.command("list")
def dlq_list(
    *,
    command_type: CommandType = None,
    session: Session = None,
    since: Since = None,
    last: Last = None,
    json: JsonLines = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """List dead letters: commands that failed in all their attempts, the oldest first.

    At a terminal they are a table; in a pipe, lines with tabs between id, type, session, date, attempts and error.

    Example: llmgine dlq list --type PlaceOrder --since 2h
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.dlq import run_dlq_list

    use_database(db, schema)
    return partial(run_dlq_list, command_type=command_type, session=session, since=since, last=last, as_json=json)


@dlq.command("show")
def dlq_show(letter: LetterId, *, json: JsonObject = False, db: Db = None, schema: Schema = None) -> Callable[[], int]:
    """Show everything about one dead letter: fields, error, attempts, dates and traceback.

    Example: llmgine dlq show 18e9bed903c2af
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.dlq import run_dlq_show

    use_database(db, schema)
    return partial(run_dlq_show, letter, as_json=json)


@dlq.command("retry")
def dlq_retry(
    bus: BusSpec,
    letters: LetterIds = None,
    *,
    command_type: CommandType = None,
    every: All = False,
    dry_run: DryRun = False,
    json: JsonObject = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Execute commands that failed again, one after another, on the bus of their application.

    Letters whose commands succeed are forgotten; the others are kept, with the new
    error. Exits with 1 if any failed.

    The module is imported and its bus is started, so its code runs: it also
    delivers scheduled events that are due.

    --db is where the application keeps things too, unless it names a database itself.

    Example: llmgine dlq retry my_app:bus --type PlaceOrder --dry-run
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.dlq_retry import run_dlq_retry
    from llmgine.cli.letters import LetterChoice

    use_database(db, schema)
    choice = LetterChoice(ids=tuple(letters or ()), type=command_type, all=every)
    return partial(run_dlq_retry, bus, choice, dry_run=dry_run, as_json=json)


@dlq.command("edit")
def dlq_edit(
    letter: LetterId,
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=JSON",
            help="Give a field this value. May be repeated. Without it, the fields are opened in $VISUAL or $EDITOR.",
        ),
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE", help="Import this module, or FILE.py, and see whether its class takes the values."
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back the fields with which the command failed.")] = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Change the fields of a command that failed, before it is tried again.

    What makes no sense changes nothing. The fields with which it failed are kept, and --undo brings them back.

    Example: llmgine dlq edit 18e9bed903c2af --set count=3 --set 'item="tea"'
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.dlq_edit import EditOptions, run_dlq_edit

    use_database(db, schema)
    return partial(run_dlq_edit, EditOptions(identity=letter, settings=tuple(settings or ()), app=app, undo=undo))


@dlq.command("discard")
def dlq_discard(
    letters: LetterIds = None,
    *,
    command_type: CommandType = None,
    every: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: JsonObject = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Forget dead letters for good. Asks first; in a pipe it needs --yes.

    Example: llmgine dlq discard 18e9bed903c2af 18e9bed903c2b0
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.dlq import run_dlq_discard
    from llmgine.cli.letters import LetterChoice

    use_database(db, schema)
    choice = LetterChoice(ids=tuple(letters or ()), type=command_type, all=every)
    return partial(run_dlq_discard, choice, dry_run=dry_run, yes=yes, as_json=json)


@dlq.command("export")
def dlq_export(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file that is not there yet; - for standard output.", show_default=False),
    ],
    *,
    command_type: CommandType = None,
    every: Annotated[bool, typer.Option("--all", help="All that there are, as without --type.")] = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Write dead letters to a file, each as a JSON object on a line of its own. They are kept all the same.

    Example: llmgine dlq export --type PlaceOrder letters.jsonl
    """
    from llmgine.cli.database import use_database
    from llmgine.cli.dlq import run_dlq_export
    from llmgine.cli.letters import LetterChoice

    use_database(db, schema)
    return partial(run_dlq_export, target, LetterChoice(type=command_type, all=every or command_type is None))
