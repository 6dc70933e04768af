"""What every provider promises, whatever is behind it.

A provider of your own is one more `Case`: how to open it so that it gives certain replies, and what it cannot do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from http_providers import MARKS, open_provider
from openai_server import OpenAIServer

from llmgine.errors import (
    ContextLengthError,
    IncompleteResponseError,
    ProviderError,
    ProviderResponseError,
    RateLimitedError,
)
from llmgine.llm.providers import FallbackProvider, Fold, OverloadedError, Provider, complete, takes_schemas
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.tools import ToolCall
from llmgine.llm.types import (
    Finish,
    FinishReason,
    JSONSchema,
    LLMConversation,
    LLMResponse,
    TextDelta,
    ToolCallDelta,
    Usage,
)

HELLO: LLMConversation = [{"role": "user", "content": "Say hello, please."}]
TEXT = "Hello! What can I do for you today?"
PICTURE: LLMConversation = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    }
]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OSLO = ToolCall(id="1", name="weather", arguments='{"city": "Oslo"}')
BERGEN = ToolCall(id="2", name="weather", arguments='{"city": "Bergen"}')
PERSON = JSONSchema("person", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})

Open = Callable[[AsyncExitStack, list[Reply], pytest.FixtureRequest], Awaitable[Provider]]


@dataclass(frozen=True)
class Case:
    """A provider under test, and what it can do."""

    open: Open
    """Return the provider, made to give these replies, one a request."""
    prescribed: bool = True
    """Its replies can be made up. Otherwise it is a real model, of which nobody knows what it will say."""
    pictures: bool = True
    """It takes pictures. Otherwise it refuses them, and says so."""
    streams_calls: bool = False
    """The arguments of a tool call come in pieces."""
    marks: tuple[pytest.MarkDecorator, ...] = ()


def served(reply: Reply) -> dict[str, Any]:
    """A reply as the server of the tests sends it."""
    error = reply.error
    if error is not None and not reply.text:
        headers = {}
        if isinstance(error, RateLimitedError | OverloadedError) and error.retry_after is not None:
            headers = {"retry-after": f"{error.retry_after:g}"}
        said = {"message": str(error), "code": "context_length_exceeded"}
        if not isinstance(error, ContextLengthError):
            del said["code"]
        assert isinstance(error, ProviderResponseError)
        return {"status": error.status, "error": said, "headers": headers}
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in reply.tool_calls]
    as_sent: dict[str, Any] = {"text": reply.text, "tool_calls": calls, "cut_off": reply.cut_off}
    if reply.usage is not None:
        as_sent["usage"] = {
            "prompt_tokens": reply.usage.input_tokens,
            "completion_tokens": reply.usage.output_tokens,
            "total_tokens": reply.usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": reply.usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": reply.usage.reasoning_tokens},
        }
    if reply.finish_reason is not None:
        as_sent["finish_reason"] = reply.finish_reason.value
    return as_sent


async def scripted(stack: AsyncExitStack, replies: list[Reply], request: pytest.FixtureRequest) -> Provider:
    return ScriptedProvider(replies)


async def fallback(stack: AsyncExitStack, replies: list[Reply], request: pytest.FixtureRequest) -> Provider:
    return FallbackProvider([ScriptedProvider(replies)])


def behind_a_server(kind: str) -> Open:
    async def open_(stack: AsyncExitStack, replies: list[Reply], request: pytest.FixtureRequest) -> Provider:
        server = await stack.enter_async_context(OpenAIServer([served(reply) for reply in replies]))
        request.node.server = server
        return open_provider(kind, server.base_url)

    return open_


async def local(stack: AsyncExitStack, replies: list[Reply], request: pytest.FixtureRequest) -> Provider:
    model: Provider = request.getfixturevalue("local_model")
    return model


CASES = {
    "scripted": Case(scripted),
    "fallback": Case(fallback),
    **{kind: Case(behind_a_server(kind), streams_calls=True, marks=marks) for kind, marks in MARKS.items()},
    "local": Case(local, prescribed=False, pictures=False, marks=(pytest.mark.model,)),
}


def those(wanted: Callable[[Case], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrize a test with the providers that can do something."""
    parameters = [pytest.param(name, marks=case.marks) for name, case in CASES.items() if wanted(case)]
    return pytest.mark.parametrize("name", parameters)


prescribed = those(lambda case: case.prescribed)


