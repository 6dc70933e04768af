"""What MCP servers have the engine's model write, out of the budget of the prompt during which they ask."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from llmgine.llm.engine.setting import Setting
from llmgine.llm.engine.spending import RunSpending
from llmgine.llm.providers.base import Fold
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.types import Finish, LLMMessage, LLMResponse

__all__ = ["sample"]


async def sample(
    setting: Setting, messages: Sequence[LLMMessage], max_tokens: int, context: ToolContext
) -> LLMResponse:
    """Return the model's reply, which is part of no conversation.

    Args:
        setting: of the engine.
        messages: what the model reads.
        max_tokens: how long its reply may be, unless the engine allows less.
        context: of the call during which it is asked.

    Raises:
        BudgetExceededError: there is no room for it.
        ProviderError: the model could not answer.
    """
    provider = setting.provider
    longest = min(max_tokens, setting.max_output_tokens or max_tokens)
    spending = RunSpending(setting.budgets.get(context.run_id, setting.budget), None, longest)
    fold, finish, begun = Fold(), None, False
    try:
        reservation, allowed = spending.reserve_request(messages, (), provider, counted=0, last=False)
        try:
            async with aclosing(provider.stream(messages, max_output_tokens=allowed)) as chunks:
                async for chunk in chunks:
                    begun = True
                    fold.add(chunk)
                    finish = chunk if isinstance(chunk, Finish) else finish
        finally:
            spending.settle_request(reservation, provider, finish, fold.text, begun=begun)
    finally:
        for event in spending.events():
            event.session_id = context.session_id
            await setting.bus.publish(event, await_processing=False)
    response = fold.response()
    return response if response.model else replace(response, model=provider.model)
