"""What users of other engines have run into, each with the thread in which they say so."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.llm.approvals import Approvals, DecideApprovalCommand, ToolApprovalRequestedEvent
from llmgine.llm.budgets import Limits
from llmgine.llm.context import SimpleChatHistory, conversation_faults
from llmgine.llm.engine import (
    EngineEvent,
    LLMEngine,
    LLMResponseEvent,
    MemoryEffectLedger,
    PromptCancelledEvent,
    PromptCommand,
    TextChunkEvent,
)
from llmgine.llm.engine.run import Run
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext, ToolManager
from llmgine.llm.tools.tool_events import ToolExecuteResultEvent, ToolManagerEvent
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMMessage, TextDelta, ToolCallDelta
from llmgine.messages import Event, SessionID
from llmgine.messages.events import EventHandlerFailedEvent

A = SessionID("a")


def call(name: str, arguments: str = "{}", id_: str = "1") -> ToolCall:
    return ToolCall(id_, name=name, arguments=arguments)


async def events_of(bus: MessageBus, command: PromptCommand[Any]) -> tuple[list[Event], Any]:
    stream = bus.stream(command)
    return [event async for event in stream], stream.result


def told(event: Event) -> tuple[Any, ...]:
    return type(event).__name__, getattr(event, "text", ""), getattr(event, "tool_result", "")


# A run that ends with nothing said: microsoft/autogen #4904


async def test_a_handler_that_fails_is_told_of_and_the_prompt_goes_on(bus: MessageBus) -> None:
    failed: list[EventHandlerFailedEvent] = []
    bus.register_event_handler(EventHandlerFailedEvent, failed.append)

    def broken(_: TextChunkEvent) -> None:
        raise RuntimeError("broken")

    bus.register_event_handler(TextChunkEvent, broken)
    LLMEngine(bus, ScriptedProvider([Reply("All is well.")]))
    _, result = await events_of(bus, PromptCommand("hi", session_id=A))
    await bus.wait_for_events()

    assert result.result == "All is well."
    assert len(failed) == 3


# Cancelling while a tool runs hangs the stream: microsoft/autogen #7956. Cancelled runs silently succeed, and sync and
# async tools fail in opposite ways: pydantic/pydantic-ai #6460, #3960, google/adk-python #2425


@pytest.mark.parametrize("kind", ["async", "swallows", "catches everything", "sync"])
async def test_however_a_tool_takes_it_a_cancelled_prompt_is_cancelled_and_keeps_what_was_done(
    bus: MessageBus, kind: str
) -> None:
    begun, let_go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def quick() -> str:
        return "quick"

    async def waits() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if kind == "async":
                raise
        return "not stopped"

    async def catches() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            raise ValueError("oh") from error
        return ""

    def blocks() -> str:
        loop.call_soon_threadsafe(begun.set)
        let_go.wait(10)
        return "done all the same"

    tools = ToolManager()
    tools.register_tool(quick)
    slow: Any = {"sync": blocks, "catches everything": catches}.get(kind, waits)
    tools.register_tool(slow, name="slow")
    provider = ScriptedProvider([Reply(tool_calls=[call("quick"), call("slow", id_="2")]), Reply("never asked")])
    engine = LLMEngine(bus, provider, tools=tools)
    ends: list[Event] = []
    for event in (PromptCancelledEvent, LLMResponseEvent):
        bus.register_event_handler(event, ends.append)

    stream = bus.stream(PromptCommand("hi", session_id=A))

    async def read() -> list[Event]:
        return [event async for event in stream]

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    loop.call_later(0.05, let_go.set)
    await asyncio.wait_for(asyncio.wait([reader]), 5)
    await bus.wait_for_events()

    assert reader.cancelled()
    assert [type(event) for event in ends] == [PromptCancelledEvent]
    assert len(provider.requests) == 1
    conversation = engine.conversation(A).get_messages()
    assert conversation_faults(conversation) == []
    results = {message["tool_call_id"]: message["content"] for message in conversation if message["role"] == "tool"}
    assert results["1"] == "quick"
    assert set(results) == {"1", "2"}


# Streaming ends at the first text, and calls behind it are not run: pydantic/pydantic-ai #2308, #3574, #2256, #7688.
# Streamed and awaited runs differ in their order: microsoft/agent-framework #5720


class Turns:
    """A model that says a text, calls tools, and says more behind the calls, in each of its first turns."""

    name, model = "turns", "test"

    def __init__(self, turns: int = 2) -> None:
        self._turns = turns

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        turn = sum(bool(message.get("tool_calls")) for message in messages)
        yield TextDelta(f"Turn {turn}.")
        if turn < self._turns:
            yield ToolCallDelta(0, f"{turn}a", "look", '{"n": 1}')
            yield TextDelta(" Between.")
            yield ToolCallDelta(1, f"{turn}b", "look", '{"n": 2}')
            yield TextDelta(" Behind.")
        yield Finish(FinishReason.TOOL_CALLS if turn < self._turns else FinishReason.STOP)

    async def aclose(self) -> None:
        pass


async def test_streamed_or_awaited_it_is_the_same_run_and_text_before_a_call_ends_nothing(bus: MessageBus) -> None:
    looked: list[int] = []
    tools = ToolManager()

    async def look(n: int) -> str:
        looked.append(n)
        await asyncio.sleep(0.002 * (3 - n))  # the second is done first
        return f"saw {n}"

    tools.register_tool(look)
    engine = LLMEngine(bus, Turns(), tools=tools)
    heard: list[Event] = []
    bus.register_event_handler(EngineEvent, heard.append)
    bus.register_event_handler(ToolManagerEvent, heard.append)

    streamed, result = await events_of(bus, PromptCommand("hi", session_id=A))
    of_the_engine = [told(event) for event in streamed if isinstance(event, EngineEvent | ToolManagerEvent)]
    assert [told(event) for event in heard] == of_the_engine
    heard.clear()
    awaited = await bus.execute(PromptCommand("hi", session_id=SessionID("b")))

    assert result.result == awaited.result == "Turn 2."
    assert [told(event) for event in heard] == of_the_engine
    assert looked == [1, 2, 1, 2] * 2
    one, other = (
        [(message.role, message.content) for message in engine.conversation(session).messages]
        for session in (A, SessionID("b"))
    )
    assert one == other
    assert [content for role, content in one if role == "tool"] == ["saw 1", "saw 2"] * 2
    assert one[1] == ("assistant", "Turn 0. Between. Behind.")


# A retry repeats the effects, and the model's call ids are of no use against that: microsoft/agent-framework #3938,
# openai/openai-agents-python #4254, crewAIInc/crewAI #5802, ComposioHQ/composio #3654


@dataclass
class Mailer:
    """A model that has a mail sent for each prompt, and then answers; with another call id each time."""

    asked: int = 0
    name: str = "mailer"
    model: str = "test"

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        self.asked += 1
        await asyncio.sleep(0)
        if messages[-1]["role"] == "tool":
            yield TextDelta(f"Told: {messages[-1]['content']}")
            yield Finish(FinishReason.STOP)
            return
        yield ToolCallDelta(0, f"call {self.asked}", "send_mail", '{"to": "ann"}')
        yield Finish(FinishReason.TOOL_CALLS)

    async def aclose(self) -> None:
        pass


def mail_into(sent: list[str]) -> Any:
    async def send_mail(to: str) -> str:
        await asyncio.sleep(0)
        sent.append(to)
        await asyncio.sleep(0)
        return "sent"

    return send_mail


async def test_cancelled_anywhere_and_delivered_again_a_prompt_sends_its_mail_once() -> None:
    """Cancel after the first turn of the loop, the second, and so on, until the prompt is done before."""
    outcomes: set[tuple[int, str]] = set()
    for turns in range(200):
        bus = MessageBus.isolated()
        await bus.start()
        sent: list[str] = []

        tools = ToolManager()
        tools.register_tool(mail_into(sent))
        history = SimpleChatHistory()
        LLMEngine(bus, Mailer(), tools=tools, history=history, ledger=MemoryEffectLedger())
        command = PromptCommand("Mail Ann.", session_id=A)
        task = asyncio.create_task(bus.execute(command))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.wait((task,))

        result = await bus.execute(command)
        assert result.success, result.error
        assert len(sent) <= 1
        assert conversation_faults(history.get_messages()) == []
        if not sent:
            assert "may have run" in (result.result or "")
        again = await bus.execute(command)
        assert again.result == result.result
        outcomes.add((len(sent), "doubt" if "may have run" in (result.result or "") else "known"))
        await bus.stop()
        if finished:
            assert {(1, "known"), (1, "doubt"), (0, "doubt")} >= outcomes > {(1, "known")}
            return
    pytest.fail("the prompt never finished")


# An agent within a tool of an agent, and approvals: openai/openai-agents-python #2487. One of several approvals that
# wait at once answers for the other: langchain-ai/langgraph #6626, #6624


async def test_engines_within_tools_ask_for_approval_each_for_itself(bus: MessageBus) -> None:
    paid: list[str] = []
    has_paid = {to: asyncio.Event() for to in "xyz"}

    async def pay(to: str) -> str:
        paid.append(to)
        has_paid[to].set()
        return f"paid {to}"

    approvals = Approvals(bus)
    inner_tools, outer_tools = ToolManager(), ToolManager()
    inner_tools.register_tool(pay, requires_approval=True)
    outer_tools.register_tool(pay, requires_approval=True)

    async def delegate(to: str, context: ToolContext) -> str:
        script = [Reply(tool_calls=[call("pay", f'{{"to": "{to}"}}')]), Reply(f"Inner: {to}.")]
        inner = LLMEngine(
            bus, ScriptedProvider(script), session_id=SessionID(f"{context.session_id}/{to}"), tools=inner_tools,
            approvals=approvals,
        )  # fmt: skip
        return (await bus.execute(PromptCommand("Pay.", session_id=inner.session_id))).result or ""

    outer_tools.register_tool(delegate)
    calls = [call(name, f'{{"to": "{to}"}}', to) for name, to in (("delegate", "x"), ("delegate", "y"), ("pay", "z"))]
    LLMEngine(bus, ScriptedProvider([Reply(tool_calls=calls), Reply("Done.")]), tools=outer_tools, approvals=approvals)

    requests: dict[str, str] = {}
    all_asked = asyncio.Event()

    def asked(event: ToolApprovalRequestedEvent) -> None:
        requests[event.arguments["to"]] = event.approval_id
        if len(requests) == 3:
            all_asked.set()

    bus.register_event_handler(ToolApprovalRequestedEvent, asked)
    prompt = asyncio.create_task(events_of(bus, PromptCommand("Go.", session_id=A)))
    await asyncio.wait_for(all_asked.wait(), 5)
    for to in ("y", "z", "x"):
        await bus.execute(DecideApprovalCommand(requests[to], approve=to != "y", reason="no"))
        if to != "y":
            await asyncio.wait_for(has_paid[to].wait(), 5)
    events, result = await asyncio.wait_for(prompt, 5)

    assert result.result == "Done."
    assert paid == ["z", "x"]
    assert len(set(requests.values())) == 3
    ran = [event.tool_result for event in events if isinstance(event, ToolExecuteResultEvent) and event.session_id == A]
    assert ran == ["Inner: x.", "Inner: y.", "paid z"]


# Memory that grows with each request: run-llama/llama-agents #485


def _of_prompts() -> list[Any]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Run | ToolContext | SimpleChatHistory)]


async def test_nothing_of_a_prompt_outlives_it(bus: MessageBus) -> None:
    before = _of_prompts()  # of other tests
    tools = ToolManager()
    tools.register_tool(lambda n: f"{n}", name="look", timeout=3_600)
    LLMEngine(bus, Turns(), tools=tools, limits=Limits(seconds=3_600), ledger=MemoryEffectLedger())

    async def converse(name: str) -> None:
        async with bus.session(name):
            for _ in range(3):
                result = await bus.execute(PromptCommand("hi", session_id=SessionID(name)))
                assert result.success, result.error

    await asyncio.gather(*(converse(f"{number}") for number in range(20)))
    await bus.wait_for_events()

    assert [each for each in _of_prompts() if all(each is not other for other in before)] == []
    assert len(asyncio.all_tasks()) == 1
