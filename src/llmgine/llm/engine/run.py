"""The loop: ask the model, run the tools that it asks for, ask again, until it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Literal, TypeVar

from llmgine.bus.effect_records import Answer, OpenRun
from llmgine.errors import BudgetExceededError, OutputFormError, StoreError, TurnLimitError
from llmgine.llm.context import (
    ChatMessage,
    ContextCompactedEvent,
    ContextView,
    Role,
    SimpleChatHistory,
    StoredChatHistory,
)
from llmgine.llm.engine.events import (
    EngineEvent,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PartialOutputEvent,
    PromptCancelledEvent,
    PromptFailedEvent,
    ReplyRestartedEvent,
    TextChunkEvent,
)
from llmgine.llm.engine.run_ledger import RunLedger
from llmgine.llm.engine.setting import Setting
from llmgine.llm.engine.spending import RunSpending
from llmgine.llm.engine.tool_calls import ToolCalls, joined, keys_of, result_event, told_of
from llmgine.llm.output import ANSWER_TOOL, OutputForm
from llmgine.llm.providers.base import Fold, Provider, given_options, takes_schemas
from llmgine.llm.tools.call_repair import readable_call, unique_calls
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolManagerEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import (
    Chunk,
    Finish,
    LLMMessage,
    LLMResponse,
    ModelFormattedDictTool,
    Restart,
    TextDelta,
    Usage,
)
from llmgine.messages import SessionID, new_id

__all__ = ["Run"]

_log = logging.getLogger("llmgine.engine")
_INTERRUPTED = "[interrupted]"
_A_TURN_EVERY = 16
"""After so many pieces that come together, others get their turn."""
_SECOND_CHANCES = 2
"""How often a model is told that its answer is not of the form that was asked for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Wrong:
    """An answer that is not of the form, and what the model is told."""

    why: str


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
            provider=(finish is not None and finish.provider) or provider.name,
            model=(finish is not None and finish.model) or provider.model,
            finish_reason=None if finish is None else finish.reason,
            usage=(finish is not None and finish.usage) or Usage(),
            duration=monotonic() - self.began,
            time_to_first_token=None if self.first is None else self.first - self.began,
            error=error,
        )


