"""What servers have the engine's model write: only where that is allowed, agreed to and paid for."""

from __future__ import annotations

import asyncio
import base64
import gc
from typing import Annotated, Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer, Resolve
from mcp.server.mcpserver.resolve import Sample
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    AudioContent,
    CreateMessageRequestParams,
    CreateMessageResult,
    ErrorData,
    ImageContent,
    SamplingMessage,
    TextContent,
    Tool,
    ToolChoice,
    ToolUseContent,
)

from llmgine.bus import MessageBus
from llmgine.errors import BudgetExceededError, ProviderUnavailableError
from llmgine.llm.approvals import Approvals, ToolApprovalRequestedEvent
from llmgine.llm.budgets import Budget, BudgetExceededEvent, Limits
from llmgine.llm.engine import LLMEngine
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.elicitation import AskPerson
from llmgine.llm.tools.mcp.server_question import MAX_OPEN
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import FinishReason, Usage
from llmgine.messages import SessionID

A = SessionID("a")
ALLOWED = MCPServerConfig(command="x", sampling=True)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 16).decode()


def text(words: str, role: Any = "user") -> SamplingMessage:
    return SamplingMessage(role=role, content=TextContent(text=words))


def request(*messages: SamplingMessage, max_tokens: int = 50, **more: Any) -> CreateMessageRequestParams:
    return CreateMessageRequestParams(messages=[*(messages or [text("Hi")])], max_tokens=max_tokens, **more)


def engine(bus: MessageBus, *replies: Reply | str, **options: Any) -> LLMEngine:
    provider = ScriptedProvider([Reply(each) if isinstance(each, str) else each for each in replies])
    return LLMEngine(bus, provider, tools=ToolManager(), **options)


async def ask(
    made: LLMEngine,
    params: CreateMessageRequestParams,
    config: MCPServerConfig = ALLOWED,
    context: ToolContext | None = None,
) -> CreateMessageResult | ErrorData:
    assert made.tools is not None
    assert made.tools.mcp.on_sampling is not None
    async with asyncio.timeout(10):
        return await made.tools.mcp.on_sampling("agency", config, params, context)


def refused(answer: CreateMessageResult | ErrorData) -> str:
    assert isinstance(answer, ErrorData)
    return answer.message


def said(answer: CreateMessageResult | ErrorData) -> str:
    assert isinstance(answer, CreateMessageResult)
    assert isinstance(answer.content, TextContent)
    return answer.content.text


def ask_model() -> Sample:
    return Sample([text("Say something")], max_tokens=9, system_prompt="Be brief.")


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_what_the_model_writes_reaches_the_tool_that_asked(bus: MessageBus, mode: Any) -> None:
    made = engine(bus, "So be it.")
    server = MCPServer("agency")

    @server.tool()
    async def write(answer: Annotated[CreateMessageResult, Resolve(ask_model)]) -> str:
        return answer.model_dump_json()

    async def sample(context: Any, params: Any) -> Any:
        assert context.session is not None
        return await ask(made, params)

    async with asyncio.timeout(20), Client(server, mode=mode, sampling_callback=sample) as client:
        result = await client.call_tool("write", {})
    assert isinstance(result.content[0], TextContent)
    written = CreateMessageResult.model_validate_json(result.content[0].text)

    assert (said(written), written.role, written.stop_reason) == ("So be it.", "assistant", "endTurn")
    assert isinstance(made.provider, ScriptedProvider)
    assert written.model == made.provider.model
    (asked,) = made.provider.requests
    assert asked.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say something"},
    ]
    assert (asked.max_output_tokens, asked.tools) == (9, [])