@pytest.fixture
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[Provider]]]:
    """Opens a provider, and closes it after the test."""
    async with AsyncExitStack() as stack:

        async def open_(name: str, *replies: Reply) -> Provider:
            provider = await CASES[name].open(stack, list(replies), request)
            if CASES[name].prescribed:  # the model is shared by all tests
                stack.push_async_callback(provider.aclose)
            return provider

        yield open_


Opened = Callable[..., Awaitable[Provider]]


@those()
async def test_text_is_streamed_and_the_end_is_last(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT))
    chunks = [chunk async for chunk in provider.stream(HELLO)]

    assert len(chunks) > 2
    assert all(isinstance(chunk, TextDelta) and chunk.text for chunk in chunks[:-1])
    assert isinstance(chunks[-1], Finish)
    assert chunks[-1].model


@those()
async def test_usage_is_counted(name: str, opened: Opened) -> None:
    usage = (await complete(await opened(name, Reply(TEXT)), HELLO)).usage

    assert usage is not None
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0


@those()
async def test_folding_the_stream_gives_the_whole_reply(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT))
    chunks = [chunk async for chunk in provider.stream(HELLO)]
    fold = Fold()
    for chunk in chunks:
        fold.add(chunk)
    end = chunks[-1]
    assert isinstance(end, Finish)
    text = "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))

    assert fold.response() == LLMResponse(text, (), end.reason, end.usage, end.model)


@those()
async def test_closing_early_leaves_the_provider_usable(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT), Reply(TEXT))
    async with aclosing(provider.stream(HELLO)) as chunks:
        async for _ in chunks:
            break

    assert (await complete(provider, HELLO)).text


@those()
async def test_cancelling_leaves_the_provider_usable(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT), Reply(TEXT))
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


@those()
async def test_requests_at_the_same_time_are_all_answered(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT), Reply(TEXT), Reply(TEXT))
    responses = await asyncio.gather(*(complete(provider, HELLO) for _ in range(3)))

    assert all(response.text for response in responses)


@those()
async def test_a_system_prompt_and_a_past_are_accepted(name: str, opened: Opened) -> None:
    conversation = [
        {"role": "system", "content": "Be brief."},
        *HELLO,
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And again?"},
    ]

    assert (await complete(await opened(name, Reply(TEXT)), conversation)).text


@those()
async def test_a_tool_can_be_called_and_its_result_be_answered(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(tool_calls=[OSLO]), Reply(TEXT))
    conversation: LLMConversation = [{"role": "user", "content": "What is the weather in Oslo?"}]
    chunks = [chunk async for chunk in provider.stream(conversation, tools=[WEATHER])]
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

    conversation += [
        {"role": "assistant", "content": response.text or None, "tool_calls": [call.to_dict()]},
        {"role": "tool", "content": "sunny in Oslo", "tool_call_id": call.id},
    ]
    assert (await complete(provider, conversation, tools=[WEATHER])).text


@prescribed
async def test_several_tools_are_called_at_once_beside_a_text(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply("Let me see.", tool_calls=[OSLO, BERGEN]))
    response = await complete(provider, HELLO, tools=[WEATHER])

    assert response.text == "Let me see."
    assert response.tool_calls == (OSLO, BERGEN)
    assert response.finish_reason is FinishReason.TOOL_CALLS


@those(lambda case: case.streams_calls)
async def test_the_arguments_of_a_call_come_in_pieces(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(tool_calls=[OSLO, BERGEN]))
    pieces = [c async for c in provider.stream(HELLO, tools=[WEATHER]) if isinstance(c, ToolCallDelta)]

    assert [sum(piece.index == index for piece in pieces) > 1 for index in (0, 1)] == [True, True]
    assert [piece.id for piece in pieces if piece.id] == ["1", "2"]


@prescribed
@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH, FinishReason.CONTENT_FILTER])
async def test_why_it_stopped_is_said(name: str, reason: FinishReason, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT, finish_reason=reason))

    assert (await complete(provider, HELLO)).finish_reason is reason


@those()
async def test_a_reply_ends_where_the_request_says_that_it_must(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(TEXT), Reply(TEXT))
    response = await complete(provider, HELLO, max_output_tokens=3)

    assert response.finish_reason is FinishReason.LENGTH
    assert response.usage is not None
    assert response.usage.output_tokens == 3
    assert 0 < len(response.text) < len(TEXT)
    longer = (await complete(provider, HELLO, max_output_tokens=300)).usage
    assert longer is not None
    assert longer.output_tokens > 3


