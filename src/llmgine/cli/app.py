"""What `llmgine` understands, and how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from llmgine import __version__
from llmgine.cli.approvals_app import approvals
from llmgine.cli.dlq_app import dlq
from llmgine.cli.failure import ExitCode, debugging, explain
from llmgine.cli.mcp_app import mcp
from llmgine.cli.options import (
    Correlation,
    EachEvent,
    EventTypes,
    JsonLines,
    Last,
    LogDir,
    McpFile,
    ModelAsInChat,
    NoTools,
    Session,
    Since,
    SystemPrompt,
    Until,
)
from llmgine.cli.stderr import forward_log, warn
from llmgine.cli.stored_app import events, replay, schedule

__all__ = ["app", "run"]

app = typer.Typer(
    help="LLMgine: talk to language models over a message bus, with tools.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)

_Path = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="The log: a file, or the folder of its files; logs/ here if it is left out. Compressed files are read "
        "too.",
        show_default=False,
    ),
]
_Identity = Annotated[
    str, typer.Argument(metavar="ID", help="The id of an event or a command, or as much of it as no other begins with.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmgine {__version__}")
        raise typer.Exit


@app.callback()
def llmgine(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def chat(
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            help="Ask this, print the answer and exit. Without it: a conversation at the terminal, or the question "
            "from standard input.",
        ),
    ] = None,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="PROVIDER:NAME",
            help="Who answers: openai:NAME, local:smollm2, local:/path/to.gguf, scripted:FILE.json.",
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            "-s",
            metavar="NAME",
            help="Keep the conversation under this name, and go on with it if there is one. It is kept in the "
            "database that LLMGINE_DB_URL names, or else in your data folder.",
        ),
    ] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE[:FUNCTION]",
            help="Let the model use this function, or all public functions of a module or FILE.py, besides the "
            "built-in calculator, clock and file reader. May be repeated.",
        ),
    ] = None,
    mcp_file: McpFile = None,
    no_tools: NoTools = False,
    system: SystemPrompt = None,
    json: EachEvent = False,
    log_dir: LogDir = None,
) -> Callable[[], int]:
    """Talk to a language model that can use tools.

    Which model answers, the first of these that there is:

    1. the one named with --model
    2. the one named in LLMGINE_MODEL
    3. a provider whose key is in the environment: OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server
    4. a local server that answers: Ollama or llama.cpp
    5. a small demonstration model, fetched once (about 100 MB), that runs in this process
    """
    from llmgine.cli.chat import ChatOptions, run_chat

    options = ChatOptions(
        question=question,
        model=model,
        session=session,
        tools=tuple(tools or ()),
        mcp=mcp_file,
        no_tools=no_tools,
        system=system,
        json=json,
        log_dir=log_dir,
    )
    return partial(run_chat, options)


@app.command()
def resume(
    session: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="The name that llmgine chat had with --session.", show_default=False),
    ],
    *,
    model: ModelAsInChat = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE[:FUNCTION]", help="The tools that it was begun with, as for llmgine chat."),
    ] = None,
    mcp_file: McpFile = None,
    no_tools: NoTools = False,
    system: SystemPrompt = None,
    json: EachEvent = False,
    log_dir: LogDir = None,
) -> Callable[[], int]:
    """Go on with a question that llmgine chat was answering in a session when it was killed.

    What the model has said and what tools have returned is known, and is not asked for again. A tool that was running
    runs again only if it is declared to read or to be idempotent; of any other, the model is told that it may have run.

    Example: llmgine resume trip --tools booking.py
    """
    from llmgine.cli.chat import ChatOptions, run_resume

    options = ChatOptions(
        model=model,
        session=session,
        tools=tuple(tools or ()),
        mcp=mcp_file,
        no_tools=no_tools,
        system=system,
        json=json,
        log_dir=log_dir,
    )
    return partial(run_resume, options)


@app.command()
def record(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Where to, as JSON lines that only you can read. A recording that is there is replaced.",
            show_default=False,
        ),
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.", show_default=False)],
    *,
    model: ModelAsInChat = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE[:FUNCTION]", help="Let the model use these too, as for llmgine chat."),
    ] = None,
    mcp_file: McpFile = None,
    no_tools: NoTools = False,
    system: SystemPrompt = None,
    json: EachEvent = False,
) -> Callable[[], int]:
    """Answer a question as llmgine chat does, and record it for llmgine replay-run.

    The recording holds the whole conversation: what was asked, every piece of the replies, what tools returned. It
    holds no keys; what looks like a secret is taken out of everything but what the model itself says.

    Example: llmgine record weather.jsonl "Is it cold in Oslo?" --tools weather.py
    """
    from llmgine.cli.record import RecordOptions, run_record

    options = RecordOptions(
        file=file,
        question=question,
        model=model,
        tools=tuple(tools or ()),
        mcp=mcp_file,
        no_tools=no_tools,
        system=system,
        json=json,
    )
    return partial(run_record, options)


@app.command("replay-run")
def replay_run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What llmgine record made.", show_default=False)],
    *,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE[:FUNCTION]", help="The tools that it was recorded with; they are offered, and not run."
        ),
    ] = None,
    mcp_file: Annotated[
        str | None,
        typer.Option(
            "--mcp",
            metavar="FILE",
            help="The MCP servers that it was recorded with; they are started and asked for their tools, which do not "
            "run.",
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: file, model, prompt, requests, answer, error, difference (null, or where, "
            "recorded, now, text).",
        ),
    ] = False,
) -> Callable[[], int]:
    """Run a recorded prompt again without the network, and show the first difference; exit with 1 if there is one.

    The engine is today's; the model and the tools say what they said when it was recorded.

    Example: llmgine replay-run weather.jsonl --tools weather.py
    """
    from llmgine.cli.replay_run import run_replay_run

    return partial(run_replay_run, file, tuple(tools or ()), mcp_file, as_json=json)


@app.command()
def describe(
    bus: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:BUS]",
            help="The module, or FILE.py, and what the bus is called in it: a MessageBus, or a function that returns "
            "one; 'bus' if it is left out. Modules are looked for in the working folder first.",
            show_default=False,
        ),
    ],
    *,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: sessions, command_middleware, event_middleware, filters, observers, commands, "
            "events, patterns, unhandled_commands, unheard_events.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a command has no handler in any scope.")
    ] = False,
) -> Callable[[], int]:
    """Show who handles what on the bus of an application.

    For each command and event: its handlers, in which session and in which order
    they run, and the middleware around them. Then the command and event classes
    that have been imported and that nobody handles.

    The module is imported, so its code runs. Handlers that are registered later,
    such as by sessions that begin while the application runs, are not seen.

    Installed code is shown by its full name alone; --json has the file and the
    line of everything.
    """
    from llmgine.cli.describe import run_describe

    return partial(run_describe, bus, as_json=json, check=check)


@app.command()
def logs(
    path: _Path = "logs",
    *,
    session: Session = None,
    types: EventTypes = None,
    correlation: Correlation = None,
    caused_by: Annotated[
        str | None, typer.Option(metavar="ID", help="Caused by the message with this id, or one that begins so.")
    ] = None,
    since: Since = None,
    until: Until = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="With this text in a name or a value, upper and lower case as given."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(
            "--level", "-l", metavar="LEVEL", help="This bad or worse: debug, info, warning, error, critical."
        ),
    ] = None,
    last: Last = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Show the last 10, or --last, and then each new one until Ctrl-C."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the lines as they were written.")] = False,
) -> Callable[[], int]:
    """Show the events of a log.

    At a terminal they are a table; in a pipe, lines with tabs between date, level, type, session, id and summary.

    Example: llmgine logs --since 15m --level warning
    """
    from llmgine.cli.logs import LogsOptions, run_logs

    options = LogsOptions(
        path=path,
        session=session,
        types=tuple(types or ()),
        correlation_id=correlation,
        causation_id=caused_by,
        since=since,
        until=until,
        text=text,
        level=level,
        last=last,
        follow=follow,
        json=json,
    )
    return partial(run_logs, options)


@app.command()
def stats(
    path: _Path = "logs",
    *,
    session: Annotated[str | None, typer.Option("--session", "-s", metavar="ID", help="Only this session.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before this: 15m, 2h, 3d ago, today, 2026-05-04T13:30.")
    ] = None,
    until: Until = None,
    by: Annotated[
        str | None, typer.Option(metavar="session", help="Add a table with a row for each: session is all there is.")
    ] = None,
    prices: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='What models cost, as TOML: tables such as ["openai:gpt-5"] with the prices of a million tokens, '
            "input and output. Without it no cost is known.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object; durations are in seconds.")] = False,
) -> Callable[[], int]:
    """Add up a log: events, errors, how long commands took, tokens and what they cost.

    Example: llmgine stats --since today --by session
    """
    from llmgine.cli.stats import StatsOptions, run_stats

    options = StatsOptions(path=path, session=session, since=since, until=until, by=by, prices=prices, json=json)
    return partial(run_stats, options)


@app.command()
def trace(
    identity: _Identity,
    path: _Path = "logs",
    *,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the steps, causes before what they caused.")
    ] = False,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write it to this file instead, as one page for a browser.")
    ] = None,
) -> Callable[[], int]:
    """Show everything that one command or event led to, as a tree beside a time line.

    The id may also be that of any other event of the chain: it is always shown from its beginning.

    Example: llmgine trace 18e9b63c5f5a4a --html trace.html
    """
    from llmgine.cli.trace import run_trace

    return partial(run_trace, identity, path, as_json=json, html=html)


@app.command()
def why(
    identity: _Identity,
    path: _Path = "logs",
    *,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the steps, the first cause first.")
    ] = False,
) -> Callable[[], int]:
    """Show what led to one event or command, from the first cause down to it.

    Example: llmgine why 18e9b63c60a250
    """
    from llmgine.cli.why import run_why

    return partial(run_why, identity, path, as_json=json)


@app.command()
def breakers(
    path: _Path = "logs",
    *,
    json: JsonLines = False,
) -> Callable[[], int]:
    """Show the circuit breakers of an application, as its log tells them: state, since when, and what opened them.

    Example: llmgine breakers --json
    """
    from llmgine.cli.breakers import run_breakers

    return partial(run_breakers, path, as_json=json)


app.add_typer(approvals, name="approvals")
app.add_typer(dlq, name="dlq")
app.add_typer(mcp, name="mcp")
app.add_typer(schedule, name="schedule")
app.add_typer(events, name="events")
app.command()(replay)


@app.command()
def new(
    path: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The application's name, and the folder that is made for it; its path, if it is to be elsewhere. "
            "Lower-case letters, digits and _.",
            show_default=False,
        ),
    ],
) -> Callable[[], int]:
    """Make a new application: one that runs, and whose tests pass.

    It has settings, a command with its handler, a service that does the work,
    an event, a log of everything that happens, and tests; its README tells what
    is where. A folder that holds something is left as it is.

    Example: llmgine new my_app && cd my_app && python main.py
    """
    from llmgine.cli.new import run_new

    return partial(run_new, path)


def run() -> int:
    """Do what the command line asks; return the exit code. Nothing is raised, and no more than a line said of it."""
    forward_log(verbose=debugging())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the locale has no place for a model's characters
    try:
        chosen: Callable[[], int] | int | None = app(prog_name="llmgine", standalone_mode=False)
        # Not run inside Typer, which has an opinion of its own on interrupts and broken pipes.
        return chosen() if callable(chosen) else chosen or ExitCode.OK
    except BrokenPipeError:
        return 141  # whoever read our output has gone: the same as dying of SIGPIPE
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the boundary: whatever happens becomes a line and an exit code
        line, code = _explain(error)
        warn(line)
        return code
    finally:
        _flush()


def _explain(error: Exception) -> tuple[str, int]:
    # Typer's own errors: of a Click that is installed in older versions, of one that is built in since.
    usage: Any = error
    if hasattr(usage, "format_message"):
        context = getattr(usage, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return f"{usage.format_message()}{hint}", usage.exit_code
    return explain(error)


def _flush() -> None:
    """Write out what is buffered, here rather than at the interpreter's exit, which would complain of a broken pipe."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):
        with suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
