"""Law 30, where one prompt comes twice: it is one run, which is answered once, and whose effects happen once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from llmgine.bus import MessageBus
from llmgine.errors import ProviderUnavailableError, StoreError
from llmgine.llm.context import SimpleChatHistory, StoredChatHistory, conversation_faults
from llmgine.llm.engine import (
    LLMEngine,
    LLMResponseEvent,
    MemoryEffectLedger,
    PromptCommand,
    ResumeCommand,
    SinglePassEngine,
    TextChunkEvent,
)
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolContext, ToolManager
from llmgine.messages import SessionID
from llmgine.messages.codec import decode, encode

A, B = SessionID("a"), SessionID("b")
AWAY = Reply(error=ProviderUnavailableError("the network is away"))


class Office:
    """An engine whose tools send mail."""

    def __init__(self, bus: MessageBus, *replies: Reply, with_ledger: bool = True) -> None:
        self.sent: list[str] = []
        self.keys: list[str] = []
        self.sending, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.tools = ToolManager()
        self.tools.register_tool(self.send_mail)
        self.provider = ScriptedProvider(replies)
        self.ledger = MemoryEffectLedger()
        self.engine = LLMEngine(bus, self.provider, tools=self.tools, ledger=self.ledger if with_ledger else None)

    async def send_mail(self, to: str, context: ToolContext) -> str:
        """Send."""
        self.sent.append(to)
        self.keys.append(context.idempotency_key)
        self.sending.set()
        await self.gate.wait()
        return f"sent to {to}"

    @property
    def history(self) -> SimpleChatHistory:
        return self.engine.conversation(A)

    def told(self) -> list[Any]:
        return [message.content for message in self.history.messages if message.role == "tool"]


def mail(to: str = "ann") -> Reply:
    return Reply(tool_calls=[ToolCall(id="1", name="send_mail", arguments=f'{{"to": "{to}"}}')])


def prompt(text: str = "Write to Ann.", output_type: Any = None, session_id: SessionID = A) -> PromptCommand[Any]:
    return PromptCommand(text, output_type, session_id=session_id)


async def test_a_prompt_that_was_answered_gets_its_answer_again_and_nothing_happens(bus: MessageBus) -> None:
    office = Office(bus, mail(), Reply("Done."), Reply("Something else."))
    command = prompt()
    first = await bus.execute(command)
    said = office.history.messages
    events: list[LLMResponseEvent] = []
    bus.register_event_handler(LLMResponseEvent, events.append)
    await bus.execute(prompt("In between."))

    copy: Any = decode(encode(command))
    for again in (command, copy):
        result = await bus.execute(again)
        assert (result.success, result.result, result.command_id) == (True, "Done.", command.command_id)
    assert first.result == "Done."
    assert office.sent == ["ann"]
    assert [event.text for event in events] == ["Something else."]
    assert office.history.messages[: len(said)] == said
    assert len(office.history.messages) == len(said) + 2
    office.provider.assert_complete()


async def test_a_new_prompt_with_the_same_words_is_another_one(bus: MessageBus) -> None:
    office = Office(bus, mail(), Reply("Done."), mail(), Reply("Done again."))
    assert [(await bus.execute(prompt())).result for _ in range(2)] == ["Done.", "Done again."]
    assert office.sent == ["ann", "ann"]


async def test_an_answer_of_a_form_comes_again_in_its_form(bus: MessageBus) -> None:
    class City(BaseModel):
        name: str

    office = Office(bus, Reply('{"name": "Kyoto"}'))
    command = prompt("A city?", City)
    assert [(await bus.execute(command)).result for _ in range(2)] == [City(name="Kyoto")] * 2
    assert len(office.provider.requests) == 1

    result = await bus.execute(PromptCommand[Any]("A city?", int, session_id=A, command_id=command.command_id))
    assert (result.error or "").startswith("OutputFormError: This prompt has been answered, but not in the form")


async def test_a_prompt_that_failed_is_answered_anew_but_sends_no_mail_twice(bus: MessageBus) -> None:
    office = Office(bus, mail(), AWAY, mail(), Reply("Done."))
    command = prompt()
    assert not (await bus.execute(command)).success
    result = await bus.execute(command)

    assert result.result == "Done."
    assert office.sent == ["ann"]
    assert office.told() == ["sent to ann", "sent to ann"]
    assert conversation_faults(office.history.get_messages()) == []
    assert (await bus.execute(command)).result == "Done."
    office.provider.assert_complete()


async def test_what_may_have_run_when_a_prompt_was_cancelled_does_not_run_when_it_comes_again(bus: MessageBus) -> None:
    office = Office(bus, mail(), mail(), Reply("Done."))
    office.gate.clear()
    command = prompt()
    task = asyncio.create_task(bus.execute(command))
    await office.sending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await bus.execute(command)).result == "Done."
    assert office.sent == ["ann"]
    assert office.told()[-1].startswith("Error: send_mail may have run")


async def test_a_prompt_that_comes_again_while_it_is_answered_is_refused(bus: MessageBus) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    bus.register_event_handler(TextChunkEvent, lambda _: begun.set())
    Office(bus, Reply("Done.", hold=gate))
    command = prompt()
    first = asyncio.create_task(bus.execute(command))
    await begun.wait()
    second = await bus.execute(command)
    gate.set()

    assert (second.error or "").startswith("EngineBusyError")
    assert [(await first).result, (await bus.execute(command)).result] == ["Done.", "Done."]


async def test_what_is_said_in_one_session_is_not_told_in_another(bus: MessageBus) -> None:
    office = Office(bus, mail(), Reply("Done."), mail("bob"), AWAY)
    command = prompt()
    await bus.execute(command)
    other = PromptCommand[Any]("Write to Ann.", session_id=B, command_id=command.command_id)
    result = await bus.execute(other)

    assert (result.error or "").startswith("ResourceConflictError: The prompt")
    assert len(office.engine.conversation(B)) == 0
    assert (await bus.execute(command)).result == "Done."


async def test_an_open_prompt_is_not_ended_by_one_of_another_session(bus: MessageBus) -> None:
    office = Office(bus)
    await office.ledger.begin_run("r", A, {"id": "p", "role": "user", "content": "Write."})
    await bus.execute(PromptCommand[Any]("Write.", session_id=B, command_id="r"))
    assert await office.ledger.open_run(A) is not None


async def test_a_prompt_whose_conversation_cannot_be_read_stays_to_be_taken_up(bus: MessageBus) -> None:
    class Away(StoredChatHistory):
        async def load(self) -> None:
            raise StoreError("the disk is away")

    office = Office(bus)
    await office.ledger.begin_run("r", A, {"id": "p", "role": "user", "content": "Write."})
    office.engine.history = Away(None, "a")  # type: ignore[arg-type]  # never asked
    for result in (
        await bus.execute(PromptCommand[Any]("Write.", session_id=A, command_id="r")),
        await bus.execute(ResumeCommand[Any](session_id=A)),
    ):
        assert result.error == "StoreError: the disk is away"
        assert await office.ledger.open_run(A) is not None


async def test_without_a_ledger_a_prompt_is_answered_each_time_and_its_tools_have_the_same_keys(
    bus: MessageBus,
) -> None:
    office = Office(bus, mail(), Reply("Done."), mail(), Reply("Done again."), with_ledger=False)
    command = prompt()
    assert [(await bus.execute(command)).result for _ in range(2)] == ["Done.", "Done again."]
    assert office.sent == ["ann", "ann"]
    assert len(set(office.keys)) == 1


async def test_who_answers_each_prompt_alone_answers_it_each_time(bus: MessageBus) -> None:
    SinglePassEngine(bus, ScriptedProvider([Reply("one"), Reply("two")]))
    command = prompt()
    assert [(await bus.execute(command)).result for _ in range(2)] == ["one", "two"]


async def test_a_ledger_in_memory_forgets_the_oldest(bus: MessageBus) -> None:
    office = Office(bus, *[Reply("Done.")] * 1_002)
    first = prompt()
    await bus.execute(first)
    later: Sequence[PromptCommand[Any]] = [prompt() for _ in range(1_000)]
    for command in later:
        await bus.execute(command)
        office.history.clear()
    assert (await bus.execute(later[0])).result == "Done."
    assert len(office.provider.requests) == 1_001
    await bus.execute(first)
    assert len(office.provider.requests) == 1_002