async def test_texts_and_pictures_become_messages_and_preferences_are_passed_over(bus: MessageBus) -> None:
    made = engine(bus, "A cat.")
    picture = ImageContent(data=PNG, mime_type="image/png")
    params = request(
        SamplingMessage(role="user", content=[TextContent(text="What is that?"), picture]),
        SamplingMessage(role="assistant", content=[TextContent(text="Which"), TextContent(text="one?")]),
        text("The first"),
        temperature=2.0,
        include_context="allServers",
        stop_sequences=["\n"],
    )

    assert said(await ask(made, params)) == "A cat."
    assert isinstance(made.provider, ScriptedProvider)
    first, second, third = made.provider.requests[0].messages
    assert first["content"][0] == {"type": "text", "text": "What is that?"}
    assert first["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    assert (second, third["content"]) == ({"role": "assistant", "content": "Which\none?"}, "The first")


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (request(tools=[Tool(name="x", input_schema={"type": "object"})]), "takes no tools"),
        (request(tool_choice=ToolChoice(mode="none")), "takes no tools"),
        (request(max_tokens=0), "at least 1"),
        (request(SamplingMessage(role="user", content=AudioContent(data="", mime_type="audio/wav"))), "not audio"),
        (
            request(SamplingMessage(role="assistant", content=ToolUseContent(name="x", id="1", input={}))),
            "not tool_use",
        ),
        (
            request(SamplingMessage(role="assistant", content=ImageContent(data=PNG, mime_type="image/png"))),
            "not image of the assistant",
        ),
        (request(SamplingMessage(role="user", content=ImageContent(data="!", mime_type="image/png"))), "in base64"),
        (request(SamplingMessage(role="user", content=ImageContent(data="QUJD", mime_type="image/png"))), "PNG, JPEG"),
    ],
)
async def test_what_the_model_cannot_do_is_refused_unasked(
    bus: MessageBus, params: CreateMessageRequestParams, why: str
) -> None:
    made = engine(bus)
    answer = await ask(made, params)
    assert why in refused(answer)
    assert isinstance(answer, ErrorData)
    assert answer.code == INVALID_PARAMS


async def test_it_is_off_unless_the_servers_configuration_allows_it(bus: MessageBus) -> None:
    answer = await ask(engine(bus), request(), MCPServerConfig(command="x"))
    assert isinstance(answer, ErrorData)
    assert (answer.code, answer.message) == (INVALID_REQUEST, "This server may not use the model.")


@pytest.mark.parametrize(
    ("reply", "stopped"),
    [
        (Reply("one two three four"), "maxTokens"),
        (Reply("one", finish_reason=FinishReason.CONTENT_FILTER), "contentFilter"),
    ],
)
async def test_why_the_model_stopped_is_told(bus: MessageBus, reply: Reply, stopped: str) -> None:
    answer = await ask(engine(bus, reply), request(max_tokens=2))
    assert isinstance(answer, CreateMessageResult)
    assert answer.stop_reason == stopped


async def test_the_engines_own_limit_of_a_reply_holds_too(bus: MessageBus) -> None:
    made = engine(bus, "one two three", max_output_tokens=2)
    await ask(made, request(max_tokens=1000))
    assert isinstance(made.provider, ScriptedProvider)
    assert made.provider.requests[0].max_output_tokens == 2


async def test_it_is_paid_from_the_engines_budget_and_refused_when_that_is_spent(bus: MessageBus) -> None:
    events: list[BudgetExceededEvent] = []
    bus.register_event_handler(BudgetExceededEvent, events.append)
    budget = Budget(Limits(requests=2))
    failing = Reply(error=ProviderUnavailableError("the key sk-1234 is wrong"))
    made = engine(bus, Reply("Yes.", usage=Usage(10, 5)), failing, "Never.", budget=budget)

    assert said(await ask(made, request())) == "Yes."
    assert (budget.used.requests, budget.used.input_tokens, budget.used.output_tokens) == (1, 10, 5)
    assert refused(await ask(made, request())) == "The model could not answer."  # and of the account, nothing
    assert budget.used.requests == 1
    made.provider = ScriptedProvider([Reply("Yes."), Reply("Never.")])
    assert said(await ask(made, request())) == "Yes."
    assert refused(await ask(made, request(), context=ToolContext(session_id=A))) == "There is no budget left for it."
    await bus.wait_for_events()
    assert [event.session_id for event in events] == [A]


async def test_it_is_paid_from_the_budget_of_the_prompt_whose_tool_asks(bus: MessageBus) -> None:
    answers: list[Any] = []
    made = engine(bus, limits=Limits(requests=3))

    async def tool(context: ToolContext) -> str:
        answers.extend([await ask(made, request(), context=context) for _ in range(2)])
        return "done"

    assert made.tools is not None
    made.tools.register_tool(tool)
    calls = Reply(tool_calls=[ToolCall("1", name="tool")])
    made.provider = ScriptedProvider([calls, Reply("Sampled."), Reply("Sampled."), Reply("Never.")])
    with pytest.raises(BudgetExceededError, match="requests"):  # after the prompt's first, and the server's two
        await made.respond("hi", A)
    assert [said(answer) for answer in answers] == ["Sampled.", "Sampled."]
    gc.collect()
    assert not made._budgets


REQUIRES: list[tuple[Any, bool]] = [
    (True, True),
    (("*",), True),
    (("sampling/createMessage",), True),
    (("write",), False),
    (False, False),
]


