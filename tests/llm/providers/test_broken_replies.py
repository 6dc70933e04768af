"""Every kind of broken reply ends in a typed error or in a bounded repair, and never in waiting for ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from http_providers import http_providers, open_provider
from openai_server import OpenAIServer

from llmgine.errors import IncompleteResponseError, ProviderError, ProviderResponseError, ProviderUnavailableError
from llmgine.llm.providers import AuthenticationError, Fold, OverloadedError, StalledError, complete
from llmgine.llm.tools import ToolCall, ToolManager
from llmgine.llm.types import FinishReason, LLMConversation, LLMResponse, TextDelta, ToolCallDelta

HELLO: LLMConversation = [{"role": "user", "content": "hello"}]
NEVER_S = 20.0  # far longer than any of it takes


def add(a: int = 1) -> int:
    """Add."""
    return a + 1


@pytest.fixture
def manager() -> ToolManager:
    manager = ToolManager()
    manager.register_tool(add)
    return manager


async def ask(name: str, *replies: dict[str, Any], messages: LLMConversation = HELLO, **options: Any) -> LLMResponse:
    async with OpenAIServer(list(replies)) as server:
        provider = open_provider(name, server.base_url, **options)
        try:
            async with asyncio.timeout(NEVER_S):
                return await complete(provider, messages, tools=ToolManager().tool_schemas)
        finally:
            await provider.aclose()


def event(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps({**head, **more})


def piece(index: int, call_id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments} | ({"name": name} if name is not None else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": call_id} if call_id else {})]}


@http_providers
@pytest.mark.parametrize(
    "raw",
    [
        ["[DONE]"],
        [event(None, choices=[]), "[DONE]"],
        [event({"role": "assistant", "content": ""}), "[DONE]"],
        [event({}, choices=None), "[DONE]"],
        ["{}", "[DONE]"],
        ["[]", "[DONE]"],
        ['"text"', "[DONE]"],
        ["{", "[DONE]"],
        [json.dumps({"error": {"message": "overloaded", "code": 502}})],
        [json.dumps({"error": "overloaded"})],
    ],
)
async def test_a_reply_with_nothing_in_it_is_an_error(name: str, raw: list[str]) -> None:
    with pytest.raises(ProviderError):
        await ask(name, {"raw": raw})


@http_providers
async def test_a_web_page_in_place_of_a_reply_says_what_may_be_wrong(name: str) -> None:
    with pytest.raises(ProviderResponseError, match=r"but not with chat completions.*/v1"):
        await ask(name, {"page": "<html>Welcome</html>"})


@http_providers
async def test_a_web_page_in_place_of_an_error_is_kept_short(name: str) -> None:
    with pytest.raises(OverloadedError) as caught:
        await ask(name, {"page": "<html>" + "x" * 10_000, "status": 502})

    assert caught.value.status == 502
    assert len(str(caught.value)) < 700


@http_providers
async def test_a_reply_that_ends_without_saying_so_has_broken_off(name: str) -> None:
    with pytest.raises(IncompleteResponseError) as caught:
        await ask(name, {"raw": [event({"content": "Once"}), event({"content": " upon"})]})

    assert caught.value.partial == "Once upon"


@http_providers
async def test_a_stream_that_stalls_is_given_up_whatever_signs_of_life_there_are(name: str) -> None:
    with pytest.raises(StalledError, match=r"stalled: nothing came for 0\.2 s") as caught:
        await ask(name, {"text": "Once upon", "stall": True}, stall_timeout=0.2)

    assert (caught.value.partial, caught.value.timeout) == ("Once upon", 0.2)
    assert isinstance(caught.value, ProviderUnavailableError)
    assert isinstance(caught.value, IncompleteResponseError)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.provider == name


@http_providers
@pytest.mark.parametrize("how", ["silent", "drip"])
async def test_a_server_that_does_not_answer_is_given_up(name: str, how: str) -> None:
    with pytest.raises(ProviderUnavailableError, match=r"did not answer within 0\.2 s"):
        await ask(name, {how: True}, timeout=0.2)


@http_providers
async def test_a_server_that_needs_no_key_gets_none_that_is_somebody_elses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with OpenAIServer([{"text": "ok"}]) as server:
        provider = open_provider(name, server.base_url, api_key=None)
        assert (await complete(provider, HELLO)).text == "ok"
        await provider.aclose()

    assert server.keys == ["Bearer none"]


@http_providers
async def test_a_stalled_reply_is_hung_up(name: str) -> None:
    async with OpenAIServer([{"text": "Once upon", "hold": True}]) as server:
        provider = open_provider(name, server.base_url, stall_timeout=0.2)
        with pytest.raises(StalledError):
            await complete(provider, HELLO)
        await asyncio.wait_for(server.hung_up.wait(), NEVER_S)
        await provider.aclose()


@http_providers
async def test_a_reader_may_take_longer_than_the_model(name: str) -> None:
    async with OpenAIServer([{"text": "Once upon a time"}]) as server:
        provider = open_provider(name, server.base_url, stall_timeout=0.1)
        fold = Fold()
        async for chunk in provider.stream(HELLO):
            fold.add(chunk)
            await asyncio.sleep(0.11)
        await provider.aclose()

    assert fold.response().text == "Once upon a time"


@http_providers
@pytest.mark.parametrize(
    ("arguments", "says"),
    [('{"a": 1', "not valid JSON"), ("nonsense", "not valid JSON"), ("[1]", "one JSON object"), ('{"a": "x"}', "a")],
)
async def test_arguments_that_make_no_sense_are_told_to_the_model(
    name: str, arguments: str, says: str, manager: ToolManager
) -> None:
    response = await ask(name, {"tool_calls": [{"id": "1", "name": "add", "arguments": arguments}]})
    (call,) = response.tool_calls
    result = await manager.run(call)

    assert call.arguments == arguments
    assert not result.succeeded
    assert says in result.content


@http_providers
async def test_a_call_that_is_cut_off_before_its_arguments_is_not_run_without_them(
    name: str, manager: ToolManager
) -> None:
    response = await ask(name, {"raw": [event(piece(0, "1", "add")), event({}, "length"), "[DONE]"]})
    (call,) = response.tool_calls

    assert response.finish_reason is FinishReason.LENGTH
    assert not (await manager.run(call)).succeeded


@http_providers
async def test_a_tool_that_nobody_has_is_told_to_the_model(name: str, manager: ToolManager) -> None:
    response = await ask(name, {"tool_calls": [{"id": "1", "name": "subtract", "arguments": {}}]})
    result = await manager.run(response.tool_calls[0])

    assert not result.succeeded
    assert "subtract" in result.content
    assert "add" in result.content


@http_providers
@pytest.mark.parametrize("habit", [None, "repeats", "whole"])
async def test_calls_with_one_id_get_ids_of_their_own(name: str, habit: str | None) -> None:
    calls = [{"id": "same", "name": "add", "arguments": {"a": number}} for number in (1, 2, 3)]
    response = await ask(name, {"tool_calls": calls, "habit": habit})

    assert [call.arguments for call in response.tool_calls] == ['{"a": 1}', '{"a": 2}', '{"a": 3}']
    assert response.tool_calls[0].id == "same"
    assert len({call.id for call in response.tool_calls}) == 3


@http_providers
async def test_whole_calls_with_one_index_and_no_id_are_told_apart(name: str) -> None:
    pieces = [event(piece(0, None, "add", '{"a": 1}')), event(piece(0, None, "add", '{"a": 2}'))]
    response = await ask(name, {"raw": [*pieces, event({}, "tool_calls"), "[DONE]"]})

    assert [(call.name, call.arguments) for call in response.tool_calls] == [("add", '{"a": 1}'), ("add", '{"a": 2}')]
    assert len({call.id for call in response.tool_calls}) == 2


@http_providers
async def test_text_after_a_tool_call_is_kept_and_so_is_the_call(name: str) -> None:
    raw = [
        event({"content": "Before."}),
        event(piece(0, "1", "add", '{"a": 1}')),
        event({"content": " After."}),
        event({}, "tool_calls"),
        "[DONE]",
    ]
    async with OpenAIServer([{"raw": raw}]) as server:
        provider = open_provider(name, server.base_url)
        chunks = [chunk async for chunk in provider.stream(HELLO)]
        await provider.aclose()
    fold = Fold()
    for chunk in chunks:
        fold.add(chunk)

    assert [type(chunk) for chunk in chunks[:-1]] == [TextDelta, ToolCallDelta, TextDelta]
    assert fold.response().text == "Before. After."
    assert fold.response().tool_calls == (ToolCall(id="1", name="add", arguments='{"a": 1}'),)


@http_providers
async def test_a_usage_that_is_missing_breaks_nothing(name: str) -> None:
    response = await ask(name, {"text": "a", "usage": False})

    assert response.text == "a"
    assert (response.usage is None) == (name != "litellm")  # which estimates it


@http_providers
async def test_what_a_model_got_wrong_does_not_spoil_the_rest_of_the_conversation(name: str) -> None:
    call = ToolCall(id="1", name="functions.add two!", arguments='{"a": 1')
    nameless = ToolCall(id="2", name="", arguments="[]")
    right = ToolCall(id="3", name="add", arguments='{"a":   1}')
    history: LLMConversation = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [one.to_dict() for one in (call, nameless, right)]},
        *({"role": "tool", "tool_call_id": number, "content": "Error: …"} for number in "123"),
    ]
    async with OpenAIServer([{"text": "ok"}]) as server:
        provider = open_provider(name, server.base_url)
        assert (await complete(provider, history)).text == "ok"
        await provider.aclose()

    sent = [call["function"] for call in server.requests[0]["messages"][1]["tool_calls"]]
    assert [function["name"] for function in sent] == ["functions_add_two_", "unknown", "add"]
    assert [json.loads(function["arguments"]) for function in sent] == [
        {"not_valid_json": '{"a": 1'},
        {"not_valid_json": "[]"},
        {"a": 1},
    ]
    assert history[1]["tool_calls"][0] == call.to_dict()


@http_providers
async def test_a_refused_key_is_not_repeated(name: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        await ask(name, {"status": 401, "error": {"message": "bad key sk-12345"}})

    assert isinstance(caught.value, PermissionError)
    assert caught.value.status == 401
    assert "sk-12345" not in str(caught.value)


@http_providers
async def test_a_server_that_is_not_there_is_unavailable(name: str) -> None:
    async with OpenAIServer([]) as server:
        gone = server.base_url
    provider = open_provider(name, gone)
    with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
        await complete(provider, HELLO)
    await provider.aclose()


@http_providers
async def test_a_used_up_quota_is_no_rate_limit_that_waiting_helps(name: str) -> None:
    error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    with pytest.raises(ProviderResponseError, match="no quota left") as caught:
        await ask(name, {"status": 429, "error": error})

    assert type(caught.value) is ProviderResponseError
    assert caught.value.status == 429
