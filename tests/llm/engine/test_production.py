"""What an engine in production has around its loop: budgets, a window, approvals, forms, tools that know their run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from llmgine.bus import MessageBus
from llmgine.errors import ProviderUnavailableError, ToolRegistrationError
from llmgine.llm.approvals import Approvals, DecideApprovalCommand, ToolApprovalRequestedEvent
from llmgine.llm.budgets import Budget, BudgetExceededEvent, Limits
from llmgine.llm.context import ContextCompactedEvent, ContextWindow, conversation_faults
from llmgine.llm.engine import (
    LLMEngine,
    LLMResponseEvent,
    PartialOutputEvent,
    PromptCommand,
    ReplyRestartedEvent,
    TextChunkEvent,
)
from llmgine.llm.output import ANSWER_TOOL
from llmgine.llm.prices import Price, PriceTable
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext
from llmgine.llm.tools.tool_events import ToolExecuteResultEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import Chunk, Finish, FinishReason, Restart, TextDelta, Usage
from llmgine.messages import Event, SessionID

A = SessionID("a")


class City(BaseModel):
    name: str
    people: int = Field(gt=0)


def script(*replies: Reply | str) -> ScriptedProvider:
    return ScriptedProvider([Reply(each) if isinstance(each, str) else each for each in replies])


def call(name: str, arguments: str = "{}", id_: str = "1") -> Reply:
    return Reply(tool_calls=[ToolCall(id_, name=name, arguments=arguments)])


async def ask(bus: MessageBus, prompt: str = "hi", output_type: Any = None) -> tuple[list[Event], Any]:
    stream: Any = bus.stream(PromptCommand(prompt, output_type, session_id=A))
    events = [event async for event in stream]
    return events, stream.result


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


# Answers of a form


async def test_an_answer_of_a_form_is_a_value_and_comes_in_parts(bus: MessageBus) -> None:
    provider = script('{"name": "Kyoto", "people": 1450000}')
    LLMEngine(bus, provider)
    events, result = await ask(bus, "A city?", City)

    assert result.result == City(name="Kyoto", people=1450000)
    response_format = provider.requests[0].response_format
    assert response_format is not None
    assert response_format.schema["required"] == ["name", "people"]
    assert of(PartialOutputEvent, events)[-1].output == {"name": "Kyoto", "people": 1450000}
    assert of(LLMResponseEvent, events)[0].text == '{"name": "Kyoto", "people": 1450000}'


@pytest.mark.parametrize(("output_type", "text", "value"), [(list[int], '{"value": [1, 2]}', [1, 2]), (int, "7", 7)])
async def test_what_is_no_object_is_asked_for_as_one(bus: MessageBus, output_type: Any, text: str, value: Any) -> None:
    provider = script(text)
    LLMEngine(bus, provider)
    _, result = await ask(bus, "?", output_type)

    assert result.result == value
    assert provider.requests[0].response_format is not None
    assert provider.requests[0].response_format.schema["required"] == ["value"]


async def test_a_model_is_told_what_is_wrong_and_answers_again(bus: MessageBus) -> None:
    provider = script(
        "Kyoto, I think", '```json\n{"name": "Kyoto", "people": 0}\n```', '{"name": "Kyoto", "people": 1}'
    )
    engine = LLMEngine(bus, provider)
    _, result = await ask(bus, "A city?", City)

    assert result.result == City(name="Kyoto", people=1)
    told = [request.messages[-1]["content"] for request in provider.requests[1:]]
    assert told[0].startswith("That is no JSON")
    assert "people: Input should be greater than 0" in told[1]
    assert conversation_faults(engine.conversation(A).get_messages()) == []


async def test_a_model_that_keeps_missing_the_form_ends_in_an_error(bus: MessageBus) -> None:
    provider = script("no", "no", "no", "never asked")
    LLMEngine(bus, provider)
    _, result = await ask(bus, "A city?", City)

    assert (result.error or "").startswith("OutputFormError: The model gave no answer of the form")
    assert len(provider.requests) == 3


async def test_where_no_schema_can_be_given_the_answer_is_a_tool_call(bus: MessageBus) -> None:
    provider = script(call(ANSWER_TOOL, '{"name": "Kyoto", "people": 2}'))
    provider.supports_json_schema = False
    engine = LLMEngine(bus, provider)
    _, result = await ask(bus, "A city?", City)

    assert result.result == City(name="Kyoto", people=2)
    assert [tool["function"]["name"] for tool in provider.requests[0].tools] == [ANSWER_TOOL]
    assert conversation_faults(engine.conversation(A).get_messages()) == []


async def test_a_type_without_a_schema_is_refused_before_the_model_is_asked(bus: MessageBus) -> None:
    provider = script("never asked")
    LLMEngine(bus, provider)

    class Opaque:
        pass

    _, result = await ask(bus, "?", Opaque)

    assert (result.error or "").startswith("ConfigurationError: output_type=")
    assert provider.requests == []


async def test_tools_may_be_used_on_the_way_to_an_answer_of_a_form(bus: MessageBus) -> None:
    def count_people(city: str) -> int:
        """Count."""
        return 42

    tools = ToolManager()
    tools.register_tool(count_people)
    LLMEngine(bus, script(call("count_people", '{"city": "Ine"}'), '{"name": "Ine", "people": 42}'), tools=tools)
    _, result = await ask(bus, "How many live in Ine?", City)

    assert result.result == City(name="Ine", people=42)


# Budgets


async def test_a_run_that_is_out_of_requests_fails_and_keeps_a_valid_history(bus: MessageBus) -> None:
    tools = ToolManager()
    tools.register_tool(lambda: "again", name="look")
    provider = script(call("look"), call("look"), "never")
    engine = LLMEngine(bus, provider, tools=tools, limits=Limits(requests=2))
    events, result = await ask(bus)
    await bus.wait_for_events()

    assert (result.error or "").startswith("BudgetExceededError")
    assert len(provider.requests) == 2
    assert conversation_faults(engine.conversation(A).get_messages()) == []
    assert len(of(BudgetExceededEvent, events)) == 1


async def test_a_run_at_its_limit_may_answer_with_what_it_has(bus: MessageBus) -> None:
    tools = ToolManager()
    tools.register_tool(lambda: "so far", name="look")
    provider = script(call("look"), call("look"), "What I know so far.")
    budget = Budget(Limits(requests=3), on_limit="finish")
    LLMEngine(bus, provider, tools=tools, budget=budget)
    _, result = await ask(bus)

    assert result.result == "What I know so far."
    assert provider.requests[-1].tools == []
    assert budget.used.requests == 3


async def test_all_prompts_of_an_engine_share_its_budget_and_never_pass_it(bus: MessageBus) -> None:
    provider = ScriptedProvider([Reply("ok", usage=Usage(1000, 1000)) for _ in range(50)])
    prices = PriceTable({"scripted:script": Price(input=Decimal(1000), output=Decimal(1000))})
    budget = Budget(Limits(cost=Decimal(40)), prices=prices)
    LLMEngine(bus, provider, budget=budget)
    prompts = [PromptCommand[str](f"{n}", session_id=SessionID(f"{n}")) for n in range(50)]
    results = await asyncio.gather(*map(bus.execute, prompts))

    succeeded = sum(result.success for result in results)
    assert budget.used.cost == 2 * succeeded
    assert 0 < budget.used.cost <= 40
    assert all("BudgetExceededError" in (result.error or "") for result in results if not result.success)


async def test_a_tool_call_beyond_the_limit_is_not_run(bus: MessageBus) -> None:
    ran: list[str] = []
    tools = ToolManager()
    tools.register_tool(lambda: ran.append("x"), name="act")
    two = Reply(tool_calls=[ToolCall("1", name="act"), ToolCall("2", name="act")])
    engine = LLMEngine(bus, script(two, "done"), tools=tools, budget=Budget(Limits(tool_calls=1), on_limit="finish"))
    events, result = await ask(bus)

    assert result.result == "done"
    assert ran == ["x"]
    assert [event.execution_succeed for event in of(ToolExecuteResultEvent, events)] == [True, False]
    assert conversation_faults(engine.conversation(A).get_messages()) == []


async def test_a_run_that_is_out_of_time_ends(bus: MessageBus) -> None:
    LLMEngine(bus, script(Reply("slow", hold=asyncio.Event())), limits=Limits(seconds=0.05))
    _, result = await ask(bus)

    assert (result.error or "").startswith("BudgetExceededError")


async def test_a_request_that_failed_at_once_costs_nothing(bus: MessageBus) -> None:
    budget = Budget(Limits(requests=1))
    LLMEngine(bus, script(Reply(error=ProviderUnavailableError("no network")), "fine"), budget=budget)

    assert (await ask(bus))[1].success is False
    assert budget.used.requests == 0
    assert (await ask(bus))[1].result == "fine"


# The window


async def test_a_model_reads_as_much_as_fits_and_everybody_is_told_what_it_does_not(bus: MessageBus) -> None:
    provider = script(*["word " * 40] * 6)
    engine = LLMEngine(bus, provider, window=ContextWindow(200, reserve_tokens=20))
    seen: list[Event] = []
    for n in range(6):
        events, result = await ask(bus, f"question {n}")
        assert result.success, result.error
        seen += of(ContextCompactedEvent, events)

    assert seen
    assert {event.session_id for event in seen} == {A}
    assert len(provider.requests[-1].messages) < len(engine.conversation(A).get_messages())
    assert provider.requests[-1].messages[-1]["content"] == "question 5"


# Approvals


@dataclass
class Till:
    paid: int = 0

    def pay(self, amount: int) -> str:
        """Pay."""
        self.paid += amount
        return "paid"


@pytest.mark.parametrize("approve", [True, False])
async def test_a_tool_that_needs_approval_runs_when_somebody_agrees_and_once(bus: MessageBus, approve: bool) -> None:
    till, tools = Till(), ToolManager()
    tools.register_tool(till.pay, requires_approval=True)
    approvals = Approvals(bus)
    LLMEngine(bus, script(call("pay", '{"amount": 5}'), "done"), tools=tools, approvals=approvals)

    async def decide(event: ToolApprovalRequestedEvent) -> None:
        await bus.execute(DecideApprovalCommand(event.approval_id, approve=approve, reason="because"))

    bus.register_event_handler(ToolApprovalRequestedEvent, decide)
    events, result = await ask(bus)

    assert result.result == "done"
    assert till.paid == (5 if approve else 0)
    (ran,) = of(ToolExecuteResultEvent, events)
    assert ran.execution_succeed is approve
    assert approve or "because" in ran.tool_result


@pytest.mark.parametrize(("amount", "paid"), [(5, 5), (500, 0)])
async def test_whether_approval_is_needed_may_depend_on_the_arguments(bus: MessageBus, amount: int, paid: int) -> None:
    till, tools = Till(), ToolManager()
    tools.register_tool(till.pay, requires_approval=lambda arguments: arguments["amount"] > 100)
    LLMEngine(bus, script(call("pay", f'{{"amount": {amount}}}'), "done"), tools=tools)
    await ask(bus)

    assert till.paid == paid


@pytest.mark.parametrize("wrong", ["yes", 1, asyncio.sleep])
def test_a_requirement_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ToolRegistrationError, match="requires_approval must be"):
        ToolManager().register_tool(lambda: None, name="act", requires_approval=wrong)


async def test_without_anybody_to_ask_it_does_not_run(bus: MessageBus) -> None:
    till, tools = Till(), ToolManager()
    tools.register_tool(till.pay, requires_approval=True)
    LLMEngine(bus, script(call("pay", '{"amount": 5}'), "done"), tools=tools)
    events, result = await ask(bus)

    assert (result.result, till.paid) == ("done", 0)
    assert "nobody here to ask" in of(ToolExecuteResultEvent, events)[0].tool_result


# Tools


async def test_a_tool_knows_for_whom_it_runs_and_may_publish(bus: MessageBus) -> None:
    @dataclass
    class Progressed(Event):
        pass

    contexts: list[ToolContext] = []

    async def look(context: ToolContext) -> str:
        """Look."""
        contexts.append(context)
        await context.publish(Progressed())
        return "seen"

    tools = ToolManager()
    tools.register_tool(look)
    engine = LLMEngine(bus, script(call("look"), call("look", id_="2"), "done"), tools=tools)
    events, _ = await ask(bus)

    assert {(each.session_id, each.engine_id) for each in contexts} == {(A, engine.engine_id)}
    assert len({each.run_id for each in contexts}) == 1
    assert len({each.idempotency_key for each in contexts}) == 2
    assert [event.session_id for event in of(Progressed, events)] == [A, A]


@pytest.mark.parametrize("ids", [("1", "1"), ("", ""), ("", "1")])
async def test_calls_that_share_an_id_or_have_none_are_told_apart(bus: MessageBus, ids: tuple[str, str]) -> None:
    tools = ToolManager()
    tools.register_tool(lambda n: f"got {n}", name="get")
    calls = [ToolCall(id_, name="get", arguments=f'{{"n": {n}}}') for n, id_ in enumerate(ids)]
    provider = script(Reply(tool_calls=calls), "done")
    LLMEngine(bus, provider, tools=tools)
    await ask(bus)

    results = [message for message in provider.requests[1].messages if message["role"] == "tool"]
    assert [message["content"] for message in results] == ["got 0", "got 1"]
    assert len({message["tool_call_id"] for message in results}) == 2


@pytest.mark.parametrize("arguments", ['{"n": ', "[1]", "null", "", "\ud800"])
async def test_arguments_that_are_broken_go_back_to_the_model_and_spoil_nothing(
    bus: MessageBus, arguments: str
) -> None:
    tools = ToolManager()
    tools.register_tool(lambda n: n, name="get")
    provider = script(call("get", arguments), "sorry")
    engine = LLMEngine(bus, provider, tools=tools)
    _, result = await ask(bus)

    assert result.result == "sorry"
    conversation = engine.conversation(A).get_messages()
    assert conversation_faults(conversation) == []
    assert conversation[2]["content"].startswith("Error")


async def test_a_reply_that_begins_again_is_the_second_one(bus: MessageBus) -> None:
    class Again:
        name, model = "again", "test"

        async def stream(
            self, messages: Sequence[Any], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
        ) -> AsyncGenerator[Chunk, None]:
            yield TextDelta("Once")
            yield Restart("the first one broke off")
            yield TextDelta("Twice")
            yield Finish(FinishReason.STOP)

        async def aclose(self) -> None:
            pass

    LLMEngine(bus, Again())
    events, result = await ask(bus)

    assert result.result == "Twice"
    assert [type(event) for event in events if isinstance(event, TextChunkEvent | ReplyRestartedEvent)] == [
        TextChunkEvent,
        ReplyRestartedEvent,
        TextChunkEvent,
    ]


async def test_who_reads_gets_the_first_piece_before_the_last_has_come(bus: MessageBus) -> None:
    class AtOnce:
        name, model = "at once", "test"
        left = 100

        async def stream(
            self, messages: Sequence[Any], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
        ) -> AsyncGenerator[Chunk, None]:
            while self.left:
                self.left -= 1
                yield TextDelta("x")
            yield Finish(FinishReason.STOP)

        async def aclose(self) -> None:
            pass

    provider = AtOnce()
    LLMEngine(bus, provider)
    stream = bus.stream(PromptCommand("hi", session_id=A))
    left = [provider.left async for event in stream if isinstance(event, TextChunkEvent)]

    assert len(left) == 100
    assert left[0] == 99