@prescribed
async def test_a_call_that_was_cut_short_is_told_from_a_whole_one(name: str, opened: Opened) -> None:
    cut = ToolCall(id="1", name="weather", arguments='{"ci')
    provider = await opened(name, Reply(tool_calls=[cut], finish_reason=FinishReason.LENGTH))
    response = await complete(provider, HELLO, tools=[WEATHER])

    assert response.finish_reason is FinishReason.LENGTH
    assert response.tool_calls == (cut,)


@prescribed
async def test_what_was_read_before_and_what_was_thought_are_counted(name: str, opened: Opened) -> None:
    usage = Usage(110, 50, cached_tokens=100, reasoning_tokens=40)

    assert (await complete(await opened(name, Reply(TEXT, usage=usage)), HELLO)).usage == usage


@those(lambda case: case.pictures)
async def test_pictures_are_passed_on(name: str, opened: Opened, request: pytest.FixtureRequest) -> None:
    provider = await opened(name, Reply("A cat."))

    assert (await complete(provider, PICTURE)).text == "A cat."
    if server := getattr(request.node, "server", None):
        assert server.requests[0]["messages"] == PICTURE


@those(lambda case: not case.pictures)
async def test_pictures_are_refused_by_those_that_cannot_see(name: str, opened: Opened) -> None:
    with pytest.raises(ProviderResponseError, match=r"reads text only.*image_url"):
        await complete(await opened(name), PICTURE)


@prescribed
async def test_a_rate_limit_says_how_long_to_wait(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(error=RateLimitedError("slow down", retry_after=70.0)))
    with pytest.raises(RateLimitedError, match="slow down") as caught:
        await complete(provider, HELLO)

    assert caught.value.retry_after == 70.0
    assert caught.value.status == 429


@prescribed
@pytest.mark.parametrize(
    "error",
    [
        ContextLengthError("too long", status=400),
        ProviderResponseError("bad tools", status=400),
        ProviderResponseError("no such model", status=404),
        OverloadedError("busy", status=503, retry_after=70.0),
    ],
)
async def test_a_refusal_has_a_type(name: str, error: ProviderResponseError, opened: Opened) -> None:
    provider = await opened(name, Reply(error=error))
    with pytest.raises(type(error), match=str(error)) as caught:
        await complete(provider, HELLO)

    assert caught.value.status == error.status
    assert getattr(caught.value, "retry_after", None) == getattr(error, "retry_after", None)


@prescribed
async def test_a_reply_that_breaks_off_is_an_error_and_the_provider_stays_usable(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply("Once upon", cut_off=True), Reply(TEXT))
    fold = Fold()
    with pytest.raises(IncompleteResponseError):  # noqa: PT012  # a stream that ends without a Finish says so in the fold
        async for chunk in provider.stream(HELLO):
            fold.add(chunk)
        fold.response()

    assert fold.text == "Once upon"
    assert (await complete(provider, HELLO)).text == TEXT


@those()
async def test_a_form_is_kept_to_where_it_is_supported(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply('{"name": "Ada"}'))
    assert takes_schemas(provider)
    response = await complete(
        provider, [{"role": "user", "content": "Who is Ada? Reply in JSON."}], response_format=PERSON
    )

    if response.finish_reason is FinishReason.STOP:
        assert isinstance(json.loads(response.text)["name"], str)


async def test_a_provider_without_the_keyword_is_never_called_with_it() -> None:
    class Old:
        name = "old"
        model = "m"

        async def stream(self, messages: Any, *, tools: Any = ()) -> AsyncIterator[Any]:
            yield TextDelta("ok")
            yield Finish(FinishReason.STOP)

        async def aclose(self) -> None: ...

    old: Any = Old()
    assert (await complete(old, HELLO)).text == "ok"
    assert (await complete(FallbackProvider([old]), HELLO)).text == "ok"
    assert not takes_schemas(FallbackProvider([old]))
    for provider in (old, FallbackProvider([old])):
        with pytest.raises(ValueError, match="cannot be held to a JSON schema"):
            await complete(provider, HELLO, response_format=PERSON)


@prescribed
async def test_errors_name_the_provider(name: str, opened: Opened) -> None:
    provider = await opened(name, Reply(error=ProviderResponseError("no", status=400, provider="x", model="m")))
    with pytest.raises(ProviderError) as caught:
        await complete(provider, HELLO)

    assert caught.value.provider
    assert caught.value.model
