"""The base of engines: a model, tools, and a conversation for each session, on a bus."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeAlias

from llmgine.bus import HandlerPriority, MessageBus
from llmgine.bus.session import SessionEndEvent
from llmgine.errors import EngineBusyError
from llmgine.llm.context.memory import SimpleChatHistory
from llmgine.llm.engine.events import EngineEvent, EngineStatusEvent
from llmgine.llm.engine.run import Run
from llmgine.llm.providers.base import Provider
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.messages import SessionID, new_id
from llmgine.messages.ids import BUS

__all__ = ["Engine", "NewHistory"]

NewHistory: TypeAlias = Callable[[SessionID], SimpleChatHistory]
"""Makes the history of a session that has none yet."""


class Engine:
    """What engines have in common. Derive from it, register handlers, and call `respond` in them.

    One engine serves any number of sessions at the same time, each with a conversation of its own, which is forgotten
    when the session ends. In one conversation, one prompt is answered at a time.

    Args:
        bus: where it publishes.
        provider: the model; it may be replaced between prompts.
        tools: what the model may use.
        history: the one conversation there is, whoever asks; or what makes the conversation of each session; by default
            empty ones in memory.
        session_id: the session that it belongs to, or the bus's for an engine of all sessions.
        max_turns: how often the model may be asked for one prompt.
    """

    system_prompt: ClassVar[str | None] = None
    """What the model is told first, in conversations that say nothing else."""
    remembers: ClassVar[bool] = True
    """Whether there are conversations that end with their sessions."""
    status_event: ClassVar[type[EngineStatusEvent]] = EngineStatusEvent
    """What is published when it begins something else."""

    def __init__(
        self,
        bus: MessageBus,
        provider: Provider,
        *,
        tools: ToolManager | None = None,
        history: SimpleChatHistory | NewHistory | None = None,
        session_id: SessionID = BUS,
        max_turns: int = 10,
    ) -> None:
        self.bus = bus
        self.provider = provider
        self.tools = tools
        self.max_turns = max_turns
        self.engine_id = new_id()
        self.session_id = session_id
        self._only = history if isinstance(history, SimpleChatHistory) else None
        self._make: NewHistory = history if callable(history) else _in_memory
        self._conversations: dict[SessionID, SimpleChatHistory] = {}
        self._busy: set[int] = set()
        if self.remembers and self._only is None and session_id == BUS:
            bus.register_event_handler(SessionEndEvent, self._forget, priority=HandlerPriority.LOWEST)

    @property
    def history(self) -> SimpleChatHistory:
        """The conversation of the engine's own session, or the only one."""
        return self.conversation(self.session_id)

    @history.setter
    def history(self, history: SimpleChatHistory) -> None:
        self._only = history

    def conversation(self, session_id: SessionID) -> SimpleChatHistory:
        """Return the conversation of a session, which begins if there is none."""
        if self._only is not None:
            return self._only
        history = self._conversations.get(session_id)
        if history is None:
            history = self._conversations[session_id] = self._make(session_id)
            if history.system_prompt is None:
                history.system_prompt = self.system_prompt
        return history

    async def respond(self, prompt: str, session_id: SessionID) -> str:
        """Return the answer to a prompt in the conversation of a session.

        Raises:
            EngineBusyError: another prompt of this conversation is being answered.
            ProviderError: the model could not answer.
            StoreError: the conversation could not be kept.
            TurnLimitError: the model kept asking for tools.
        """
        history = self.conversation(session_id)
        self.refuse_if_busy(history)
        self._busy.add(id(history))
        try:
            history.add_user_message(prompt)
            return await self._run(history, session_id).answer()
        finally:
            self._busy.discard(id(history))

    async def publish(self, event: EngineEvent, session_id: SessionID, *, wait: bool = True) -> None:
        """Publish an event of this engine in a session, and wait until it has been handled, or do not."""
        event.engine_id = self.engine_id
        event.session_id = session_id
        await self.bus.publish(event, await_processing=wait)

    def refuse_if_busy(self, history: SimpleChatHistory) -> None:
        """Raise EngineBusyError if a prompt of this conversation is being answered."""
        if id(history) in self._busy:
            msg = "The engine is still answering this conversation's last prompt. Wait for it, or cancel it."
            raise EngineBusyError(msg)

    def _run(self, history: SimpleChatHistory, session_id: SessionID) -> Run:
        return Run(
            self.bus,
            self.provider,
            self.tools,
            history,
            engine_id=self.engine_id,
            session_id=session_id,
            max_turns=self.max_turns,
            status_event=self.status_event,
        )

    def _forget(self, event: SessionEndEvent) -> None:
        self._conversations.pop(event.session_id, None)


def _in_memory(_: SessionID) -> SimpleChatHistory:
    return SimpleChatHistory()
