"""`llmgine chat` and `llmgine resume`: options, put together to a conversation on the bus and a face to show it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from llmgine.bus import MessageBus
from llmgine.bus.approval_records import ApprovalStore
from llmgine.bus.effect_records import EffectLedger
from llmgine.cli.client import Chat, MemoryStore, Show, go_on, reply
from llmgine.cli.failure import ExitCode
from llmgine.cli.folders import data_folder
from llmgine.cli.mcp_connect import servers_beside
from llmgine.cli.models import open_model
from llmgine.cli.plain import AnswerAlone, JsonLines
from llmgine.cli.signals import until_stopped
from llmgine.cli.stderr import notice, say, warn
from llmgine.cli.tool_specs import check_tool_options, tool_functions
from llmgine.errors import ConfigurationError
from llmgine.llm.approvals import Approvals
from llmgine.llm.context import HistoryStore
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers import SyncFileEventHandler

if TYPE_CHECKING:
    from llmgine.cli.approval_question import ApprovalQuestions

__all__ = ["ChatOptions", "run_chat", "run_resume"]

_SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_Answer: TypeAlias = Callable[[Chat, Show], Awaitable[ExitCode]]
"""What is done with a conversation, on behalf of any face."""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What the command line asked for."""

    question: str | None = None
    model: str | None = None
    session: str | None = None
    tools: tuple[str, ...] = ()
    mcp: str | None = None
    no_tools: bool = False
    system: str | None = None
    log_dir: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.session is not None and not _SESSION_NAME.fullmatch(self.session):
            msg = f"--session {self.session!r}: expected up to 64 letters, digits, '.', '_', '-'; no sign first"
            raise ConfigurationError(msg)
        check_tool_options(self.tools, self.mcp, no_tools=self.no_tools)


def run_chat(options: ChatOptions) -> int:
    """Answer one question, or hold a conversation at a terminal; return the exit code.

    Raises:
        LLMgineError: it could not begin.
    """
    question = _question(options)
    if question is None:
        return asyncio.run(until_stopped(_run(options, None)))
    return asyncio.run(until_stopped(_run(options, lambda chat, show: reply(chat, question, show))))


def run_resume(options: ChatOptions) -> int:
    """Go on with the question that was being answered in a session when its process ended; return the exit code.

    Raises:
        LLMgineError: it could not begin.
    """
    return asyncio.run(until_stopped(_run(options, go_on, resumes=True)))


def _question(options: ChatOptions) -> str | None:
    """Return what was asked; None if it is to be asked at the terminal."""
    if options.question is not None:
        question = options.question.encode(errors="surrogateescape").decode(errors="replace").strip()
    elif sys.stdin is not None and sys.stdin.isatty():
        if sys.stdout.isatty() and not options.json:
            return None
        msg = 'nothing was asked: without a terminal to talk on, give a question: llmgine chat "…"'
        raise ConfigurationError(msg)
    else:
        question = sys.stdin.buffer.read().decode(errors="replace").strip() if sys.stdin is not None else ""
    if not question:
        msg = "nothing was asked: the question is empty"
        raise ConfigurationError(msg)
    return question


async def _run(options: ChatOptions, answer: _Answer | None, *, resumes: bool = False) -> int:
    """Do what is asked with a conversation; None is to hold it at the terminal."""
    out = sys.stdout
    on_screen = out.isatty() and not options.json
    somebody_there = on_screen and sys.stdin is not None and sys.stdin.isatty()
    with ExitStack() as stack:
        if not on_screen:
            stack.enter_context(redirect_stdout(sys.stderr))  # what a tool prints is no part of the answer
        async with _open_chat(options, asks=somebody_there) as chat:
            has_begun = await chat.has_begun()
            if resumes and not has_begun:
                say(f"nothing is to be resumed in session '{options.session}': every question has ended")
                return ExitCode.OK
            if has_begun and not resumes:
                warn(
                    f"session '{options.session}' has a question whose answer was broken off. 'llmgine resume "
                    f"{options.session}' goes on with it; the next question gives it up"
                )
            await chat.use(await open_model(options.model))
            questions: ApprovalQuestions | None = None
            if chat.approvals is not None:
                from llmgine.cli.approval_question import ApprovalQuestions

                questions = ApprovalQuestions(chat.approvals)
                chat.ask_for_approval(questions.ask)
            if answer is None:
                from llmgine.cli.terminal import Terminal

                await Terminal(chat, questions).converse()
                return ExitCode.OK
            notice(str(chat.model))
            if on_screen:
                from rich.console import Console

                from llmgine.cli.reply import ReplyView

                async with ReplyView(Console(), questions) as view:
                    return await answer(chat, view.show)
            face = JsonLines(out) if options.json else AnswerAlone(out)
            return await answer(chat, face.show)


@asynccontextmanager
async def _open_chat(options: ChatOptions, *, asks: bool) -> AsyncGenerator[Chat]:
    """Bring up the bus, the log, the tools and the conversation; take them, and the model, down in good order.

    Args:
        options: what is wanted.
        asks: whether there is somebody to ask for approval.
    """
    functions = tool_functions(options.tools, builtin=not options.no_tools)
    async with AsyncExitStack() as stack:
        bus = MessageBus.isolated()
        if options.log_dir is not None:
            bus.set_observability_manager(stack.enter_context(closing(_open_log(options.log_dir))))
        await bus.start()
        stack.push_async_callback(bus.stop)
        store: HistoryStore = MemoryStore()
        ledger: EffectLedger | None = None
        requests: ApprovalStore | None = None
        if options.session is not None:
            from llmgine.database.history_store import DatabaseHistoryStore
            from llmgine.database.stores import Database

            url = os.environ.get("LLMGINE_DB_URL") or f"sqlite:///{data_folder() / 'chats.db'}"
            store = conversations = DatabaseHistoryStore(url)
            stack.push_async_callback(conversations.aclose)
            if url.startswith(("sqlite", "postgres")):  # conversations alone can be kept elsewhere, too
                database = Database(url)
                ledger, requests = database.ledger, database.approvals
                stack.push_async_callback(database.aclose)
        session = await stack.enter_async_context(bus.create_session(options.session))
        approvals = Approvals(bus, requests, look_every=1.0) if asks else None
        chat = Chat(
            bus,
            session.session_id,
            store,
            functions=functions,
            system=options.system,
            ledger=ledger,
            approvals=approvals,
        )
        await stack.enter_async_context(servers_beside(chat.tools, options.mcp, bus))
        if messages := await chat.messages():
            notice(f"Session '{options.session}' goes on: {len(messages)} messages so far")
        stack.push_async_callback(chat.aclose)
        yield chat


def _open_log(folder: str) -> ObservabilityManager:
    manager = ObservabilityManager()
    try:
        handler = SyncFileEventHandler(folder)
    except OSError as error:
        msg = f"--log-dir {folder}: no log can be written there ({error.strerror})"
        raise ConfigurationError(msg) from error
    manager.register_handler(handler)
    say(f"every event is logged to {handler.log_file}")
    return manager
