"""How long a reply may be: what is sent with a request, and what becomes of a reply that is cut short."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError
from llmgine.llm.budgets import Budget, Limits
from llmgine.llm.context import ContextWindow, conversation_faults
from llmgine.llm.engine import LLMEngine, LLMResponseEvent, PromptCommand
from llmgine.llm.engine.base import EngineOptions
from llmgine.llm.prices import Price, PriceTable
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.types import FinishReason, Usage
from llmgine.messages import SessionID

A = SessionID("a")


async def ask(bus: MessageBus, prompt: str = "hi") -> tuple[Any, Any]:
    stream: Any = bus.stream(PromptCommand(prompt, session_id=A))
    events = [event async for event in stream if isinstance(event, LLMResponseEvent)]
    return stream.result, events[0] if events else None


PRICES = PriceTable({"scripted:script": Price(input=Decimal(0), output=Decimal(1))})


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, None),
        ({"max_output_tokens": 50}, 50),
        ({"limits": Limits(requests=5, seconds=60, tool_calls=5, input_tokens=1_000)}, None),
        ({"limits": Limits(requests=5), "max_output_tokens": 50}, 50),
        ({"limits": Limits(output_tokens=10_000)}, 4_096),
        ({"limits": Limits(output_tokens=10_000), "max_output_tokens": 6_000}, 6_000),
        ({"limits": Limits(output_tokens=300), "max_output_tokens": 6_000}, 300),
        ({"limits": Limits(output_tokens=300), "max_output_tokens": 10}, 10),
        ({"budget": Budget(Limits(cost=Decimal("0.0002")), prices=PRICES)}, 200),
        ({"budget": Budget(Limits(output_tokens=300), on_limit="warn")}, None),
    ],
)
async def test_a_request_says_how_long_its_reply_may_be(
    bus: MessageBus, options: EngineOptions, sent: int | None
) -> None:
    provider = ScriptedProvider([Reply("fine")])
    LLMEngine(bus, provider, **options)
    assert (await ask(bus))[0].result == "fine"
    assert provider.requests[0].max_output_tokens == sent


async def test_what_is_left_becomes_less_with_every_reply_until_there_is_no_room(bus: MessageBus) -> None:
    provider = ScriptedProvider([Reply("one " * 90), Reply("two " * 90), Reply("never asked")])
    budget = Budget(Limits(output_tokens=150))
    LLMEngine(bus, provider, budget=budget)

    first, second, third = [await ask(bus) for _ in range(3)]
    assert [request.max_output_tokens for request in provider.requests] == [150, 60]
    assert (first[1].finish_reason, second[1].finish_reason) == (FinishReason.STOP, FinishReason.LENGTH)
    assert second[0].result.split() == ["two"] * 60
    assert (third[0].error or "").startswith("BudgetExceededError")
    assert budget.used.output_tokens == 150


async def test_tokens_that_were_read_are_taken_from_what_may_be_written(bus: MessageBus) -> None:
    provider = ScriptedProvider([Reply("fine")])
    LLMEngine(bus, provider, limits=Limits(total_tokens=400))
    await ask(bus, "word " * 100)
    assert 200 < (provider.requests[0].max_output_tokens or 0) < 300


async def test_a_window_that_counts_more_than_is_estimated_is_believed(bus: MessageBus) -> None:
    provider = ScriptedProvider([Reply("fine")])
    window = ContextWindow(2_000, count=lambda messages, *, tools=(): 300)
    LLMEngine(bus, provider, limits=Limits(total_tokens=400), window=window)
    await ask(bus)
    assert provider.requests[0].max_output_tokens == 100


async def test_the_last_answer_may_be_as_long_as_what_was_set_aside_for_it(bus: MessageBus) -> None:
    tools = ToolManager()
    tools.register_tool(lambda: "so far", name="look")
    look = Reply(tool_calls=[ToolCall("1", name="look")], usage=Usage(1, 95))
    provider = ScriptedProvider([look, Reply("What I know so far.")])
    budget = Budget(Limits(output_tokens=200), on_limit="finish", set_aside=Limits(output_tokens=100))
    LLMEngine(bus, provider, tools=tools, budget=budget)

    assert (await ask(bus))[0].result == "What I know so far."
    assert [request.max_output_tokens for request in provider.requests] == [100, 105]


async def test_a_call_of_a_tool_that_is_cut_short_goes_back_to_the_model(bus: MessageBus) -> None:
    ran: list[str] = []
    tools = ToolManager()

    def say(text: str) -> None:
        ran.append(text)

    tools.register_tool(say)
    cut = Reply(tool_calls=[ToolCall("1", name="say", arguments='{"ob')], finish_reason=FinishReason.LENGTH)
    engine = LLMEngine(bus, ScriptedProvider([cut, Reply("Sorry.")]), tools=tools, max_output_tokens=5)

    assert (await ask(bus))[0].result == "Sorry."
    assert ran == []
    assert conversation_faults(engine.conversation(A).get_messages()) == []


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many"])
def test_a_length_that_is_none_is_refused(bus: MessageBus, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_output_tokens must be"):
        LLMEngine(bus, ScriptedProvider([]), max_output_tokens=wrong)
