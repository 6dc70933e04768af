"""`llmgine mcp call`: one call of one tool of a server, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

from llmgine.bus import MessageBus
from llmgine.cli.approval_question import ApprovalQuestions
from llmgine.cli.failure import ExitCode
from llmgine.cli.mcp_arguments import typed_arguments
from llmgine.cli.mcp_connect import Waiting, connected, waiting
from llmgine.cli.mcp_save import save_parts
from llmgine.cli.mcp_target import Target, find_target
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import printable, say, warn
from llmgine.cli.tool_progress import progress_of
from llmgine.errors import ConfigurationError
from llmgine.llm.approvals import Approvals, ToolApprovalCommand
from llmgine.llm.tools import ToolCall
from llmgine.llm.tools.mcp.elicitation import AskPerson
from llmgine.llm.tools.mcp.remote_tool import RemoteTool
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_events import ToolProgressEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import new_id

__all__ = ["CallOptions", "run_mcp_call"]


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """What the command line asked for."""

    target: Target
    tool: str
    pairs: tuple[str, ...] = ()
    arguments: str | None = None
    out: str | None = None
    json: bool = False


def run_mcp_call(options: CallOptions) -> int:
    """Call the tool and print its result; return the exit code.

    Raises:
        ConfigurationError: there is no such server or tool, or the arguments do not fit.
        MCPConnectionError: the server does not come up.
    """
    return asyncio.run(until_stopped(_call(options)))


async def _call(options: CallOptions) -> int:
    name, config = find_target(options.target)
    async with connected(name, config) as tools:
        tool = _find(tools, name, options.tool)
        arguments = typed_arguments(options.pairs, options.arguments, tool.json_schema)
        prepared = tools.prepare(ToolCall(id=new_id(), name=tool.name, arguments=json.dumps(arguments)))
        if isinstance(prepared, ToolResult):
            raise ConfigurationError(prepared.content.removeprefix(f"Error executing {tool.name}: "))
        # Whoever calls it here agrees to it: no approval is asked for.
        result = await _run(tools, prepared)
    _show(options, name, result)
    if options.out is not None:
        for path in save_parts(options.out, options.tool, result.value):
            say(f"saved {path}")
    return ExitCode.OK if result.succeeded else ExitCode.FAILURE


def _find(tools: ToolManager, server: str, wanted: str) -> Tool:
    """Return the tool of that name on the server, or of that name here."""
    found = {tool.function.name: tool for tool in tools.tools if isinstance(tool.function, RemoteTool)}
    tool = found.get(wanted) or next((tool for tool in tools.tools if tool.name == wanted), None)
    if tool is None:
        near = get_close_matches(wanted, found)
        hint = f"did you mean {' or '.join(near)}?" if near else f"its tools: {', '.join(found) or 'none'}"
        msg = f"{server} has no tool {wanted!r}; {hint}"
        raise ConfigurationError(msg)
    return tool


async def _run(tools: ToolManager, prepared: PreparedCall) -> ToolResult:
    """Make the call, show its progress, and ask at the terminal what the server asks."""
    bus = MessageBus.isolated()
    await bus.start()
    try:
        with waiting(prepared.tool.name) as line:

            def note(event: ToolProgressEvent) -> None:
                line.tell(progress_of(event))

            bus.register_event_handler(ToolProgressEvent, note)
            with _answering(tools, bus, line):
                return await tools.run_prepared(prepared, ToolContext(bus=bus))
    finally:
        await bus.stop()


@contextmanager
def _answering(tools: ToolManager, bus: MessageBus, line: Waiting) -> Generator[None]:
    """Have whoever is at the terminal answer what the server asks; if nobody is, servers are told so."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    approvals = Approvals(bus)
    questions = ApprovalQuestions(approvals)
    bus.register_command_handler(ToolApprovalCommand, questions.ask)
    tools.mcp.on_elicitation = AskPerson(approvals)
    with questions.beside(line.aside):
        yield


def _show(options: CallOptions, server: str, result: ToolResult) -> None:
    if options.json:
        data = {
            "server": server,
            "tool": options.tool,
            "succeeded": result.succeeded,
            "value": result.value,
            "text": result.content,
            "seconds": round(result.duration, 3),
        }
        print(json.dumps(data, indent=2))  # noqa: T201
    elif result.succeeded:
        text = _readable(result.content)
        sys.stdout.write((printable(text) if sys.stdout.isatty() else text).rstrip("\n") + "\n")
    else:
        warn(result.content)


def _readable(text: str) -> str:
    """Return what a server has written for people; where that is JSON, laid out."""
    try:
        data = json.loads(text)
    except ValueError:
        return text
    return json.dumps(data, indent=2, ensure_ascii=False) if isinstance(data, dict | list) else text
