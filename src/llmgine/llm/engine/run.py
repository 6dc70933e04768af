"""The loop: ask the model, run the tools that it asks for, ask again, until it answers."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from llmgine.bus import MessageBus
from llmgine.errors import StoreError, TurnLimitError
from llmgine.llm.context.memory import SimpleChatHistory
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
from llmgine.messages import SessionID

__all__ = ["Run"]

_log = logging.getLogger("llmgine.engine")
_INTERRUPTED = "[interrupted]"
_CANCELLED = "Error: cancelled before it had finished."


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


class Run:
    """Answers one prompt, which the history ends with, and publishes what happens.

    Being cancelled, or failing, it leaves what tools have done, and the text that had arrived, in the history; if there
    is neither, the prompt is forgotten.

    Args:
        bus: where it publishes.
        provider: the model.
        tools: what the model may use.
        history: the conversation.
        engine_id: whose events these are.
        session_id: the session of the events.
        max_turns: how often the model may be asked.
        status_event: published when it begins something else.
    """

    def __init__(
        self,
        bus: MessageBus,
        provider: Provider,
        tools: ToolManager | None,
        history: SimpleChatHistory,
        *,
        engine_id: str,
        session_id: SessionID,
        max_turns: int,
        status_event: type[EngineStatusEvent] = EngineStatusEvent,
    ) -> None:
        self._bus = bus
        self._provider = provider
        self._tools = tools
        self._history = history
        self._engine_id = engine_id
        self._session_id = session_id
        self._max_turns = max_turns
        self._status_event = status_event
        self._began = monotonic()
        self._first_token: float | None = None
        self._writing_time = 0.0  # seconds from the first piece to the last, of the turns that came in pieces
        self._written = 0  # tokens in that time
        self._usage = Usage()
        self._turns = 0
        self._last: Literal["prompt", "tools", "answer"] = "prompt"  # what the history ends with
        self._fold = Fold()

    async def answer(self) -> str:
        """Return the model's answer.

        Raises:
            ProviderError: the model could not answer.
            StoreError: the conversation could not be kept.
            TurnLimitError: the model kept asking for tools.
        """
        try:
            return await self._answer()
        except asyncio.CancelledError:
            await self._break_off(PromptCancelledEvent(text=self._fold.text))
            raise
        except Exception as error:
            await self._break_off(PromptFailedEvent(error=_told(error), text=self._fold.text))
            raise

    async def _answer(self) -> str:
        while self._turns < self._max_turns:
            self._turns += 1
            response = await self._ask()
            if not response.tool_calls:
                self._history.add_assistant_message(response.text)
                self._fold, self._last = Fold(), "answer"
                await self._history.save()
                await self._publish(
                    LLMResponseEvent(
                        text=response.text,
                        finish_reason=response.finish_reason,
                        usage=self._usage,
                        provider=self._provider.name,
                        model=response.model or self._provider.model,
                        turns=self._turns,
                        duration=monotonic() - self._began,
                        time_to_first_token=None if self._first_token is None else self._first_token - self._began,
                        tokens_per_second=self._written / self._writing_time if self._written else None,
                    ),
                )
                return response.text
            await self._use_tools(response)
        msg = f"The model asked for tools {self._max_turns} times without answering. Raise max_turns if it needs more."
        raise TurnLimitError(msg, limit=self._max_turns)

    async def _ask(self) -> LLMResponse:
        await self._publish(self._status_event(status="calling model"))
        self._fold = Fold()
        call = _Call()
        answered = False
        error = ""
        try:
            await self._read(call)
            response = self._fold.response()
            answered = True
        except Exception as failure:
            error = _told(failure)
            raise
        finally:
            ended = call.ended(self._turns, self._provider, error)
            await self._publish(ended, wait=answered)
        if self._first_token is None and call.first is not None:
            self._first_token = call.first
        self._usage += ended.usage
        if call.pieces > 1 and call.first is not None and call.last > call.first:
            self._writing_time += call.last - call.first
            self._written += ended.usage.output_tokens
        return response

    async def _read(self, call: _Call) -> None:
        """Read the model's reply, and publish its text as it comes."""
        tools = self._tools.parse_tools_to_list() if self._tools is not None else []
        async with aclosing(self._provider.stream(self._history.get_messages(), tools=tools)) as chunks:
            async for chunk in chunks:
                self._fold.add(chunk)
                if isinstance(chunk, Finish):
                    call.finish = chunk
                else:
                    call.pieces += 1
                    call.last = monotonic()
                    call.first = call.first or call.last
                if isinstance(chunk, TextDelta) and chunk.text:
                    await self._publish(TextChunkEvent(text=chunk.text))

    async def _use_tools(self, response: LLMResponse) -> None:
        for call in response.tool_calls:
            event = ToolCallEvent(tool_call_id=call.id, tool_name=call.name, arguments=call.arguments)
            await self._publish(event)
        await self._publish(self._status_event(status="running tools"))
        manager = self._tools or ToolManager()
        tasks = [asyncio.create_task(manager.run(call)) for call in response.tool_calls]
        try:
            for call, task in zip(response.tool_calls, tasks, strict=True):
                await self._publish(_result_event(call, await task))
        finally:
            # Also when cancelled: what has been done is done, and the model must hear of it.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._history.add_assistant_message(response.text or None, response.tool_calls)
            for call, task in zip(response.tool_calls, tasks, strict=True):
                self._history.add_tool_message(call.id, _CANCELLED if task.cancelled() else task.result().content)
            self._fold, self._last = Fold(), "tools"
        await self._history.save()

    async def _break_off(self, end: PromptCancelledEvent | PromptFailedEvent) -> None:
        """Leave a history that can go on, and say that the prompt has ended."""
        if self._fold.text:
            self._history.add_assistant_message(self._fold.text)
        elif self._last == "tools":
            self._history.add_assistant_message(_INTERRUPTED)
        elif self._last == "prompt":
            self._history.drop_unanswered()
        try:
            await self._history.save()
        except StoreError:
            _log.exception("The conversation could not be kept; it will be tried again with the next prompt")
        finally:
            await self._publish(end, wait=False)

    async def _publish(self, event: EngineEvent | ToolManagerEvent, *, wait: bool = True) -> None:
        event.engine_id = self._engine_id
        event.session_id = self._session_id
        await self._bus.publish(event, await_processing=wait)


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
