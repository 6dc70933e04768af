"""The scripted provider plays its script, and says so when a conversation leaves it."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.errors import ConfigurationError, IncompleteResponseError, ProviderError
from llmgine.llm.providers import complete, create_provider
from llmgine.llm.providers.scripted import Reply, ScriptDriftError, ScriptedProvider
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import FinishReason, TextDelta, Usage

HELLO = [{"role": "user", "content": "hello there"}]


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    async def play() -> str:
        provider = ScriptedProvider([Reply(text)])
        return "".join([chunk.text async for chunk in provider.stream(HELLO) if isinstance(chunk, TextDelta)])

    assert asyncio.run(play()) == text


async def test_replies_come_in_order_and_requests_are_kept() -> None:
    call = ToolCall(id="1", name="f", arguments='{"a": 1}')
    provider = ScriptedProvider([Reply("one two"), Reply(tool_calls=[call])])

    first = await complete(provider, HELLO, tools=[{"type": "function"}])
    assert (first.text, first.usage, first.finish_reason) == ("one two", Usage(2, 2), FinishReason.STOP)
    second = await complete(provider, HELLO)
    assert (second.tool_calls, second.finish_reason) == ((call,), FinishReason.TOOL_CALLS)
    assert [(r.messages, r.tools) for r in provider.requests] == [(HELLO, [{"type": "function"}]), (HELLO, [])]
    provider.assert_complete()


async def test_a_request_too_many_is_a_drift() -> None:
    with pytest.raises(ScriptDriftError, match="ended after 0 replies, and was asked again: 'hello there'"):
        await complete(ScriptedProvider([]), HELLO)


@pytest.mark.parametrize("expects", ["goodbye", lambda messages: len(messages) > 1])
async def test_another_request_than_expected_is_a_drift(expects: Any) -> None:
    provider = ScriptedProvider([Reply("hi", expects=expects)])
    with pytest.raises(ScriptDriftError, match="The script expects"):
        await complete(provider, HELLO)


@pytest.mark.parametrize("expects", ["hello there", lambda messages: len(messages) == 1])
async def test_the_expected_request_is_answered(expects: Any) -> None:
    assert (await complete(ScriptedProvider([Reply("hi", expects=expects)]), HELLO)).text == "hi"


def test_replies_that_were_never_asked_for_are_a_drift() -> None:
    with pytest.raises(ScriptDriftError, match="1 replies of the script were never asked for"):
        ScriptedProvider([Reply("hi")]).assert_complete()


async def test_a_reply_can_fail_break_off_or_wait() -> None:
    gate = asyncio.Event()
    provider = ScriptedProvider(
        [Reply("a", error=ProviderError("no luck")), Reply("b", cut_off=True), Reply("c d", hold=gate)]
    )
    with pytest.raises(ProviderError, match="no luck"):
        await complete(provider, HELLO)
    with pytest.raises(IncompleteResponseError):
        await complete(provider, HELLO)
    async with aclosing(provider.stream(HELLO)) as chunks:
        assert [await anext(chunks), await anext(chunks)] == [TextDelta("c"), TextDelta(" d")]
        gate.set()
        assert getattr(await anext(chunks), "reason", None) is FinishReason.STOP


async def test_a_script_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(
        json.dumps(
            [
                {"expects": "hello there", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
                {"text": "done"},
                {"error": "no luck"},
            ]
        )
    )
    provider = create_provider(f"scripted:{path}")

    (call,) = (await complete(provider, HELLO)).tool_calls
    assert (call.name, call.arguments) == ("f", '{"a": 1}')
    assert (await complete(provider, HELLO)).text == "done"
    with pytest.raises(ProviderError, match="no luck"):
        await complete(provider, HELLO)


@pytest.mark.parametrize("content", [None, "{", "{}", "[1]", '[{"txt": "x"}]', '[{"tool_calls": [{}]}]'])
def test_what_is_no_script_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "script.json"
    if content is not None:
        path.write_text(content)
    if content == "{}":
        assert isinstance(ScriptedProvider.from_file(path), ScriptedProvider)
        return
    with pytest.raises(ConfigurationError, match="is not a script"):
        ScriptedProvider.from_file(path)
