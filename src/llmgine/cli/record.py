"""`llmgine record`: a prompt as `llmgine chat` answers it, written down so that it can be run again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmgine.bus import MessageBus
from llmgine.cli.client import Chat, MemoryStore, reply
from llmgine.cli.failure import ExitCode
from llmgine.cli.mcp_connect import servers_beside
from llmgine.cli.models import Model, open_model
from llmgine.cli.plain import AnswerAlone, JsonLines
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import notice, say, warn
from llmgine.cli.tool_specs import check_tool_options, tool_functions
from llmgine.errors import ConfigurationError
from llmgine.llm.engine import LLMResponseEvent, PromptFailedEvent
from llmgine.llm.recording import RecordingProvider
from llmgine.llm.recording.file import PromptRun, Recording
from llmgine.messages import Event
from llmgine.observability.redact import redact

__all__ = ["Outcome", "RecordOptions", "open_chat", "run_record"]


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What the command line asked for."""

    file: str
    question: str
    model: str | None = None
    tools: tuple[str, ...] = ()
    mcp: str | None = None
    no_tools: bool = False
    system: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        check_tool_options(self.tools, self.mcp, no_tools=self.no_tools)
        if not self.question.strip():
            msg = "nothing was asked: the question is empty"
            raise ConfigurationError(msg)


class Outcome:
    """Looks at the events of a run for what comes of it."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self.error: str | None = None

    def look_at(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, LLMResponseEvent):
            self.answer = event.text
        elif isinstance(event, PromptFailedEvent):
            self.error = event.error


def run_record(options: RecordOptions) -> int:
    """Answer the question, and record how; return the exit code.

    Raises:
        LLMgineError: it could not begin.
    """
    _check_replaceable(options.file)
    return asyncio.run(until_stopped(_run(options)))


@asynccontextmanager
async def open_chat(functions: list[Callable[..., Any]], system: str | None, mcp: str | None) -> AsyncGenerator[Chat]:
    """Bring up a bus with a conversation on it, which is kept nowhere and has no model yet."""
    async with AsyncExitStack() as stack:
        bus = MessageBus.isolated()
        await bus.start()
        stack.push_async_callback(bus.stop)
        session = await stack.enter_async_context(bus.create_session())
        chat = Chat(bus, session.session_id, MemoryStore(), functions=functions, system=system)
        await stack.enter_async_context(servers_beside(chat.tools, mcp, bus))
        stack.push_async_callback(chat.aclose)
        yield chat


async def _run(options: RecordOptions) -> int:
    out = sys.stdout
    on_screen = out.isatty() and not options.json
    question = options.question.encode(errors="surrogateescape").decode(errors="replace").strip()
    with ExitStack() as stack:
        if not on_screen:
            stack.enter_context(redirect_stdout(sys.stderr))  # what a tool prints is no part of the answer
        functions = tool_functions(options.tools, builtin=not options.no_tools)
        model = await open_model(options.model)
        try:
            recording = stack.enter_context(RecordingProvider(model.provider, options.file, redact=redact))
        except ConfigurationError:
            await model.provider.aclose()
            raise
        outcome = Outcome()
        async with open_chat(functions, options.system, options.mcp) as chat:
            chat.tools = recording.tools(chat.tools)
            await chat.use(Model(recording, model.choice))
            notice(str(model))
            code = await _ask(chat, question, outcome, options, None if on_screen else out)
        if code == ExitCode.INTERRUPTED:
            recording.discard()
            warn("stopped: nothing is recorded")
            return code
        run = PromptRun(question, options.system, not options.no_tools, outcome.answer, outcome.error)
        recording.prompt_has_ended(run)
    say(f"recorded in {options.file}")
    return code


async def _ask(chat: Chat, question: str, outcome: Outcome, options: RecordOptions, out: Any) -> ExitCode:
    """Ask, and show what comes as `llmgine chat` does.

    Args:
        chat: whom.
        question: what.
        outcome: looks on.
        options: say how it is shown.
        out: where programs read it; None at a terminal.
    """

    def shown_by(show: Callable[[Event], object]) -> Callable[[Event], object]:
        def both(event: Event) -> None:
            outcome.look_at(event)
            show(event)

        return both

    if out is not None:
        face = JsonLines(out) if options.json else AnswerAlone(out)
        return await reply(chat, question, shown_by(face.show))
    from rich.console import Console

    from llmgine.cli.reply import ReplyView

    async with ReplyView(Console()) as view:
        return await reply(chat, question, shown_by(view.show))


def _check_replaceable(file: str) -> None:
    """Refuse to write over anything but a recording."""
    if Path(file).exists():
        try:
            Recording.load(file)
        except ConfigurationError as error:
            msg = f"{file} is there already and is no recording; it is left as it is. Give the file another name."
            raise ConfigurationError(msg) from error
