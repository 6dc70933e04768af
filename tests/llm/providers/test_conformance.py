"""What every provider promises, whatever is behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest
from openai_server import OpenAIServer

from llmgine.llm.providers import Fold, Provider, complete
from llmgine.llm.providers.openai import OpenAIProvider
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.types import Finish, LLMConversation, LLMResponse, TextDelta, ToolCallDelta

HELLO = [{"role": "user", "content": "Say hello, please."}]
TEXT = "Hello! What can I do for you today?"


def scripted() -> Provider:
    weather = ToolCall(id="1", name="weather", arguments='{"city": "Oslo"}')

    class Scripted(ScriptedProvider):
        def _next(self) -> Reply:
            asked_for_tools = self.requests[-1].tools and self.requests[-1].messages[-1]["role"] == "user"
            return Reply(tool_calls=[weather]) if asked_for_tools else Reply(TEXT)

    return Scripted([])


async def openai(stack: AsyncExitStack) -> Provider:
    class Server(OpenAIServer):
        def _next(self) -> dict[str, object]:
            request = self.requests[-1]
            if request.get("tools") and request["messages"][-1]["role"] == "user":
                return {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}
            return {"text": TEXT}

    server = await stack.enter_async_context(Server([]))
    return OpenAIProvider("m", base_url=server.base_url)


@pytest.fixture(params=["scripted", "openai", pytest.param("local", marks=pytest.mark.model)])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield request.getfixturevalue("local_model")
            return
        provider = scripted() if request.param == "scripted" else await openai(stack)
        yield provider
        await provider.aclose()


async def test_text_is_streamed_and_the_end_is_last(provider: Provider) -> None:
    chunks = [chunk async for chunk in provider.stream(HELLO)]

    assert len(chunks) > 2
    assert all(isinstance(chunk, TextDelta) and chunk.text for chunk in chunks[:-1])
    assert isinstance(chunks[-1], Finish)


async def test_usage_is_counted(provider: Provider) -> None:
    usage = (await complete(provider, HELLO)).usage

    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0


async def test_folding_the_stream_gives_the_whole_reply(provider: Provider) -> None:
    chunks = [chunk async for chunk in provider.stream(HELLO)]
    fold = Fold()
    for chunk in chunks:
        fold.add(chunk)
    end = chunks[-1]
    assert isinstance(end, Finish)
    text = "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))

    assert fold.response() == LLMResponse(text, (), end.reason, end.usage, end.model)


async def test_closing_early_leaves_the_provider_usable(provider: Provider) -> None:
    async with aclosing(provider.stream(HELLO)) as chunks:
        async for _ in chunks:
            break

    assert (await complete(provider, HELLO)).text


async def test_cancelling_leaves_the_provider_usable(provider: Provider) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in provider.stream(HELLO):
            begun.set()
            await asyncio.Event().wait()

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert (await complete(provider, HELLO)).text


async def test_requests_at_the_same_time_are_all_answered(provider: Provider) -> None:
    responses = await asyncio.gather(*(complete(provider, HELLO) for _ in range(3)))

    assert all(response.text for response in responses)


async def test_a_system_prompt_and_a_past_are_accepted(provider: Provider) -> None:
    conversation = [
        {"role": "system", "content": "Be brief."},
        *HELLO,
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And again?"},
    ]

    assert (await complete(provider, conversation)).text


def weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: The city's name.
    """
    return f"sunny in {city}"


async def test_a_tool_can_be_called_and_its_result_be_answered(provider: Provider) -> None:
    manager = ToolManager()
    manager.register_tool(weather)
    conversation: LLMConversation = [{"role": "user", "content": "What is the weather in Oslo?"}]
    chunks = [chunk async for chunk in provider.stream(conversation, tools=manager.tool_schemas)]
    fold = Fold()
    for chunk in chunks:
        fold.add(chunk)
    response = fold.response()

    assert isinstance(chunks[-1], Finish)
    assert any(isinstance(chunk, ToolCallDelta) for chunk in chunks)
    (call,) = response.tool_calls
    assert call.id
    assert call.name == "weather"
    assert isinstance(json.loads(call.arguments), dict)

    result = (await manager.run(call)).content
    conversation += [
        {"role": "assistant", "content": response.text or None, "tool_calls": [call.to_dict()]},
        {"role": "tool", "content": result, "tool_call_id": call.id},
    ]
    assert (await complete(provider, conversation, tools=manager.tool_schemas)).text
