"""The OpenAI provider against a server on a real socket: streams, refusals, and the habits of compatible servers."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from openai_server import OpenAIServer

from llmgine.errors import (
    ConfigurationError,
    ContextLengthError,
    IncompleteResponseError,
    MissingExtraError,
    ProviderResponseError,
    ProviderUnavailableError,
    RateLimitedError,
)
from llmgine.llm.providers import complete
from llmgine.llm.providers.openai import OpenAIProvider
from llmgine.llm.types import Finish, FinishReason, TextDelta, Usage

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


async def ask(*replies: dict[str, Any], **options: Any) -> Any:
    async with OpenAIServer(list(replies)) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, max_retries=0, **options)
        try:
            return await complete(provider, HELLO, tools=TOOLS)
        finally:
            await provider.aclose()


async def test_text_is_streamed_in_pieces_with_usage_at_the_end() -> None:
    async with OpenAIServer([{"text": "Hello there, friend."}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, api_key="secret")
        chunks = [chunk async for chunk in provider.stream(HELLO)]
        await provider.aclose()

    *pieces, finish = chunks
    assert pieces == [TextDelta("Hello"), TextDelta(" there,"), TextDelta(" friend.")]
    assert finish == Finish(FinishReason.STOP, Usage(11, 5), "test-model-1")
    assert server.keys == ["Bearer secret"]
    (request,) = server.requests
    assert request["messages"] == HELLO
    assert request["stream"] is True
    assert request["stream_options"] == {"include_usage": True}
    assert "tools" not in request


@pytest.mark.parametrize(
    ("base_url", "options", "sent"),
    [
        (None, {}, "max_completion_tokens"),
        ("https://api.openai.com/v1", {}, "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", {}, "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", {}, "max_completion_tokens"),
        ("https://notopenai.com/v1", {}, "max_tokens"),
        ("https://mine.services.ai.azure.com/models", {}, "max_tokens"),
        ("http://127.0.0.1:11434/v1", {}, "max_tokens"),
        ("https://gateway.example/openai.com/v1", {"ceiling": "max_completion_tokens"}, "max_completion_tokens"),
        ("https://api.openai.com/v1", {"ceiling": "max_tokens"}, "max_tokens"),
    ],
)
async def test_the_length_of_a_reply_has_the_name_that_the_server_knows(
    base_url: str | None, options: dict[str, Any], sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    provider = OpenAIProvider("m", base_url=base_url, api_key="k", **options)
    asked: list[dict[str, Any]] = []

    async def open_(request: dict[str, Any]) -> Any:
        asked.append(request)
        raise asyncio.CancelledError

    monkeypatch.setattr(provider, "_open", open_)
    for length in (7, None):
        with pytest.raises(asyncio.CancelledError):
            await complete(provider, HELLO, max_output_tokens=length)
    await provider.aclose()

    names = {"max_completion_tokens", "max_tokens"}
    assert [{name: request[name] for name in names & request.keys()} for request in asked] == [{sent: 7}, {}]


def test_a_name_for_the_length_that_no_server_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ceiling must be"):
        OpenAIProvider("m", api_key="k", ceiling="max_words")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("habit", [None, "no index", "bare", "one index", "whole", "repeats", "says stop"])
async def test_two_tool_calls_are_put_together_whatever_the_servers_habit(habit: str | None) -> None:
    calls = [
        {"id": "a", "name": "add", "arguments": {"x": 1, "text": "ä"}},
        {"id": "b", "name": "sub", "arguments": {"y": [2]}},
    ]
    response = await ask({"text": "Let me see", "tool_calls": calls, "habit": habit})

    assert response.text == "Let me see"
    assert response.finish_reason is FinishReason.TOOL_CALLS
    assert [call.name for call in response.tool_calls] == ["add", "sub"]
    ids = [call.id for call in response.tool_calls]
    assert ids == ["a", "b"] or (habit == "bare" and len(set(ids)) == 2)
    assert [call.arguments for call in response.tool_calls] == ['{"x": 1, "text": "\\u00e4"}', '{"y": [2]}']


async def test_tools_are_offered() -> None:
    async with OpenAIServer([{"text": "ok"}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        await complete(provider, HELLO, tools=TOOLS)
        await provider.aclose()

    assert server.requests[0]["tools"] == TOOLS


@pytest.mark.parametrize(
    ("said", "reason"),
    [("length", FinishReason.LENGTH), ("content_filter", FinishReason.CONTENT_FILTER), ("odd", FinishReason.STOP)],
)
async def test_finish_reasons_are_told_apart(said: str, reason: FinishReason) -> None:
    assert (await ask({"text": "a", "finish_reason": said})).finish_reason is reason


async def test_a_server_that_does_not_count_gives_no_usage() -> None:
    assert (await ask({"text": "a", "usage": False})).usage is None


@pytest.mark.parametrize("how", ["cut_off", "garbage"])
async def test_a_reply_that_breaks_off_says_what_had_arrived(how: str) -> None:
    with pytest.raises(IncompleteResponseError) as caught:
        await ask({"text": "Once upon a", how: True})

    assert caught.value.partial == "Once upon a"


async def test_a_connection_that_is_lost_after_the_end_is_no_loss() -> None:
    response = await ask({"text": "All there.", "cut_off_late": True})

    assert (response.text, response.finish_reason, response.usage) == ("All there.", FinishReason.STOP, None)


async def test_a_web_page_is_told_from_a_reply() -> None:
    with pytest.raises(ProviderResponseError, match=r"but not with chat completions.*/v1"):
        await ask({"page": "<html>Welcome</html>"})


async def test_a_password_in_the_base_url_stays_there() -> None:
    provider = OpenAIProvider("m", base_url="http://user:secret@127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(ProviderUnavailableError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached") as caught:
        await complete(provider, HELLO)
    await provider.aclose()

    assert "secret" not in str(caught.value)


async def test_what_cannot_be_sent_is_one_clear_error() -> None:
    async with OpenAIServer([{"text": "ok"}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        with pytest.raises(ProviderResponseError, match="cannot be sent"):
            await complete(provider, [{"role": "user", "content": "\ud800"}])
        await provider.aclose()


async def test_this_machines_servers_are_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    assert (await ask({"text": "direct"})).text == "direct"


@pytest.mark.parametrize(
    ("status", "error", "kind", "says"),
    [
        (401, {"message": "bad key sk-12345"}, ProviderResponseError, r"refused the key \(401\). Set OPENAI_API_KEY"),
        (404, {"message": "no such model"}, ProviderResponseError, r"has no model 'm': no such model"),
        (400, {"message": "x", "code": "context_length_exceeded"}, ContextLengthError, r"longer than m can read"),
        (400, {"message": "exceeds the context size"}, ContextLengthError, r"context size"),
        (400, {"message": "bad tools"}, ProviderResponseError, r"\(400\): bad tools"),
        (500, {"message": "oops"}, ProviderResponseError, r"\(500\): oops"),
    ],
)
async def test_a_refusal_says_what_to_do(status: int, error: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        await ask({"status": status, "error": error})

    assert isinstance(caught.value, ProviderResponseError)
    assert caught.value.status == status
    assert (caught.value.provider, caught.value.model) == ("openai", "m")
    assert "sk-12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": format_datetime(datetime.now(UTC) + timedelta(hours=10), usegmt=True)}, 36_000.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    with pytest.raises(RateLimitedError, match="slow down") as caught:
        await ask({"status": 429, "headers": headers, "error": {"message": "slow down"}})

    assert caught.value.retry_after == (None if seconds is None else pytest.approx(seconds, rel=0.1))


async def test_a_server_that_is_not_there_is_named() -> None:
    async with OpenAIServer([]) as server:
        gone = server.base_url
    provider = OpenAIProvider("m", base_url=gone, max_retries=0)
    with pytest.raises(ProviderUnavailableError, match=gone):
        await complete(provider, HELLO)
    await provider.aclose()


async def test_a_failure_before_the_reply_is_tried_again() -> None:
    async with OpenAIServer([{"status": 503, "error": {"message": "busy"}}, {"text": "fine"}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, max_retries=1)
        assert (await complete(provider, HELLO)).text == "fine"
        await provider.aclose()


async def test_a_reply_that_has_begun_is_never_asked_for_again() -> None:
    async with OpenAIServer([{"text": "Once", "cut_off": True}, {"text": "twice"}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url, max_retries=5)
        with pytest.raises(IncompleteResponseError):
            await complete(provider, HELLO)
        await provider.aclose()

    assert len(server.requests) == 1


async def test_closing_the_stream_hangs_up() -> None:
    async with OpenAIServer([{"text": "Once upon", "hold": True}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        async with aclosing(provider.stream(HELLO)) as chunks:
            async for chunk in chunks:
                if chunk == TextDelta(" upon"):
                    break
        await asyncio.wait_for(server.hung_up.wait(), 5)
        await provider.aclose()


async def test_cancelling_the_reader_hangs_up() -> None:
    async with OpenAIServer([{"text": "Once upon", "hold": True}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        task = asyncio.create_task(complete(provider, HELLO))
        await server.held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.hung_up.wait(), 5)
        await provider.aclose()


async def test_a_server_that_falls_silent_is_given_up() -> None:
    with pytest.raises(IncompleteResponseError) as caught:
        await ask({"text": "Once upon", "hold": True}, timeout=0.2)

    assert caught.value.partial == "Once upon"


async def test_requests_at_the_same_time_do_not_mix() -> None:
    async with OpenAIServer([{"text": "one"}, {"text": "two"}, {"text": "three"}]) as server:
        provider = OpenAIProvider("m", base_url=server.base_url)
        responses = await asyncio.gather(*(complete(provider, HELLO) for _ in range(3)))
        await provider.aclose()

    assert sorted(response.text for response in responses) == ["one", "three", "two"]


def test_openai_itself_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY"):
        OpenAIProvider("gpt-4o-mini")


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmgine\[openai\]'"):
        OpenAIProvider("m", base_url="http://127.0.0.1:1/v1")
