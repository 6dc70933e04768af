"""The engines: many sessions at once, a system prompt and a fresh start by command, tools, and no memory at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from llmgine.bus import MessageBus
from llmgine.llm.context import SimpleChatHistory
from llmgine.llm.engine import (
    ClearHistoryCommand,
    Engine,
    EngineEvent,
    LLMEngine,
    PromptCommand,
    SinglePassEngine,
    SystemPromptCommand,
    ToolChatEngine,
    ToolChatEngineCommand,
    ToolChatEngineStatusEvent,
)
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import Chunk, Finish, FinishReason, TextDelta, ToolCallDelta
from llmgine.messages import SessionID

A, B = SessionID("a"), SessionID("b")


class Echo:
    """A provider that says how many messages it was shown, and what came last; when it may."""

    name, model = "echo", "test"

    def __init__(self) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def stream(
        self, messages: Sequence[Any], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        self.requests.append(list(messages))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            if tools and messages[-1]["role"] == "user":
                yield ToolCallDelta(0, "1", "add", '{"a": 2, "b": 3}')
                yield Finish(FinishReason.TOOL_CALLS)
                return
            yield TextDelta(f"{len(messages)}: {messages[-1]['content']}")
            yield Finish(FinishReason.STOP)
        finally:
            self.at_once -= 1

    async def aclose(self) -> None:
        pass


async def ask(bus: MessageBus, prompt: str, session_id: SessionID = A) -> str | None:
    result = await bus.execute(PromptCommand(prompt, session_id=session_id))
    return result.result if result.success else result.error


async def test_one_engine_has_a_conversation_for_each_session(bus: MessageBus) -> None:
    LLMEngine(bus, Echo())

    assert await ask(bus, "one", A) == "1: one"
    assert await ask(bus, "one", B) == "1: one"
    assert await ask(bus, "two", A) == "3: two"


async def test_sessions_are_answered_at_the_same_time_and_one_of_them_one_by_one(bus: MessageBus) -> None:
    provider = Echo()
    provider.gate.clear()
    LLMEngine(bus, provider)
    asking = [asyncio.create_task(ask(bus, "hi", SessionID(str(n)))) for n in range(100)]
    await asyncio.sleep(0)
    refused = await ask(bus, "again", SessionID("7"))
    provider.gate.set()

    assert set(await asyncio.gather(*asking)) == {"1: hi"}
    assert provider.most_at_once == 100
    assert (refused or "").startswith("EngineBusyError")


async def test_a_session_that_ends_takes_its_conversation_with_it(bus: MessageBus) -> None:
    engine = LLMEngine(bus, Echo())
    for _ in range(2):
        async with bus.session("again") as session:
            result = await session.execute_with_session(PromptCommand("hi"))
            assert result.result == "1: hi"

    assert engine._conversations == {}


async def test_a_history_that_is_given_is_the_only_one(bus: MessageBus) -> None:
    history = SimpleChatHistory()
    engine = LLMEngine(bus, Echo(), history=history)
    await ask(bus, "one", A)

    assert await ask(bus, "two", B) == "3: two"
    assert engine.history is engine.conversation(B) is history


async def test_histories_can_be_made_as_one_likes(bus: MessageBus) -> None:
    made: list[SessionID] = []

    def make(session_id: SessionID) -> SimpleChatHistory:
        made.append(session_id)
        return SimpleChatHistory(session_id=session_id, max_messages=1)

    LLMEngine(bus, Echo(), history=make)
    await ask(bus, "one", A)

    assert await ask(bus, "two", A) == "1: two"
    assert made == [A]


async def test_the_system_prompt_is_set_by_command_for_one_session(bus: MessageBus) -> None:
    provider = Echo()
    LLMEngine(bus, provider)
    await bus.execute(SystemPromptCommand("Be brief.", session_id=A))
    await ask(bus, "hi", A)
    await ask(bus, "hi", B)

    assert [[message["role"] for message in request] for request in provider.requests] == [["system", "user"], ["user"]]
    assert provider.requests[0][0]["content"] == "Be brief."


async def test_clearing_forgets_what_was_said_and_keeps_the_system_prompt(bus: MessageBus) -> None:
    provider = Echo()
    LLMEngine(bus, provider)
    await bus.execute(SystemPromptCommand("Be brief.", session_id=A))
    await ask(bus, "one", A)
    cleared = await bus.execute(ClearHistoryCommand(session_id=A))

    assert cleared.success
    assert await ask(bus, "two", A) == "2: two"


async def test_a_conversation_is_not_cleared_while_a_prompt_is_answered(bus: MessageBus) -> None:
    provider = Echo()
    provider.gate.clear()
    LLMEngine(bus, provider)
    asking = asyncio.create_task(ask(bus, "one", A))
    await asyncio.sleep(0)
    cleared = await bus.execute(ClearHistoryCommand(session_id=A))
    provider.gate.set()
    await asking

    assert (cleared.error or "").startswith("EngineBusyError")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def test_a_tool_chat_engine_uses_tools_and_says_what_it_does(bus: MessageBus) -> None:
    tools, statuses = ToolManager(), list[str]()
    tools.register_tool(add)
    ToolChatEngine(bus, Echo(), tools=tools)
    bus.register_event_handler(ToolChatEngineStatusEvent, lambda event: statuses.append(event.status))
    result = await bus.execute(ToolChatEngineCommand("2 + 3?", session_id=A))
    await bus.wait_for_events()

    assert result.result == "4: 5"  # system, question, call, result
    assert statuses == ["processing", "calling model", "running tools", "calling model", "finished"]


async def test_a_single_pass_engine_remembers_nothing_and_answers_any_number_at_once(bus: MessageBus) -> None:
    provider = Echo()
    provider.gate.clear()
    SinglePassEngine(bus, provider, system_prompt="Translate into French.")
    asking = [asyncio.create_task(ask(bus, f"text {n}", A)) for n in range(3)]
    await asyncio.sleep(0)
    provider.gate.set()

    assert await asyncio.gather(*asking) == [f"2: text {n}" for n in range(3)]
    assert provider.most_at_once == 3


async def test_an_engine_of_ones_own_answers_its_own_commands(bus: MessageBus) -> None:
    class Summarised(EngineEvent):
        pass

    class Summariser(Engine):
        system_prompt = "Summarise."

        async def summarise(self, command: PromptCommand) -> str:
            summary = await self.respond(command.prompt, command.session_id)
            await self.publish(Summarised(), command.session_id)
            return summary.upper()

    engine, seen = Summariser(bus, Echo()), list[Summarised]()
    bus.register_command_handler(PromptCommand, engine.summarise)
    bus.register_event_handler(Summarised, seen.append)

    assert await ask(bus, "a text") == "2: A TEXT"
    assert [(event.engine_id, event.session_id) for event in seen] == [(engine.engine_id, A)]
