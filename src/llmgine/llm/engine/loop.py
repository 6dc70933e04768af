"""The loop: ask the model, run the tools that it asks for, ask again, until it answers."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from llmgine.bus import MessageBus
from llmgine.errors import EngineBusyError, StoreError, TurnLimitError
from llmgine.llm.context.memory import SimpleChatHistory
from llmgine.llm.engine.commands import PromptCommand
from llmgine.llm.engine.events import (
    EngineEvent,
    EngineStatusEvent,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
    TextChunkEvent,
)
from llmgine.llm.providers.base import Fold, Provider
from llmgine.llm.tools.result import ToolResult
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent, ToolManagerEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import Finish, LLMResponse, TextDelta, Usage
from llmgine.messages import SessionID, new_id
from llmgine.messages.ids import BUS

__all__ = ["LLMEngine"]

_log = logging.getLogger("llmgine.engine")
_INTERRUPTED = "[interrupted]"
_CANCELLED = "Error: cancelled before it had finished."


@dataclass
class _Run:
    """What is known about the prompt being answered."""

    session_id: SessionID
    began: float = field(default_factory=monotonic)
    first_token: float | None = None
    writing_time: float = 0.0
    """Seconds from the first piece to the last, of the turns that came in pieces."""
    written: int = 0
    """Tokens that were written in that time."""
    usage: Usage = field(default_factory=Usage)
    turns: int = 0
    last: Literal["prompt", "tools", "answer"] = "prompt"
    """What the history ends with."""
    fold: Fold = field(default_factory=Fold)


@dataclass(slots=True)
class _Call:
    """What is known about one request to the model. Times are by the monotonic clock."""

    began: float = field(default_factory=monotonic)
    first: float | None = None
    """When the first piece of text, or of a tool call, came."""
    last: float = 0.0
    pieces: int = 0
    finish: Finish | None = None

    def ended(self, turn: int, provider: Provider, error: str) -> ModelCallEndedEvent:
        """Return the event that says how it ended."""
        finish = self.finish
        return ModelCallEndedEvent(
            turn=turn,
            provider=provider.name,
            model=(finish is not None and finish.model) or provider.model,
            finish_reason=None if finish is None else finish.reason,
            usage=(finish is not None and finish.usage) or Usage(),
            duration=monotonic() - self.began,
            time_to_first_token=None if self.first is None else self.first - self.began,
            error=error,
        )


class LLMEngine:
    """Answers `PromptCommand` from one conversation, publishing what happens on the bus.

    A prompt that is cancelled or fails leaves what tools have done, and the text that had arrived, in the history; if
    there is neither, the prompt is forgotten.

    Args:
        bus: where the engine registers itself and publishes.
        provider: the model; it may be replaced between prompts.
        tools: what the model may use.
        history: the conversation, by default an empty one in memory.
        session_id: the session whose prompts it answers; by default those of all without an engine of their own.
        max_turns: how often the model may be asked for one prompt.
    """

    def __init__(
        self,
        bus: MessageBus,
        provider: Provider,
        *,
        tools: ToolManager | None = None,
        history: SimpleChatHistory | None = None,
        session_id: SessionID = BUS,
        max_turns: int = 10,
    ) -> None:
        self.bus = bus
        self.provider = provider
        self.tools = tools
        self.history = history if history is not None else SimpleChatHistory()
        self.max_turns = max_turns
        self.engine_id = new_id()
        self._busy = False
        bus.register_command_handler(PromptCommand, self.handle, session_id)

    async def handle(self, command: PromptCommand) -> str:
        """Answer a prompt. The bus calls this.

        Raises:
            EngineBusyError: another prompt of this conversation is being answered.
            ProviderError: the model could not answer.
            StoreError: the conversation could not be kept.
            TurnLimitError: the model kept asking for tools.
        """
        if self._busy:
            msg = "The engine is still answering this conversation's last prompt. Wait for it, or cancel it."
            raise EngineBusyError(msg)
        self._busy = True
        run = _Run(command.session_id)
        self.history.add_user_message(command.prompt)
        try:
            return await self._answer(run)
        except asyncio.CancelledError:
            await self._break_off(run, PromptCancelledEvent(text=run.fold.text))
            raise
        except Exception as error:
            await self._break_off(run, PromptFailedEvent(error=_told(error), text=run.fold.text))
            raise
        finally:
            self._busy = False

    async def _answer(self, run: _Run) -> str:
        while run.turns < self.max_turns:
            run.turns += 1
            response = await self._ask(run)
            if not response.tool_calls:
                self.history.add_assistant_message(response.text)
                run.fold, run.last = Fold(), "answer"
                await self.history.save()
                await self._publish(
                    run,
                    LLMResponseEvent(
                        text=response.text,
                        finish_reason=response.finish_reason,
                        usage=run.usage,
                        provider=self.provider.name,
                        model=response.model or self.provider.model,
                        turns=run.turns,
                        duration=monotonic() - run.began,
                        time_to_first_token=None if run.first_token is None else run.first_token - run.began,
                        tokens_per_second=run.written / run.writing_time if run.written else None,
                    ),
                )
                return response.text
            await self._use_tools(run, response)
        msg = f"The model asked for tools {self.max_turns} times without answering. Raise max_turns if it needs more."
        raise TurnLimitError(msg, limit=self.max_turns)

    async def _ask(self, run: _Run) -> LLMResponse:
        await self._publish(run, EngineStatusEvent(status="calling model"))
        run.fold = Fold()
        call = _Call()
        answered = False
        error = ""
        try:
            await self._read(run, call)
            response = run.fold.response()
            answered = True
        except Exception as failure:
            error = _told(failure)
            raise
        finally:
            ended = call.ended(run.turns, self.provider, error)
            await self._publish(run, ended, wait=answered)
        if run.first_token is None and call.first is not None:
            run.first_token = call.first
        run.usage += ended.usage
        if call.pieces > 1 and call.first is not None and call.last > call.first:
            run.writing_time += call.last - call.first
            run.written += ended.usage.output_tokens
        return response

    async def _read(self, run: _Run, call: _Call) -> None:
        """Read the model's reply, and publish its text as it comes."""
        tools = self.tools.parse_tools_to_list() if self.tools is not None else []
        async with aclosing(self.provider.stream(self.history.get_messages(), tools=tools)) as chunks:
            async for chunk in chunks:
                run.fold.add(chunk)
                if isinstance(chunk, Finish):
                    call.finish = chunk
                else:
                    call.pieces += 1
                    call.last = monotonic()
                    call.first = call.first or call.last
                if isinstance(chunk, TextDelta) and chunk.text:
                    await self._publish(run, TextChunkEvent(text=chunk.text))

    async def _use_tools(self, run: _Run, response: LLMResponse) -> None:
        for call in response.tool_calls:
            event = ToolCallEvent(tool_call_id=call.id, tool_name=call.name, arguments=call.arguments)
            await self._publish(run, event)
        await self._publish(run, EngineStatusEvent(status="running tools"))
        manager = self.tools or ToolManager()
        tasks = [asyncio.create_task(manager.run(call)) for call in response.tool_calls]
        try:
            for call, task in zip(response.tool_calls, tasks, strict=True):
                await self._publish(run, _result_event(call, await task))
        finally:
            # Also when cancelled: what has been done is done, and the model must hear of it.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.history.add_assistant_message(response.text or None, response.tool_calls)
            for call, task in zip(response.tool_calls, tasks, strict=True):
                self.history.add_tool_message(call.id, _CANCELLED if task.cancelled() else task.result().content)
            run.fold, run.last = Fold(), "tools"
        await self.history.save()

    async def _break_off(self, run: _Run, end: PromptCancelledEvent | PromptFailedEvent) -> None:
        """Leave a history that can go on, and say that the prompt has ended."""
        if run.fold.text:
            self.history.add_assistant_message(run.fold.text)
        elif run.last == "tools":
            self.history.add_assistant_message(_INTERRUPTED)
        elif run.last == "prompt":
            self.history.drop_unanswered()
        try:
            await self.history.save()
        except StoreError:
            _log.exception("The conversation could not be kept; it will be tried again with the next prompt")
        finally:
            await self._publish(run, end, wait=False)

    async def _publish(self, run: _Run, event: EngineEvent | ToolManagerEvent, *, wait: bool = True) -> None:
        event.engine_id = self.engine_id
        event.session_id = run.session_id
        await self.bus.publish(event, await_processing=wait)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _result_event(call: ToolCall, result: ToolResult) -> ToolExecuteResultEvent:
    return ToolExecuteResultEvent(
        execution_succeed=result.succeeded,
        tool_info={"name": call.name},
        tool_args=result.arguments,
        tool_result=result.content,
        tool_name=call.name,
        tool_call_id=call.id,
        duration=result.duration,
    )
