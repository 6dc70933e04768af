"""As much of a conversation as a model can read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Literal

from llmgine.bus.options import check_number
from llmgine.errors import ConfigurationError, ContextLengthError, LLMgineError
from llmgine.llm.context.events import ContextCompactedEvent
from llmgine.llm.context.fitting import Fitting
from llmgine.llm.context.memory import SimpleChatHistory
from llmgine.llm.context.summary import Summarise, Summary
from llmgine.llm.context.tokens import Measure, TokenCounter, TokenEstimate, measure
from llmgine.llm.providers.base import Provider
from llmgine.llm.types import LLMConversation, ModelFormattedDictTool, Usage

__all__ = ["ContextView", "ContextWindow"]

_log = logging.getLogger("llmgine.context")


@dataclass(frozen=True, slots=True)
class ContextView:
    """What a model reads of a conversation."""

    messages: LLMConversation
    tokens: int
    """Of messages and tools, as they were counted."""
    left_out: frozenset[str]
    """The ids of the messages that it does not read, nor a summary of them."""
    summary: Summary | None
    """What stands for the oldest messages."""
    compaction: ContextCompactedEvent | None
    """What is to be published: None if it reads all that it read before."""
    measure: Measure
    """Of messages and tools, for `ContextWindow.observe`."""


class ContextWindow:
    """Chooses what a model reads, so that it and the reply fit.

    The system prompt, the tools, the last user message and the last group stay: if these alone are too long, that is an
    error. All that is left out stays in the history.

    Args:
        max_tokens: how many the model can have in view: messages, tools and the reply.
        strategy: `"drop_oldest"`; `"drop_middle"`, which keeps the first user message and what was done for it as long
            as it can; or a `Summarise`.
        reserve_tokens: room for the reply.
        count: counts tokens, for providers without a `count_tokens` of their own; by default an estimate.

    Raises:
        ConfigurationError: there is no room for messages, or no such strategy.
    """

    def __init__(
        self,
        max_tokens: int,
        *,
        strategy: Literal["drop_oldest", "drop_middle"] | Summarise = "drop_oldest",
        reserve_tokens: int = 1_024,
        count: TokenCounter | None = None,
    ) -> None:
        check_number("reserve_tokens", reserve_tokens, int, "a number of tokens, at least 0")
        least = reserve_tokens + 1
        check_number("max_tokens", max_tokens, int, f"more than the {reserve_tokens} tokens of the reply", least=least)
        if not (isinstance(strategy, Summarise) or strategy in {"drop_oldest", "drop_middle"}):
            msg = f"The strategy must be 'drop_oldest', 'drop_middle' or a Summarise; got {strategy!r}."
            raise ConfigurationError(msg)
        self.max_tokens = max_tokens
        self.reserve_tokens = reserve_tokens
        self._strategy = strategy
        self._count = count
        self._estimate = TokenEstimate()

    async def fit(
        self,
        history: SimpleChatHistory,
        *,
        tools: Sequence[ModelFormattedDictTool] = (),
        provider: Provider | None = None,
    ) -> ContextView:
        """Return what the model reads. The history is told what was left out, and keeps a summary; no more.

        Args:
            history: the conversation.
            tools: what is sent with it.
            provider: which is to read it; its `count_tokens` counts, if it has one.

        Raises:
            ContextLengthError: what must stay is too long.
        """
        strategy = self._strategy
        fitting = Fitting(history, tools, room=self._room, keep_first=strategy == "drop_middle")
        error, usage = "", Usage()
        if isinstance(strategy, Summarise):
            fitting.leave_out_as_before()  # what a summary could not be made of, so that it is not tried all the time
        tokens_before = tokens = await self._tokens(fitting, tools, provider)
        messages_before = len(fitting.messages)
        if tokens > self._room and isinstance(strategy, Summarise):
            try:
                usage = await fitting.summarise(strategy, tokens)
            except Exception as failure:  # noqa: BLE001  # whatever it is, the conversation can go on without
                error = f"{type(failure).__name__}: {failure}".removesuffix(": ")
            tokens = await self._tokens(fitting, tools, provider)
        while tokens > self._room and fitting.leave_out(tokens):
            tokens = await self._tokens(fitting, tools, provider)
        if tokens > self._room and fitting.summary is not None:
            fitting.summary = None
            error = error or "The summary does not fit beside what must stay."
            tokens = await self._tokens(fitting, tools, provider)
        if tokens > self._room:
            raise self._too_long(tokens, provider)
        messages = fitting.messages
        compaction = None
        if new := fitting.take_effect():
            compaction = ContextCompactedEvent(
                strategy="summarise" if isinstance(strategy, Summarise) else strategy,
                message_ids=new,
                messages_before=messages_before,
                messages_after=len(messages),
                tokens_before=tokens_before,
                tokens_after=tokens,
                summary="" if fitting.summary is None or error else fitting.summary.text,
                usage=usage,
                error=error,
            )
        return ContextView(
            messages=messages,
            tokens=tokens,
            left_out=history.left_out,
            summary=fitting.summary,
            compaction=compaction,
            measure=measure(messages, tools),
        )

    def observe(self, view: ContextView, usage: Usage | None) -> None:
        """Learn from what a provider has counted how long texts are in tokens.

        Args:
            view: what it was sent.
            usage: of that request alone.
        """
        if usage is not None:
            self._estimate.observe(view.measure, usage.input_tokens)

    @property
    def _room(self) -> int:
        return self.max_tokens - self.reserve_tokens

    async def _tokens(
        self, fitting: Fitting, tools: Sequence[ModelFormattedDictTool], provider: Provider | None
    ) -> int:
        messages = fitting.messages
        count: TokenCounter = getattr(provider, "count_tokens", None) or self._count or self._estimate
        try:
            counted = count(messages, tools=tools)
            return await counted if isawaitable(counted) else counted
        except LLMgineError as error:
            _log.warning("Tokens cannot be counted, and are estimated instead: %s", error)
            return self._estimate(messages, tools=tools)

    def _too_long(self, tokens: int, provider: Provider | None) -> ContextLengthError:
        msg = (
            f"The last question and what belongs to it come to about {tokens:,} tokens with the system prompt and the "
            f"tools, and {self._room:,} fit beside the reply. Shorten them, or use a model that reads more."
        )
        return ContextLengthError(msg, provider=getattr(provider, "name", ""), model=getattr(provider, "model", ""))
