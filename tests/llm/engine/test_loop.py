"""The engine's loop: its events and their order, tools, limits, failures, cancellation at every step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.errors import ProviderUnavailableError, StoreError
from llmgine.llm.context import SimpleChatHistory
from llmgine.llm.engine import (
    EngineStatusEvent,
    LLMEngine,
    LLMResponseEvent,
    ModelCallEndedEvent,
    PromptCancelledEvent,
    PromptCommand,
    PromptFailedEvent,
    TextChunkEvent,
)
from llmgine.llm.tools.tool_events import ToolCallEvent, ToolExecuteResultEvent
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.types import Chunk, Finish, FinishReason, TextDelta, ToolCallDelta, Usage
from llmgine.messages import Event, SessionID

Step = Chunk | BaseException | asyncio.Event
A = SessionID("a")


class Replies:
    """A provider that plays replies, one a request: chunks, errors to raise, and gates to wait at."""

    name, model = "replies", "test"

    def __init__(self, *replies: Sequence[Step]) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
        self.closed = 0

    async def stream(
        self, messages: Sequence[Any], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        self.requests.append((list(messages), list(tools)))
        try:
            for step in self.replies.pop(0):
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        pass


def text(*pieces: str, usage: Usage | None = None) -> list[Step]:
    return [*map(TextDelta, pieces), Finish(FinishReason.STOP, usage or Usage(3, len(pieces)))]


def calls(*names_and_arguments: tuple[str, str], before: str = "") -> list[Step]:
    deltas: list[Step] = [TextDelta(before)] if before else []
    for index, (name, arguments) in enumerate(names_and_arguments):
        deltas.append(ToolCallDelta(index, f"call-{name}-{index}", name, arguments))
    return [*deltas, Finish(FinishReason.TOOL_CALLS, Usage(5, 2))]


class Tools:
    """Two tools that finish when they are let, the second before the first."""

    def __init__(self) -> None:
        self.fast_done = asyncio.Event()
        self.gate = asyncio.Event()
        self.started: list[str] = []
        self.manager = ToolManager()

        async def slow(n: int) -> str:
            self.started.append("slow")
            await self.gate.wait()
            await self.fast_done.wait()
            return f"slow {n}"

        async def fast(n: int) -> str:
            self.started.append("fast")
            self.fast_done.set()
            return f"fast {n}"

        def broken() -> str:
            raise ValueError("no luck")

        for tool in (slow, fast, broken):
            self.manager.register_tool(tool)


def roles(history: SimpleChatHistory) -> list[str]:
    return [message["role"] for message in history.get_messages()]


async def run(bus: MessageBus, prompt: str = "hi") -> tuple[list[Event], Any]:
    stream = bus.stream(PromptCommand(prompt=prompt, session_id=A))
    events = [event async for event in stream]
    return events, stream.result


async def test_a_plain_answer_is_streamed_returned_and_kept(bus: MessageBus) -> None:
    provider = Replies(text("Hel", "lo", usage=Usage(7, 2)))
    engine = LLMEngine(bus, provider)
    engine.conversation(A).set_system_prompt("be kind")

    events, result = await run(bus)

    assert [type(event) for event in events] == [
        EngineStatusEvent,
        TextChunkEvent,
        TextChunkEvent,
        ModelCallEndedEvent,
        LLMResponseEvent,
    ]
    assert [event.text for event in events if isinstance(event, TextChunkEvent)] == ["Hel", "lo"]
    last = events[-1]
    assert isinstance(last, LLMResponseEvent)
    assert (last.text, last.usage, last.turns, last.finish_reason) == ("Hello", Usage(7, 2), 1, "stop")
    assert (last.provider, last.model) == ("replies", "test")
    assert last.time_to_first_token is not None
    assert 0 <= last.time_to_first_token <= last.duration
    assert {event.session_id for event in events} == {A}
    assert {event.engine_id for event in events if isinstance(event, TextChunkEvent)} == {engine.engine_id}
    assert (result.success, result.result) == (True, "Hello")
    assert provider.requests[0][0] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
    ]
    assert roles(engine.conversation(A)) == ["system", "user", "assistant"]


async def test_speed_is_told_only_of_what_came_in_pieces(bus: MessageBus) -> None:
    LLMEngine(bus, Replies(text("All at once."), text("In ", "pieces.", usage=Usage(3, 2))))

    at_once, in_pieces = [(await run(bus))[0][-1] for _ in range(2)]

    assert isinstance(at_once, LLMResponseEvent)
    assert at_once.tokens_per_second is None
    assert isinstance(in_pieces, LLMResponseEvent)
    assert in_pieces.tokens_per_second is not None
    assert in_pieces.tokens_per_second >= 2 / in_pieces.duration


async def test_tool_calls_of_a_turn_run_together_and_report_in_their_order(bus: MessageBus) -> None:
    tools = Tools()
    provider = Replies(calls(("slow", '{"n": 1}'), ("fast", '{"n": "2"}'), before="Let me see."), text("Done."))
    engine = LLMEngine(bus, provider, tools=tools.manager)
    tools.gate.set()

    events, result = await run(bus)

    assert result.result == "Done."
    assert [type(event) for event in events] == [
        EngineStatusEvent,
        TextChunkEvent,
        ModelCallEndedEvent,
        ToolCallEvent,
        ToolCallEvent,
        EngineStatusEvent,
        ToolExecuteResultEvent,
        ToolExecuteResultEvent,
        EngineStatusEvent,
        TextChunkEvent,
        ModelCallEndedEvent,
        LLMResponseEvent,
    ]
    called = [event for event in events if isinstance(event, ToolCallEvent)]
    assert [(event.tool_name, event.arguments) for event in called] == [("slow", '{"n": 1}'), ("fast", '{"n": "2"}')]
    results = [event for event in events if isinstance(event, ToolExecuteResultEvent)]
    assert [(event.tool_call_id, event.tool_result) for event in results] == [
        ("call-slow-0", "slow 1"),
        ("call-fast-1", "fast 2"),
    ]
    assert [event.tool_args for event in results] == [{"n": 1}, {"n": 2}]
    assert all(event.execution_succeed for event in results)
    last = events[-1]
    assert isinstance(last, LLMResponseEvent)
    assert (last.usage, last.turns) == (Usage(8, 3), 2)
    messages, schemas = provider.requests[1]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert [message["content"] for message in messages[2:]] == ["slow 1", "fast 2"]
    assert [schema["function"]["name"] for schema in schemas] == ["slow", "fast", "broken"]
    assert roles(engine.conversation(A)) == ["user", "assistant", "tool", "tool", "assistant"]


def calls_in(events: Sequence[Event]) -> list[ModelCallEndedEvent]:
    return [event for event in events if isinstance(event, ModelCallEndedEvent)]


async def test_each_request_says_what_it_took_itself(bus: MessageBus) -> None:
    answer: list[Step] = [TextDelta("It is"), TextDelta(" 1."), Finish(FinishReason.LENGTH, Usage(9, 4), "test-2026")]
    LLMEngine(bus, Replies(calls(("fast", '{"n": 1}')), answer), tools=Tools().manager)

    events, _ = await run(bus)

    first, second = calls_in(events)
    assert (first.turn, first.usage, first.finish_reason, first.error) == (1, Usage(5, 2), "tool_calls", "")
    assert (second.turn, second.usage, second.finish_reason) == (2, Usage(9, 4), "length")
    assert (first.provider, first.model, second.model) == ("replies", "test", "test-2026")
    last = events[-1]
    assert isinstance(last, LLMResponseEvent)
    assert first.usage + second.usage == last.usage
    for call in (first, second):
        assert call.time_to_first_token is not None
        assert 0 <= call.time_to_first_token <= call.duration <= last.duration


async def test_a_request_that_fails_says_so_once(bus: MessageBus) -> None:
    no_network = ProviderUnavailableError("no network")
    LLMEngine(bus, Replies(calls(("fast", '{"n": 1}')), [TextDelta("So"), no_network], [TextDelta("Once")]))

    (first, failed), (broken_off,) = [calls_in((await run(bus))[0]) for _ in range(2)]

    assert (first.error, first.usage) == ("", Usage(5, 2))
    assert (failed.turn, failed.error) == (2, "ProviderUnavailableError: no network")
    assert (failed.finish_reason, failed.usage, failed.model) == (None, Usage(), "test")
    assert failed.time_to_first_token is not None
    assert broken_off.error.startswith("IncompleteResponseError: ")


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("missing", "{}", "Error: Tool 'missing' not found"),
        ("broken", "{}", "no luck"),
        ("fast", "not json", "JSON"),
        ("fast", '{"n": "many"}', "n"),
    ],
)
async def test_what_goes_wrong_with_a_tool_goes_back_to_the_model(
    bus: MessageBus, name: str, arguments: str, expected: str
) -> None:
    provider = Replies(calls((name, arguments)), text("Sorry."))
    LLMEngine(bus, provider, tools=Tools().manager)

    events, result = await run(bus)

    assert result.result == "Sorry."
    (outcome,) = [event for event in events if isinstance(event, ToolExecuteResultEvent)]
    assert not outcome.execution_succeed
    assert expected in outcome.tool_result
    assert provider.requests[1][0][-1]["content"] == outcome.tool_result


async def test_a_call_of_a_model_without_tools_is_answered_too(bus: MessageBus) -> None:
    provider = Replies(calls(("anything", "{}")), text("Sorry."))
    LLMEngine(bus, provider)

    _, result = await run(bus)

    assert result.result == "Sorry."
    assert "not found" in provider.requests[1][0][-1]["content"]


async def test_the_number_of_turns_is_capped(bus: MessageBus) -> None:
    provider = Replies(*[calls(("fast", '{"n": 1}'))] * 5)
    engine = LLMEngine(bus, provider, tools=Tools().manager, max_turns=3)

    events, result = await run(bus)

    assert not result.success
    assert "TurnLimitError: The model asked for tools 3 times" in result.error
    assert isinstance(events[-1], PromptFailedEvent)
    assert len(provider.requests) == 3
    assert roles(engine.conversation(A))[-1] == "assistant"


async def test_a_failure_before_any_text_forgets_the_prompt(bus: MessageBus) -> None:
    engine = LLMEngine(bus, Replies([ProviderUnavailableError("no network")], text("Hello")))

    events, result = await run(bus)
    assert result.error == "ProviderUnavailableError: no network"
    failed = events[-1]
    assert isinstance(failed, PromptFailedEvent)
    assert failed.error == result.error
    assert len(engine.conversation(A)) == 0

    _, result = await run(bus)
    assert result.result == "Hello"


async def test_a_reply_that_breaks_off_keeps_what_arrived(bus: MessageBus) -> None:
    engine = LLMEngine(bus, Replies([TextDelta("Once upon")], text("a time")))

    events, result = await run(bus)
    assert result.error.startswith("IncompleteResponseError: The reply broke off")
    failed = events[-1]
    assert isinstance(failed, PromptFailedEvent)
    assert failed.text == "Once upon"
    assert [message["content"] for message in engine.conversation(A).get_messages()] == ["hi", "Once upon"]

    _, result = await run(bus, "go on")
    assert result.result == "a time"


async def test_a_second_prompt_at_the_same_time_is_refused(bus: MessageBus) -> None:
    gate, busy = asyncio.Event(), asyncio.Event()
    LLMEngine(bus, Replies([gate, *text("first")], text("third")))
    bus.register_event_handler(EngineStatusEvent, lambda _: busy.set())
    first = asyncio.create_task(run(bus))
    await busy.wait()
    refused = await bus.execute(PromptCommand(prompt="second", session_id=A))
    gate.set()

    assert (refused.error or "").startswith("EngineBusyError")
    assert (await first)[1].result == "first"
    assert (await run(bus))[1].result == "third"


async def test_engines_of_two_sessions_do_not_mix(bus: MessageBus) -> None:
    b = SessionID("b")
    one, two = LLMEngine(bus, Replies(text("1")), session_id=A), LLMEngine(bus, Replies(text("2")), session_id=b)

    results = await asyncio.gather(*(bus.execute(PromptCommand(prompt=s, session_id=s)) for s in (A, b)))

    assert [result.result for result in results] == ["1", "2"]
    assert [len(engine.history) for engine in (one, two)] == [2, 2]


# Cancellation, at every step of a run that has text, tools, and text again


async def cancelled_when(bus: MessageBus, seen: type[Event], number: int) -> list[Event]:
    """Run a prompt, and leave it when the `number`th event of a kind has been seen."""
    events: list[Event] = []
    ended: list[Event] = []
    bus.register_event_handler(PromptCancelledEvent, ended.append)
    async with bus.stream(PromptCommand(prompt="hi", session_id=A)) as stream:
        async for event in stream:
            events.append(event)
            if sum(isinstance(event, seen) for event in events) == number:
                break
    await bus.wait_for_events()
    assert len(ended) == 1
    return ended


async def test_cancelling_in_mid_text_keeps_the_text(bus: MessageBus) -> None:
    provider = Replies([TextDelta("Once "), TextDelta("upon"), asyncio.Event()], text("a time"))
    engine = LLMEngine(bus, provider)

    (ended,) = await cancelled_when(bus, TextChunkEvent, 2)

    assert isinstance(ended, PromptCancelledEvent)
    assert ended.text == "Once upon"
    assert provider.closed == 1
    assert [message["content"] for message in engine.conversation(A).get_messages()] == ["hi", "Once upon"]
    assert (await run(bus))[1].result == "a time"


async def test_cancelling_before_the_first_token_forgets_the_prompt(bus: MessageBus) -> None:
    engine = LLMEngine(bus, Replies([asyncio.Event()], text("fine")))
    await cancelled_when(bus, EngineStatusEvent, 1)

    assert len(engine.conversation(A)) == 0
    assert (await run(bus))[1].result == "fine"


async def test_cancelling_in_a_tool_keeps_the_results_that_are_there(bus: MessageBus) -> None:
    tools = Tools()
    provider = Replies(calls(("fast", '{"n": 1}'), ("slow", '{"n": 2}')), text("fine"))
    engine = LLMEngine(bus, provider, tools=tools.manager)

    await cancelled_when(bus, ToolExecuteResultEvent, 1)

    conversation = engine.conversation(A).get_messages()
    assert [message["role"] for message in conversation] == ["user", "assistant", "tool", "tool", "assistant"]
    assert conversation[2]["content"] == "fast 1"
    assert "cancelled" in conversation[3]["content"]
    assert (await run(bus))[1].result == "fine"


async def test_cancelling_in_the_last_turn_keeps_the_tools_results(bus: MessageBus) -> None:
    tools = Tools()
    tools.gate.set()
    provider = Replies(calls(("fast", '{"n": 1}')), [TextDelta("So"), asyncio.Event()], text("fine"))
    engine = LLMEngine(bus, provider, tools=tools.manager)

    await cancelled_when(bus, TextChunkEvent, 1)

    assert [m["content"] for m in engine.conversation(A).get_messages()] == ["hi", None, "fast 1", "So"]


async def test_cancelled_anywhere_it_ends_once_and_the_history_goes_on(bus: MessageBus) -> None:
    """Cancel after the first turn of the loop, the second, and so on, until the prompt finishes first."""
    for turns in range(1000):
        tools = Tools()
        tools.gate.set()
        provider = Replies(
            calls(("fast", '{"n": 1}'), ("slow", '{"n": 2}'), before="Let me"), text("All ", "done"), text("again")
        )
        alone = MessageBus.isolated()
        await alone.start()
        ends: list[Event] = []
        for kind in (PromptCancelledEvent, LLMResponseEvent, PromptFailedEvent):
            alone.register_event_handler(kind, ends.append)
        asked: list[EngineStatusEvent] = []
        answered_calls: list[ModelCallEndedEvent] = []
        alone.register_event_handler(EngineStatusEvent, asked.append)
        alone.register_event_handler(ModelCallEndedEvent, answered_calls.append)
        engine = LLMEngine(alone, provider, tools=tools.manager)
        task = asyncio.create_task(alone.execute(PromptCommand(prompt="hi", session_id=A)))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.wait((task,))
        await alone.wait_for_events()

        assert len(ends) == 1, turns
        requests = sum(event.status == "calling model" for event in asked)
        # Cancelled while it was announced, a request was never made.
        assert len(answered_calls) in {requests, max(0, requests - 1)}
        assert len(answered_calls) >= len(provider.requests)
        assert [call.turn for call in answered_calls] == list(range(1, len(answered_calls) + 1))
        assert all((call.finish_reason is None) == (call.usage == Usage()) for call in answered_calls)
        assert isinstance(ends[0], LLMResponseEvent if not task.cancelled() else PromptCancelledEvent)
        await alone.stop()
        conversation = engine.conversation(A).get_messages()
        answered = [message["role"] for message in conversation]
        assert answered in ([], ["user", "assistant"], ["user", "assistant", "tool", "tool", "assistant"]), turns
        if finished:
            return
    pytest.fail("the prompt never finished")


class FailingStore(SimpleChatHistory):
    async def save(self) -> None:
        raise StoreError("disk full")


async def test_a_history_that_cannot_be_kept_fails_the_prompt_but_not_its_cancellation(bus: MessageBus) -> None:
    replies = Replies(text("Hello"), [TextDelta("a"), asyncio.Event()])
    engine = LLMEngine(bus, replies, history=FailingStore())

    events, result = await run(bus)
    assert result.error == "StoreError: disk full"
    assert [message["content"] for message in engine.conversation(A).get_messages()] == ["hi", "Hello"]
    assert isinstance(events[-1], PromptFailedEvent)

    await cancelled_when(bus, TextChunkEvent, 1)
