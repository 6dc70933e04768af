"""What `llmgine mcp` understands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from llmgine.cli.options import JsonLines, JsonObject, command_group
from llmgine.errors import ConfigurationError

__all__ = ["mcp"]

mcp = command_group("Use the tools of MCP servers, and serve one's own.")

_COMMAND = "llmgine.mcp.command"


class _WithCommand(TyperCommand):
    """A command of ours after which `--` and the command of a server may follow."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[place + 1 :])
            del args[place:]
            if not ctx.meta[_COMMAND]:
                msg = "After -- the command that starts a server is expected, such as: -- uvx mcp-server-time"
                raise typer.BadParameter(msg, ctx=ctx)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [str(each.metavar) for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return [self.options_metavar or "", *arguments, "[-- COMMAND...]"]


def _names(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """Complete the name of a server of the file, where nothing is before it."""
    from llmgine.cli.mcp_target import servers_of

    if ctx.params.get("words"):
        return []
    logging.disable()  # this process does nothing else, and nothing is to be said while somebody types
    try:
        _, servers = servers_of(ctx.params.get("file"), quietly=True)
    except ConfigurationError:
        return []
    return [name for name in servers if name.startswith(incomplete)]


_File = Annotated[
    str | None,
    typer.Option(
        "--file", "-f", metavar="FILE", help="The file with the servers; mcp.json here, or else .mcp.json, without it."
    ),
]
_Headers = Annotated[
    list[str] | None,
    typer.Option("--header", "-H", metavar="NAME: VALUE", help="Sent to a server under a URL. May be repeated."),
]


@mcp.command("list")
def mcp_list(*, file: _File = None, json: JsonLines = False) -> Callable[[], int]:
    """Connect to all servers of a file at the same time, and show what they are; exit with 1 if one does not come up.

    At a terminal they are a table; in a pipe, lines with tabs between name, state, the server's version, that of the
    protocol, the number of tools, and what went wrong.

    Example: llmgine mcp list --file mcp.json
    """
    from llmgine.cli.mcp_list import run_mcp_list

    return partial(run_mcp_list, file, as_json=json)


@mcp.command("inspect", cls=_WithCommand)
def mcp_inspect(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Argument(metavar="[SERVER]", help="Its name in the file, or its URL.", autocompletion=_names),
    ] = None,
    *,
    file: _File = None,
    headers: _Headers = None,
    json: JsonObject = False,
) -> Callable[[], int]:
    """Show everything that a server offers: tools and their parameters, resources, prompts.

    The server is one of the file, one under a URL, or one that a command after -- starts.

    Example: llmgine mcp inspect git

    Example: llmgine mcp inspect https://example.com/mcp

    Example: llmgine mcp inspect -- uvx mcp-server-time
    """
    from llmgine.cli.mcp_inspect import run_mcp_inspect
    from llmgine.cli.mcp_target import Target

    command = context.meta.get(_COMMAND, ())
    if command and server is not None:
        msg = f"Either {server} or the command after -- is the server: leave one out."
        raise typer.BadParameter(msg)
    target = Target(server=server, command=command, headers=tuple(headers or ()), file=file)
    return partial(run_mcp_inspect, target, as_json=json)


@mcp.command("call", cls=_WithCommand)
def mcp_call(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SERVER] TOOL [KEY=VALUE]...",
            help="The server's name in the file, or its URL; none with a command after --. Then the tool, by its name "
            "on the server, and its arguments: texts as they are, anything else as JSON.",
            autocompletion=_names,
            show_default=False,
        ),
    ],
    *,
    arguments: Annotated[
        str | None, typer.Option("--args", metavar="JSON", help="The arguments as one JSON object instead; - reads it.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Save images, sounds and files of the result in this folder.")
    ] = None,
    file: _File = None,
    headers: _Headers = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: server, tool, succeeded, value, text, seconds.")
    ] = False,
) -> Callable[[], int]:
    """Call a tool and print what it returns; exit with 1 if it fails. Ctrl-C cancels it.

    Example: llmgine mcp call time get_current_time timezone=Europe/Oslo

    Example: llmgine mcp call git git_add repo_path=. files='["a.py", "b.py"]'

    Example: llmgine mcp call get_current_time timezone=UTC -- uvx mcp-server-time
    """
    from llmgine.cli.mcp_call import CallOptions, run_mcp_call
    from llmgine.cli.mcp_target import Target

    command = context.meta.get(_COMMAND, ())
    server = None if command else words.pop(0)
    if not words or "=" in words[0]:
        msg = "Name the tool after the server: llmgine mcp call time get_current_time timezone=UTC"
        raise typer.BadParameter(msg)
    tool, *pairs = words
    target = Target(server=server, command=command, headers=tuple(headers or ()), file=file)
    options = CallOptions(target=target, tool=tool, pairs=tuple(pairs), arguments=arguments, out=out, json=json)
    return partial(run_mcp_call, options)


@mcp.command("serve")
def mcp_serve(
    tools: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:TOOLS]",
            help="The module, or FILE.py, and what is served of it: a ToolManager, a server made by "
            "create_llmgine_mcp_server, or a function. Without a name it is 'tools', or all public functions.",
            show_default=False,
        ),
    ],
    *,
    http: Annotated[
        bool, typer.Option("--http", help="Answer over HTTP; else on standard input and output, for one client.")
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="With --http: where to listen, 127.0.0.1 by default; beyond this machine with a token."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="With --http: 8000 by default; 0 is any that is free.", min=0, max=65535),
    ] = None,
    token_env: Annotated[
        str | None,
        typer.Option(
            "--token-env",
            metavar="VARIABLE",
            help="With --http: the environment variable that holds the token which clients must send.",
        ),
    ] = None,
) -> Callable[[], int]:
    """Be an MCP server whose tools are those of an application.

    The module is imported, so its code runs. What it prints goes to standard error.

    Example: llmgine mcp serve my_app:tools

    Example: llmgine mcp serve my_app:tools --http --host 0.0.0.0 --token-env MCP_TOKEN
    """
    from llmgine.cli.mcp_serve import ServeOptions, run_mcp_serve

    options = ServeOptions(spec=tools, http=http, host=host, port=port, token_env=token_env)
    return partial(run_mcp_serve, options)