class Run(Generic[T]):
    """Answers one prompt, and publishes what happens.

    Being cancelled, or failing, it leaves what tools have done, and the text that had arrived, in the history; if there
    is neither, the prompt is forgotten.
    """

    def __init__(
        self,
        setting: Setting,
        history: SimpleChatHistory,
        session_id: SessionID,
        form: OutputForm[T] | None = None,
        *,
        prompt: ChatMessage | None = None,
        run_id: str | None = None,
        opened: OpenRun | None = None,
    ) -> None:
        """Take what is needed: a prompt, or what another process has begun.

        Args:
            setting: what it shares with the other prompts of its engine.
            history: the conversation.
            session_id: the session of the events.
            form: what the answer must be; by default a text.
            prompt: what is to be answered. It is not in the history yet.
            run_id: of a prompt that may have come before; by default a new one.
            opened: what is gone on with.
        """
        self.run_id = run_id or new_id() if opened is None else opened.run_id
        self._prompt = prompt
        self._setting = setting
        self._provider = setting.provider
        self._tools = setting.tools or ToolManager()
        self._history = history
        self._session_id = session_id
        self._form = form
        self._opened = opened
        self._ledger = RunLedger(setting.ledger, self.run_id)
        self._spending = RunSpending(setting.budget, setting.limits, setting.max_output_tokens)
        self._calls = ToolCalls(
            setting, self._tools, self.run_id, session_id, spending=self._spending, ledger=self._ledger
        )
        self._began = monotonic()
        self._first_token: float | None = None
        self._writing_time = 0.0  # seconds from the first piece to the last, of the turns that came in pieces
        self._written = 0  # tokens in that time
        self._usage = Usage()
        self._turns = 0
        self._wrong = 0  # answers that were not of the form
        self._last: Literal["nothing", "prompt", "tools", "answer"] = "nothing"  # what this has left in the history
        self._fold = Fold()

    async def answer(self) -> str | T:
        """Return the model's answer: a text, or a value of the form that was asked for.

        Raises:
            BudgetExceededError: there was no room in a budget.
            EngineBusyError: another process goes on with this run.
            OutputFormError: the model gave no answer of the form.
            ProviderError: the model could not answer.
            ResourceConflictError: another session has had a prompt with this id.
            StoreError: the conversation could not be kept.
            TurnLimitError: the model kept asking for tools.
        """
        try:
            if self._spending.budget is None:
                return await self._answer()
            async with self._spending.budget.in_time():
                return await self._answer()
        except asyncio.CancelledError:
            await self._break_off(PromptCancelledEvent(text=self._fold.text))
            raise
        except Exception as error:
            await self._break_off(PromptFailedEvent(error=_told(error), text=self._fold.text))
            raise

    async def _answer(self) -> str | T:
        known = await self._begin()
        if known is not None:
            return known
        last = False
        while last or self._turns < self._setting.max_turns:
            self._turns += 1
            try:
                response = await self._ask(last=last)
            except BudgetExceededError as error:
                if last or error.action != "finish":
                    raise
                last = True  # once more, without tools, with what is set aside for that
                continue
            answered, calls = self._taken_apart(response)
            if calls and not last:
                message = ChatMessage(
                    Role.ASSISTANT, response.text or None, tuple(readable_call(call) for call in calls)
                )
                await self._use_tools(message, calls)
                continue
            answer = self._in_form(answered)
            if not isinstance(answer, _Wrong):
                await self._conclude(response, answered)
                return answer
            self._wrong += 1
            if last or self._wrong > _SECOND_CHANCES:
                msg = (
                    f"The model gave no answer of the form that was asked for, in {self._wrong} attempts. {answer.why}"
                )
                raise OutputFormError(msg, text=answered)
            self._history.add_assistant_message(answered)
            self._history.add_user_message(answer.why)
            self._fold, self._last = Fold(), "tools"
        limit = self._setting.max_turns
        msg = f"The model asked for tools {limit} times without answering. Raise max_turns if it needs more."
        raise TurnLimitError(msg, limit=limit)

    async def _conclude(self, response: LLMResponse, text: str) -> None:
        self._history.add_assistant_message(text)
        self._fold, self._last = Fold(), "answer"
        await self._history.save()
        await self._ledger.end(text)
        await self._publish(
            LLMResponseEvent(
                text=text,
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

    # Beginning, or taking up what another process has begun

    async def _begin(self) -> str | T | None:
        """Put the prompt into the conversation, unless it has come before. Return the answer if there is one."""
        known = self._opened
        if known is None and self._prompt is not None:
            begun = await self._ledger.begin(self._session_id, self._prompt)
            if isinstance(begun, Answer):
                return self._answered(begun.text)
            if begun is None:
                self._history.add_message(self._prompt)
                self._last = "prompt"
            known = begun
        return None if known is None else await self._take_up(known)

    def _answered(self, text: str) -> str | T:
        """Return what the prompt was answered with when it came before."""
        answer = self._in_form(text)
        if isinstance(answer, _Wrong):  # the form is another one now
            msg = f"This prompt has been answered, but not in the form that is asked for. {answer.why}"
            raise OutputFormError(msg, text=text)
        return answer

    async def _take_up(self, opened: OpenRun) -> str | T | None:
        """Bring the conversation to where the run had come. Return the answer if only its end was missing."""
        self._ledger.is_ours = False  # but somebody else's to try again, if it cannot be loaded
        if isinstance(self._history, StoredChatHistory) and not len(self._history):
            await self._history.load()
        self._ledger.take_up(opened)
        turn, self._last = opened.turn, "prompt"
        prompt = ChatMessage.from_dict(opened.prompt)
        reached = prompt if turn is None else ChatMessage.from_dict(turn.message)
        if turn is not None:
            self._turns, self._last = turn.step, "tools"
        ids = {message.id for message in self._history.messages}
        if reached.id in ids:
            return await self._known_answer()
        if prompt.id not in ids:
            self._history.add_message(prompt)
        if turn is not None:
            await self._use_tools(reached, reached.tool_calls, turn.keys)
        return None

    async def _known_answer(self) -> str | T | None:
        """Return the answer if the history ends with it."""
        end = self._history.messages[-1]
        if end.role is not Role.ASSISTANT or not isinstance(end.content, str):
            return None
        answer = self._in_form(end.content)
        if isinstance(answer, _Wrong):
            self._history.add_user_message(answer.why)
            return None
        await self._ledger.end(end.content)
        return answer

    # The answer's form

    def _taken_apart(self, response: LLMResponse) -> tuple[str, tuple[ToolCall, ...]]:
        """Return the text of the answer, and the tools that are asked for."""
        for call in response.tool_calls:
            if self._form is not None and call.name == ANSWER_TOOL:
                return call.arguments, ()
        return response.text, unique_calls(response.tool_calls)

    def _in_form(self, text: str) -> str | T | _Wrong:
        if self._form is None:
            return text
        try:
            return self._form.read(text)
        except ValueError as error:
            return _Wrong(str(error))

    # Asking the model

    async def _ask(self, *, last: bool) -> LLMResponse:
        tools = [] if last else self._tools.parse_tools_to_list()
        if self._form is not None and not takes_schemas(self._provider):
            tools = [*tools, self._form.tool]
        view = await self._view(tools)
        messages = self._history.get_messages() if view is None else view.messages
        counted = 0 if view is None else view.tokens
        try:
            reservation, longest = self._spending.reserve_request(
                messages, tools, self._provider, counted=counted, last=last
            )
        finally:
            await self._tell_spending()
        await self._publish(self._setting.status_event(status="calling model"))
        self._fold = Fold()
        call = _Call()
        answered = False
        error = ""
        try:
            await self._read(self._stream(messages, tools, longest), call)
            response = self._fold.response()
            answered = True
        except Exception as failure:
            error = _told(failure)
            raise
        finally:
            begun = call.first is not None
            self._spending.settle_request(reservation, self._provider, call.finish, self._fold.text, begun=begun)
            ended = call.ended(self._turns, self._provider, error)
            await self._publish(ended, wait=answered)
            await self._tell_spending()
        if view is not None and self._setting.window is not None:
            self._setting.window.observe(view, ended.usage)
        if self._first_token is None and call.first is not None:
            self._first_token = call.first
        self._usage += ended.usage
        if call.pieces > 1 and call.first is not None and call.last > call.first:
            self._writing_time += call.last - call.first
            self._written += ended.usage.output_tokens
        return response

    async def _view(self, tools: Sequence[ModelFormattedDictTool]) -> ContextView | None:
        """Return as much of the conversation as fits; None where there is no bound."""
        window = self._setting.window
        if window is None:
            return None
        view = await window.fit(self._history, tools=tools, provider=self._provider)
        if view.compaction is not None:
            await self._publish(view.compaction)
        return view

    def _stream(
        self, messages: Sequence[LLMMessage], tools: Sequence[ModelFormattedDictTool], longest: int | None
    ) -> AsyncGenerator[Chunk, None]:
        form = self._form.schema if self._form is not None and takes_schemas(self._provider) else None
        options = given_options(max_output_tokens=longest, response_format=form)
        return self._provider.stream(messages, tools=tools, **options)

    async def _read(self, stream: AsyncGenerator[Chunk, None], call: _Call) -> None:
        """Read the model's reply, and publish its text as it comes."""
        publish, engine_id, fold = self._setting.bus.publish, self._setting.engine_id, self._fold
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                fold.add(chunk)
                if isinstance(chunk, Finish):
                    call.finish = chunk
                elif isinstance(chunk, Restart):
                    await self._publish(ReplyRestartedEvent(reason=chunk.reason))
                else:
                    call.pieces += 1
                    call.last = monotonic()
                    call.first = call.first or call.last
                if isinstance(chunk, TextDelta) and chunk.text:
                    # What `_publish` does, without the call, which is felt here.
                    await publish(TextChunkEvent(text=chunk.text, engine_id=engine_id, session_id=self._session_id))
                    if self._form is not None:
                        await self._publish(PartialOutputEvent(output=self._form.read_partly(fold.text)))
                    if call.pieces % _A_TURN_EVERY == 1:
                        await asyncio.sleep(0)  # who reads gets the first piece before all that came with it

    # Using tools

    async def _use_tools(
        self, message: ChatMessage, calls: Sequence[ToolCall], keys: Sequence[str] | None = None
    ) -> None:
        """Run the calls of a turn, and keep what comes of them.

        Args:
            message: with the calls as the conversation holds them.
            calls: as the model made them, as far as that is known.
            keys: of their effects, where the turn was begun by another process.
        """
        events = [ToolCallEvent(tool_call_id=call.id, tool_name=call.name, arguments=call.arguments) for call in calls]
        for event in events:
            await self._publish(event)
        await self._publish(self._setting.status_event(status="running tools"))
        found = [self._tools.prepare(call) for call in calls]
        if keys is None:
            keys = keys_of(self.run_id, self._turns, found)
            await self._ledger.begin_turn(self._turns, message, keys)
        tasks = [
            asyncio.create_task(self._calls.run(each, key, below=event.traceparent))
            for each, key, event in zip(found, keys, events, strict=True)
        ]
        try:
            for call, task in zip(calls, tasks, strict=True):
                await self._publish(result_event(call, await joined(task), self._tools.tool_info(call.name)))
        finally:
            # Also when cancelled: what has been done is done, and the model must hear of it.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._history.add_message(message)
            for call, task in zip(calls, tasks, strict=True):
                self._history.add_tool_message(call.id, told_of(task))
            self._fold, self._last = Fold(), "tools"
            await self._tell_spending()
        await self._history.save()

    # Ending

    async def _break_off(self, end: PromptCancelledEvent | PromptFailedEvent) -> None:
        """Leave a history that can go on, and say that the prompt has ended."""
        if not self._ledger.is_ours:
            await self._publish(end, wait=False)
            return
        if self._fold.text:
            self._history.add_assistant_message(self._fold.text)
        elif self._last == "tools":
            self._history.add_assistant_message(_INTERRUPTED)
        elif self._last == "prompt":
            self._history.drop_unanswered()
        try:
            await self._history.save()
            await self._ledger.end()  # unless what was done is kept nowhere else
        except StoreError:
            _log.exception("The conversation could not be kept; it will be tried again with the next prompt")
        finally:
            await self._publish(end, wait=False)

    async def _tell_spending(self) -> None:
        for event in self._spending.events():
            event.session_id = self._session_id
            await self._setting.bus.publish(event, await_processing=False)

    async def _publish(
        self, event: EngineEvent | ToolManagerEvent | ContextCompactedEvent, *, wait: bool = True
    ) -> None:
        event.engine_id = self._setting.engine_id
        event.session_id = self._session_id
        await self._setting.bus.publish(event, await_processing=wait)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
