"""A conversation as a client of the bus sees it: commands in, events and results out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from llmgine.bus import MessageBus
from llmgine.bus.effect_records import EffectLedger
from llmgine.cli.failure import ExitCode, explain_result
from llmgine.cli.models import Model
from llmgine.cli.signals import on_signal
from llmgine.cli.stderr import warn
from llmgine.llm.approvals import Approvals, ToolApprovalCommand
from llmgine.llm.context import HistoryStore, StoredChatHistory
from llmgine.llm.engine import ClearHistoryCommand, LLMEngine, LLMResponseEvent, PromptCommand, ResumeCommand
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import FinishReason, LLMMessage
from llmgine.messages import ApprovalResult, Command, CommandResult, Event, SessionID

__all__ = ["Chat", "MemoryStore", "Show", "go_on", "reply"]

Show: TypeAlias = Callable[[Event], object]

_CUT_SHORT = {
    FinishReason.LENGTH: "the reply is not complete: it has reached the model's limit of length",
    FinishReason.CONTENT_FILTER: "the reply is not complete: the provider's content filter has stopped it",
}


class MemoryStore:
    """Keeps conversations until the process ends."""

    def __init__(self) -> None:
        self._messages: dict[str, list[LLMMessage]] = {}

    async def load(self, conversation: str) -> list[LLMMessage]:
        """Return a conversation's messages in order."""
        return list(self._messages.get(conversation, ()))

    async def append(self, conversation: str, messages: Sequence[LLMMessage]) -> None:
        """Add messages to the end of a conversation."""
        self._messages.setdefault(conversation, []).extend(messages)

    async def clear(self, conversation: str) -> None:
        """Forget a conversation."""
        self._messages.pop(conversation, None)


class Chat:
    """One conversation with a model, which can be replaced. All of it is in the store, whatever the model reads of it.

    Args:
        bus: where the engine answers and publishes.
        session_id: the session on the bus, and the conversation's name in the store.
        store: where the conversation is kept.
        functions: what the model may call.
        system: what every model is told first.
        ledger: where it is kept what was begun.
        approvals: who agrees to the calls of tools that need it; by default they are refused.

    Raises:
        ToolRegistrationError: a function cannot be a tool.
    """

    def __init__(
        self,
        bus: MessageBus,
        session_id: SessionID,
        store: HistoryStore,
        *,
        functions: Sequence[Callable[..., Any]] = (),
        system: str | None = None,
        ledger: EffectLedger | None = None,
        approvals: Approvals | None = None,
    ) -> None:
        self._bus = bus
        self._session_id = session_id
        self._store = store
        self._system = system
        self._ledger = ledger
        self.approvals = approvals
        self._engine: LLMEngine | None = None
        self.model: Model | None = None
        self.tools = ToolManager()
        """What the model may use."""
        for function in functions:
            self.tools.register_tool(function)

    async def use(self, model: Model) -> None:
        """Have this model answer from now on, and release the one before.

        Raises:
            StoreError: the conversation cannot be read.
        """
        small = model.provider.name == "local"
        history = StoredChatHistory(self._store, self._session_id, max_chars=6_000 if small else 100_000)
        history.system_prompt = self._system
        await history.load()
        self.tools.max_result_chars = 2_000 if small else 30_000
        self.model = model
        if self._engine is None:
            session = self._session_id
            self._engine = LLMEngine(
                self._bus,
                model.provider,
                tools=self.tools,
                history=history,
                session_id=session,
                ledger=self._ledger,
                approvals=self.approvals,
            )
            return
        before = self._engine.provider
        self._engine.provider, self._engine.history = model.provider, history
        await before.aclose()

    def ask_for_approval(self, ask: Callable[[ToolApprovalCommand], Awaitable[ApprovalResult]]) -> None:
        """Have somebody asked about each call that needs approval."""
        self._bus.register_command_handler(ToolApprovalCommand, ask)

    async def ask(self, question: str, show: Show) -> CommandResult[Any]:
        """Ask, and show each event as it happens. SIGINT stops the reply; what comes of that is shown as well."""
        return await self._follow(PromptCommand(prompt=question, session_id=self._session_id), show)

    async def resume(self, show: Show) -> CommandResult[Any]:
        """Go on with the question that another process was answering when it ended, as `ask` does."""
        return await self._follow(ResumeCommand(session_id=self._session_id), show)

    async def has_begun(self) -> bool:
        """Return whether a process has ended while it answered a question here.

        Raises:
            StoreError: that cannot be told.
        """
        return self._ledger is not None and await self._ledger.open_run(self._session_id) is not None

    async def _follow(self, command: Command[Any], show: Show) -> CommandResult[Any]:
        stream = self._bus.stream(command)
        stopping: set[asyncio.Future[None]] = set()
        with on_signal(signal.SIGINT, lambda: stopping.add(asyncio.ensure_future(stream.aclose()))):
            async with stream:
                async for event in stream:
                    show(event)
        return stream.result

    async def messages(self) -> list[LLMMessage]:
        """Return the whole conversation."""
        return await self._store.load(self._session_id)

    async def reset(self) -> None:
        """Forget the conversation, also in the store."""
        if self._engine is not None:
            await self._engine.clear_history(ClearHistoryCommand(session_id=self._session_id))

    async def aclose(self) -> None:
        """Release the model."""
        if self._engine is not None:
            await self._engine.provider.aclose()


async def reply(chat: Chat, question: str, show: Show) -> ExitCode:
    """Ask on behalf of any face: show the events, and say in a line what went wrong, if something did."""
    return await _shown(lambda look_at: chat.ask(question, look_at), show)


async def go_on(chat: Chat, show: Show) -> ExitCode:
    """Go on with a question on behalf of any face, as `reply` does."""
    return await _shown(chat.resume, show)


async def _shown(answer: Callable[[Show], Awaitable[CommandResult[Any]]], show: Show) -> ExitCode:

    def look_at(event: Event) -> None:
        show(event)
        if isinstance(event, LLMResponseEvent) and event.finish_reason in _CUT_SHORT:
            warn(_CUT_SHORT[event.finish_reason])

    result = await answer(look_at)
    if result.success:
        return ExitCode.OK
    line, code = explain_result(result)
    if code != ExitCode.INTERRUPTED:
        warn(line)
    return code
