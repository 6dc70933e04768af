"""The engines there are: one that converses, one that does so with tools, and one that answers each prompt alone."""

from __future__ import annotations

from typing import Any, Unpack

from llmgine.bus import MessageBus
from llmgine.llm.context.memory import SimpleChatHistory
from llmgine.llm.engine.base import Engine, EngineOptions
from llmgine.llm.engine.commands import (
    ClearHistoryCommand,
    PromptCommand,
    ResumeCommand,
    SystemPromptCommand,
)
from llmgine.llm.engine.events import ToolChatEngineStatusEvent
from llmgine.llm.providers.base import Provider
from llmgine.messages import SessionID
from llmgine.messages.ids import BUS

__all__ = ["LLMEngine", "SinglePassEngine", "ToolChatEngine"]


class LLMEngine(Engine):
    """Converses: answers `PromptCommand`, `ResumeCommand`, `SystemPromptCommand` and `ClearHistoryCommand`.

    A prompt that is cancelled or fails leaves what tools have done, and the text that had arrived, in the history; if
    there is neither, the prompt is forgotten.
    """

    def __init__(
        self, bus: MessageBus, provider: Provider, *, session_id: SessionID = BUS, **options: Unpack[EngineOptions]
    ) -> None:
        """Register with the bus, in a session or for all that have no engine of their own. See `Engine`."""
        super().__init__(bus, provider, session_id=session_id, **options)
        bus.register_command_handler(PromptCommand, self.handle, session_id)
        bus.register_command_handler(ResumeCommand, self.take_up, session_id)
        bus.register_command_handler(SystemPromptCommand, self.set_system_prompt, session_id)
        bus.register_command_handler(ClearHistoryCommand, self.clear_history, session_id)

    async def handle(self, command: PromptCommand[Any]) -> Any:
        """Answer a prompt; `respond` tells what it raises. The bus calls this."""
        return await _answer(self, command)

    async def take_up(self, command: ResumeCommand[Any]) -> Any:
        """Go on with a prompt; `resume` tells what it raises. The bus calls this."""
        if command.output_type is None:
            return await self.resume(command.session_id)
        return await self.resume(command.session_id, command.output_type)

    def set_system_prompt(self, command: SystemPromptCommand) -> None:
        """Tell the model something else first, from the next prompt on. The bus calls this."""
        self.conversation(command.session_id).set_system_prompt(command.system_prompt)

    async def clear_history(self, command: ClearHistoryCommand) -> None:
        """Forget what was said, but not the system prompt. The bus calls this.

        Raises:
            EngineBusyError: a prompt of this conversation is being answered.
            StoreError: the conversation is kept somewhere, and could not be removed there.
        """
        history = self.conversation(command.session_id)
        self.refuse_if_busy(history)
        if self.ledger is not None and (opened := await self.ledger.open_run(command.session_id)) is not None:
            await self.ledger.end_run(opened.run_id)
        history.clear()
        await history.save()


class ToolChatEngine(LLMEngine):
    """Converses, and uses tools: answers `ToolChatEngineCommand` too, and publishes `ToolChatEngineStatusEvent`s."""

    system_prompt = (
        "You are a helpful assistant with access to tools. Use them when they help to answer; do not guess what a tool "
        "can tell."
    )
    status_event = ToolChatEngineStatusEvent

    async def handle(self, command: PromptCommand[Any]) -> Any:
        """Answer a prompt; `respond` tells what it raises. The bus calls this."""
        await self._tell("processing", command.session_id)
        try:
            return await super().handle(command)
        finally:
            await self._tell("finished", command.session_id, wait=False)

    async def _tell(self, status: str, session_id: SessionID, *, wait: bool = True) -> None:
        await self.publish(self.status_event(status=status), session_id, wait=wait)


class SinglePassEngine(Engine):
    """Answers each `PromptCommand` alone: one request to the model, without tools and without a memory.

    Any number of prompts of a session may be answered at the same time.
    """

    remembers = False

    def __init__(
        self, bus: MessageBus, provider: Provider, *, system_prompt: str | None = None, session_id: SessionID = BUS
    ) -> None:
        """Register with the bus, in a session or for all that have no engine of their own.

        Args:
            bus: where it publishes.
            provider: the model.
            system_prompt: what the model is told first.
            session_id: whose prompts it answers.
        """
        super().__init__(bus, provider, history=self._begin, session_id=session_id, max_turns=1)
        self._told_first = system_prompt
        bus.register_command_handler(PromptCommand, self.handle, session_id)

    def conversation(self, session_id: SessionID) -> SimpleChatHistory:
        """Return a new conversation: nothing is remembered."""
        return self._begin(session_id)

    async def handle(self, command: PromptCommand[Any]) -> Any:
        """Answer a prompt; `respond` tells what it raises. The bus calls this."""
        return await _answer(self, command)

    def _begin(self, _: SessionID) -> SimpleChatHistory:
        history = SimpleChatHistory(max_chars=_UNBOUNDED, max_messages=_UNBOUNDED)
        history.system_prompt = self._told_first
        return history


_UNBOUNDED = 2**62


async def _answer(engine: Engine, command: PromptCommand[Any]) -> Any:
    run_id = command.command_id
    if command.output_type is None:
        return await engine.respond(command.prompt, command.session_id, run_id=run_id)
    return await engine.respond(command.prompt, command.session_id, command.output_type, run_id=run_id)