@pytest.mark.parametrize(("required", "asked"), REQUIRES)
async def test_a_person_agrees_first_where_the_configuration_says_so(
    bus: MessageBus, required: Any, asked: bool
) -> None:
    config = MCPServerConfig(command="x", sampling=True, requires_approval=required)
    approvals = Approvals(bus)
    requests: list[ToolApprovalRequestedEvent] = []
    decisions = [True, False]

    async def decide(event: ToolApprovalRequestedEvent) -> None:
        requests.append(event)
        await approvals.decide(event.approval_id, approve=decisions.pop(0))

    bus.register_event_handler(ToolApprovalRequestedEvent, decide)
    made = engine(bus, "Yes.", "Yes.", approvals=approvals)
    picture = SamplingMessage(role="user", content=ImageContent(data=PNG, mime_type="image/png"))
    assert said(await ask(made, request(text("Hi"), picture), config, ToolContext(session_id=A))) == "Yes."
    second = await ask(made, request(), config)

    if not asked:
        assert said(second) == "Yes."
        assert requests == []
        return
    assert isinstance(second, ErrorData)
    assert (second.code, second.message) == (-1, "The user has not agreed to it.")
    assert (requests[0].tool_name, requests[0].session_id) == ("agency/sampling", A)
    assert requests[0].arguments == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": [{"type": "a picture"}]}],
        "max_tokens": 50,
    }
    assert "The MCP server agency wants the model to answer this" in requests[0].note


async def test_where_a_person_must_agree_and_nobody_can_be_asked_it_is_refused(bus: MessageBus) -> None:
    config = MCPServerConfig(command="x", sampling=True, requires_approval=True)
    assert "nobody to ask" in refused(await ask(engine(bus), request(), config))


async def test_the_calls_deadline_is_the_models_too_and_a_cancellation_ends_the_request(bus: MessageBus) -> None:
    never = Reply("Wait", hold=asyncio.Event())
    made = engine(bus, never, never, budget=(budget := Budget(Limits(requests=5))))
    soon = ToolContext(deadline=asyncio.get_running_loop().time() + 0.05)
    assert "in time" in refused(await ask(made, request(), context=soon))
    task = asyncio.create_task(ask(made, request()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert budget.reserved.requests == 0


async def test_an_engine_answers_the_servers_of_its_tools_unless_others_do(bus: MessageBus) -> None:
    approvals = Approvals(bus)
    made = engine(bus, approvals=approvals)
    assert made.tools is not None
    assert isinstance(made.tools.mcp.on_elicitation, AskPerson)
    first = made.tools.mcp.on_sampling
    LLMEngine(bus, ScriptedProvider([]), tools=made.tools, session_id=A)
    assert made.tools.mcp.on_sampling is first
    assert made.tools.mcp.bus is bus
    alone = engine(bus, session_id=SessionID("b"))
    assert alone.tools is not None
    assert alone.tools.mcp.on_elicitation is None


async def test_a_no_to_one_picture_is_none_to_another(bus: MessageBus) -> None:
    config = MCPServerConfig(command="x", sampling=True, requires_approval=True)
    approvals = Approvals(bus)
    decisions = [False, True]

    async def decide(event: ToolApprovalRequestedEvent) -> None:
        await approvals.decide(event.approval_id, approve=decisions.pop(0))

    bus.register_event_handler(ToolApprovalRequestedEvent, decide)
    made = engine(bus, "Yes.", approvals=approvals)
    context = ToolContext(idempotency_key="k")

    def about(picture: bytes) -> CreateMessageRequestParams:
        data = base64.b64encode(b"GIF89a" + picture).decode()
        return request(SamplingMessage(role="user", content=ImageContent(data=data, mime_type="image/gif")))

    assert "not agreed" in refused(await ask(made, about(b"1"), config, context))
    assert "not agreed" in refused(await ask(made, about(b"1"), config, context))  # nobody is asked twice
    assert said(await ask(made, about(b"2"), config, context)) == "Yes."


async def test_a_server_that_asks_without_end_is_cut_off_and_others_are_not(bus: MessageBus) -> None:
    hold = asyncio.Event()
    made = engine(bus, *[Reply("Wait", hold=hold)] * MAX_OPEN, "Yes.", "Yes.")
    asked = [asyncio.create_task(ask(made, request())) for _ in range(MAX_OPEN)]
    await asyncio.sleep(0)
    assert "under way already" in refused(await ask(made, request()))
    assert made.tools is not None
    assert made.tools.mcp.on_sampling is not None
    assert said(await made.tools.mcp.on_sampling("other", ALLOWED, request(), None)) == "Yes."
    hold.set()
    assert {said(answer) for answer in await asyncio.gather(*asked)} == {"Wait"}
    assert said(await ask(made, request())) == "Yes."
