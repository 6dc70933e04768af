"""Arguments and options that several commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "All",
    "BusSpec",
    "CommandType",
    "Correlation",
    "Db",
    "DryRun",
    "EachEvent",
    "EventTypes",
    "JsonLines",
    "JsonObject",
    "Last",
    "LetterId",
    "LetterIds",
    "LogDir",
    "McpFile",
    "ModelAsInChat",
    "NoTools",
    "Schema",
    "Session",
    "Since",
    "SystemPrompt",
    "Until",
    "Yes",
    "command_group",
]

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="The database; what LLMGINE_DB_URL names, or else sqlite:///./message_bus.db, if it is left out.",
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="NAME",
        help="How its tables are grouped; by default LLMGINE_DB_SCHEMA, or else message_bus.",
    ),
]
ModelAsInChat = Annotated[
    str | None, typer.Option("--model", "-m", metavar="PROVIDER:NAME", help="Who answers, as for llmgine chat.")
]
McpFile = Annotated[
    str | None,
    typer.Option(
        "--mcp",
        metavar="FILE",
        help="Let the model use the tools of the MCP servers in this file, too, such as mcp.json.",
    ),
]
NoTools = Annotated[bool, typer.Option("--no-tools", help="Let the model use no tools, not even the built-in ones.")]
SystemPrompt = Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told first.")]
LogDir = Annotated[str | None, typer.Option(metavar="DIR", help="Log every event to a JSONL file there.")]
EachEvent = Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print a JSON object on each line.")]
JsonObject = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Session = Annotated[str | None, typer.Option("--session", "-s", metavar="ID", help="Of this session.")]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Not before this: 15m, 2h, 3d ago, today, yesterday, 2026-05-04T13:30."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before this.")]
EventTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        "-t",
        metavar="TYPE",
        help="Of this class, or of this event name, in which * stands for one part and ** at the end for any rest: "
        "CommandErrorEvent, 'tool.**'. May be repeated.",
    ),
]
Correlation = Annotated[
    str | None, typer.Option(metavar="ID", help="Of the chain with this id, or one that begins so.")
]
Last = Annotated[int | None, typer.Option("--last", "-n", min=0, help="Only the last so many of them.")]
CommandType = Annotated[
    str | None,
    typer.Option("--type", "-t", metavar="TYPE", help="Of this class of commands: PlaceOrderCommand, or PlaceOrder."),
]
LetterId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The id of the command, or as much of it as no other begins with.", show_default=False
    ),
]
LetterIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID", help="Ids of commands, or as much of each as no other begins with.", show_default=False
    ),
]
All = Annotated[bool, typer.Option("--all", help="All that there are.")]
BusSpec = Annotated[
    str,
    typer.Argument(
        metavar="MODULE[:BUS]",
        help="The application's module, or FILE.py, and what its bus is called there: a MessageBus, or a function that "
        "returns one; 'bus' if it is left out.",
        show_default=False,
    ),
]


def command_group(text: str) -> typer.Typer:
    """Return commands that share a name; by itself that shows their help."""
    group = typer.Typer(help=text, invoke_without_command=True, rich_markup_mode="rich")
    group.callback()(_show_help)
    return group


def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
