"""The base of engines: a model, tools, and a conversation for each session, on a bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias, TypedDict, TypeVar, overload
from weakref import WeakValueDictionary

from llmgine.bus import HandlerPriority, MessageBus
from llmgine.bus.effect_records import EffectLedger
from llmgine.bus.options import check_number
from llmgine.bus.session import SessionEndEvent
from llmgine.errors import ConfigurationError, EngineBusyError
from llmgine.llm.approvals import Approvals
from llmgine.llm.budgets import Budget, Limits
from llmgine.llm.context import ChatMessage, ContextWindow, Role, SimpleChatHistory
from llmgine.llm.context.message import Content
from llmgine.llm.engine.events import EngineEvent, EngineStatusEvent
from llmgine.llm.engine.run import Run
from llmgine.llm.engine.sampling import sample
from llmgine.llm.engine.setting import Setting
from llmgine.llm.output import OutputForm
from llmgine.llm.providers.base import Provider
from llmgine.llm.tools.mcp.elicitation import AskPerson
from llmgine.llm.tools.mcp.sampling import AskModel
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import LLMMessage, LLMResponse
from llmgine.messages import SessionID, new_id
from llmgine.messages.ids import BUS

__all__ = ["Engine", "EngineOptions", "NewHistory"]

T = TypeVar("T")

NewHistory: TypeAlias = Callable[[SessionID], SimpleChatHistory]
"""Makes the history of a session that has none yet."""


class EngineOptions(TypedDict, total=False):
    """What `Engine` takes by name, apart from the session."""

    tools: ToolManager | None
    history: SimpleChatHistory | NewHistory | None
    max_turns: int
    max_output_tokens: int | None
    window: ContextWindow | None
    budget: Budget | None
    limits: Limits | None
    approvals: Approvals | None
    ledger: EffectLedger | None


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
        max_output_tokens: how long each reply may be, thinking included; by default as long as the provider lets it,
            and 4,096 where a budget limits tokens or money. Where less is left in the budget, that is sent along.
        window: how much of a conversation the model reads; by default as much as the history holds.
        budget: what all prompts together may spend.
        limits: what each prompt may spend.
        approvals: who agrees to the calls of tools that need it.
        ledger: where it is kept what was begun, so that `resume` can go on with it after the process has ended.
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
        max_output_tokens: int | None = None,
        window: ContextWindow | None = None,
        budget: Budget | None = None,
        limits: Limits | None = None,
        approvals: Approvals | None = None,
        ledger: EffectLedger | None = None,
    ) -> None:
        if max_output_tokens is not None:
            check_number("max_output_tokens", max_output_tokens, int, "a number of tokens, 1 or more, or None", least=1)
        self.bus = bus
        self.provider = provider
        self.tools = tools
        self.max_turns = max_turns
        self.max_output_tokens = max_output_tokens
        self.window = window
        self.budget = budget
        self.limits = limits
        self.approvals = approvals
        self.ledger = ledger
        self.engine_id = new_id()
        self.session_id = session_id
        self._only = history if isinstance(history, SimpleChatHistory) else None
        self._make: NewHistory = history if callable(history) else _in_memory
        self._conversations: dict[SessionID, SimpleChatHistory] = {}
        self._busy: set[int] = set()
        self._budgets: WeakValueDictionary[str, Budget] = WeakValueDictionary()
        if self.remembers and self._only is None and session_id == BUS:
            bus.register_event_handler(SessionEndEvent, self._forget, priority=HandlerPriority.LOWEST)
        if tools is not None:
            self._serve_servers(tools)

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

    @overload
    async def respond(self, prompt: Content, session_id: SessionID, *, run_id: str | None = None) -> str: ...
    @overload
    async def respond(
        self, prompt: Content, session_id: SessionID, output_type: type[T], *, run_id: str | None = None
    ) -> T: ...
    async def respond(
        self,
        prompt: Content,
        session_id: SessionID,
        output_type: type[Any] | None = None,
        *,
        run_id: str | None = None,
    ) -> Any:
        """Return the answer to a prompt in the conversation of a session.

        A prompt may come twice, because whoever delivers it cannot know that it has arrived. With a ledger it is the
        same prompt then: one that was answered gets the answer that it got, without anything being done again; one
        that a process was answering when it ended is taken up, as `resume` does; one that failed is answered anew, but
        tools that may have run do not run again.

        Args:
            prompt: what the user says: a text, or a list of parts with images in it.
            session_id: whose conversation it is.
            output_type: what the answer must be: a pydantic model, or a type like it; by default a text.
            run_id: by which the prompt is known if it comes again, such as the command's; by default a new one.

        Raises:
            BudgetExceededError: there was no room in a budget.
            ConfigurationError: the output type has no JSON schema.
            EngineBusyError: another prompt of this conversation is being answered.
            OutputFormError: the model gave no answer of the form.
            ProviderError: the model could not answer.
            ResourceConflictError: another session has had a prompt with this id.
            StoreError: the conversation could not be kept.
            TurnLimitError: the model kept asking for tools.
        """
        form = None if output_type is None else OutputForm(output_type)
        history = self.conversation(session_id)
        self.refuse_if_busy(history)
        self._busy.add(id(history))
        try:
            message = ChatMessage(Role.USER, prompt)
            return await Run(self._setting(), history, session_id, form, prompt=message, run_id=run_id).answer()
        finally:
            self._busy.discard(id(history))

    @overload
    async def resume(self, session_id: SessionID) -> str | None: ...
    @overload
    async def resume(self, session_id: SessionID, output_type: type[T]) -> T | None: ...
    async def resume(self, session_id: SessionID, output_type: type[Any] | None = None) -> Any:
        """Go on with the prompt that a process was answering in a session when it ended, and return the answer.

        The model is not asked again for what it has answered. Tools whose outcome is known do not run again; of those
        that may have run, those that read and those that are idempotent do, with the same key. Others do if a person
        agrees to it by way of the approvals; if not, the model is told that they may have run. A conversation that is
        kept in a store, and that has nothing here yet, is loaded first.

        Args:
            session_id: whose prompt it is.
            output_type: what the answer must be, as with the prompt.

        Returns:
            The answer; None if every prompt has ended.

        Raises:
            ConfigurationError: there is no ledger, or the output type has no JSON schema.
            LLMgineError: as `respond` raises; the prompt has ended then, unless it is being answered elsewhere or
                nothing could be kept.
        """
        if self.ledger is None:
            msg = "There is no ledger to take up a prompt from. Give the engine the one that the prompt was begun with."
            raise ConfigurationError(msg)
        form = None if output_type is None else OutputForm(output_type)
        history = self.conversation(session_id)
        self.refuse_if_busy(history)
        self._busy.add(id(history))
        try:
            opened = await self.ledger.open_run(session_id)
            if opened is None:
                return None
            return await Run(self._setting(), history, session_id, form, opened=opened).answer()
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

    def _setting(self) -> Setting:
        return Setting(
            bus=self.bus,
            provider=self.provider,
            engine_id=self.engine_id,
            tools=self.tools,
            max_turns=self.max_turns,
            max_output_tokens=self.max_output_tokens,
            window=self.window,
            budget=self.budget,
            limits=self.limits,
            budgets=self._budgets,
            approvals=self.approvals,
            ledger=self.ledger,
            status_event=self.status_event,
        )

    def _serve_servers(self, tools: ToolManager) -> None:
        """Have the MCP servers of the tools ask the people and the model of this engine, unless they ask others."""
        servers = tools.mcp
        if servers.bus is None:
            servers.bus = self.bus
        if servers.on_elicitation is None and self.approvals is not None:
            servers.on_elicitation = AskPerson(self.approvals)
        if servers.on_sampling is None:
            servers.on_sampling = AskModel(self._sample, self.approvals)

    async def _sample(self, messages: Sequence[LLMMessage], max_tokens: int, context: ToolContext) -> LLMResponse:
        return await sample(self._setting(), messages, max_tokens, context)

    def _forget(self, event: SessionEndEvent) -> None:
        self._conversations.pop(event.session_id, None)


def _in_memory(_: SessionID) -> SimpleChatHistory:
    return SimpleChatHistory()
