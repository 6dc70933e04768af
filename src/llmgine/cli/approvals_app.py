"""What `llmgine approvals` understands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from llmgine.cli.options import Db, JsonLines, JsonObject, Schema, Session, command_group

__all__ = ["approvals"]

approvals = command_group("Look at tool calls that wait for somebody's approval, and approve or deny them.")

_RequestId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The id of the request, or as much of it as no other begins with.", show_default=False
    ),
]
_Reason = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why. The model is told why not.")]


@approvals.command("list")
def approvals_list(
    *,
    session: Session = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that were answered, or have ended.")] = False,
    json: JsonLines = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """List the requests that wait for an answer, the oldest first.

    At a terminal they are a table; in a pipe, lines with tabs between id, tool, session, date, time of expiry, state
    and arguments. What looks like a secret is not shown.

    Example: llmgine approvals list --session alice
    """
    from llmgine.cli.approvals import run_approvals_list
    from llmgine.cli.database import use_database

    use_database(db, schema)
    return partial(run_approvals_list, session=session, every=every, as_json=json)


@approvals.command("show")
def approvals_show(
    request: _RequestId, *, json: JsonObject = False, db: Db = None, schema: Schema = None
) -> Callable[[], int]:
    """Show everything about one request: the tool, its arguments, who asks, and what has become of it.

    Example: llmgine approvals show 18e9bed903c2af
    """
    from llmgine.cli.approvals import run_approvals_show
    from llmgine.cli.database import use_database

    use_database(db, schema)
    return partial(run_approvals_show, request, as_json=json)


@approvals.command("approve")
def approvals_approve(
    request: _RequestId,
    *,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            "--answer",
            "-a",
            metavar="NAME=VALUE",
            help="What is asked for besides yes, as llmgine approvals show describes it. May be repeated; of several "
            "choices, once for each. Without it you are asked for each field at a terminal, and elsewhere their "
            "defaults are taken.",
        ),
    ] = None,
    reason: _Reason = "",
    json: JsonObject = False,
    db: Db = None,
    schema: Schema = None,
) -> Callable[[], int]:
    """Let one call run, once, with exactly the arguments that are shown. An application that waits notices soon.

    What an MCP server asks during a call is answered in the same way: with yes alone where it names a page for you to
    visit, with what it asks for where that is a form.

    Example: llmgine approvals approve 18e9bed903c2af --answer seats=2
    """
    from llmgine.cli.approvals import run_approvals_decide
    from llmgine.cli.database import use_database

    use_database(db, schema)
    return partial(run_approvals_decide, request, approve=True, reason=reason, as_json=json, settings=answer or ())


@approvals.command("deny")
def approvals_deny(
    request: _RequestId, *, reason: _Reason = "", json: JsonObject = False, db: Db = None, schema: Schema = None
) -> Callable[[], int]:
    """Keep one call from running.

    Example: llmgine approvals deny 18e9bed903c2af --reason "too much"
    """
    from llmgine.cli.approvals import run_approvals_decide
    from llmgine.cli.database import use_database

    use_database(db, schema)
    return partial(run_approvals_decide, request, approve=False, reason=reason, as_json=json)
