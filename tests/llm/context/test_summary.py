"""A summary is asked for with all that it is to hold, within bounds, and is marked as one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmgine.errors import ConfigurationError, ProviderError, ProviderUnavailableError
from llmgine.llm.context import Summarise, Summary, conversation_faults
from llmgine.llm.providers.scripted import Reply, ScriptedProvider
from llmgine.llm.types import LLMConversation, Usage

TALK: LLMConversation = [
    {"role": "user", "content": [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at":"it"}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "a cat"},
    {"role": "assistant", "content": "It is a cat."},
]


async def test_a_provider_is_asked_with_the_conversation_and_what_was_before() -> None:
    usage = Usage(100, 10)
    provider = ScriptedProvider([Reply(" a cat was seen \n", usage=usage)])

    written = await Summarise(provider).write(Summary("they met", "x", 3), TALK, max_tokens=4_000)

    assert written == ("a cat was seen", usage)
    system, user = provider.requests[0].messages
    assert system["role"] == "system"
    assert user["content"].splitlines()[1:-3] == [
        "Summary of what was before: they met",
        "",
        "User: what is this [image]",
        'Assistant: [calls look({"at":"it"})]',
        "Tool result: a cat",
        "Assistant: It is a cat.",
    ]


async def test_a_function_may_write_it_and_what_is_too_long_is_cut() -> None:
    async def write(request: LLMConversation) -> str:
        return "x" * 1_000

    assert await Summarise(write, max_chars=200).write(None, TALK, max_tokens=4_000) == ("x" * 200, Usage())


async def test_the_request_is_bounded_and_loses_the_oldest() -> None:
    provider = ScriptedProvider([Reply("s")])
    talk: LLMConversation = [{"role": "user", "content": f"{n} " + "x" * 1_000} for n in range(100)]

    await Summarise(provider).write(None, talk, max_tokens=4_000)

    asked = sum(len(message["content"]) for message in provider.requests[0].messages)
    assert 7_000 < asked < 3 * 4_000
    content = provider.requests[0].messages[1]["content"]
    assert "User: 99 x" in content
    assert "User: 0 x" not in content
    assert "[What was before is left out.]" in content


@pytest.mark.parametrize("text", ["", " \n"])
async def test_nothing_is_no_summary(text: str) -> None:
    with pytest.raises(ProviderError, match="answered with nothing"):
        await Summarise(ScriptedProvider([Reply(text)])).write(None, TALK, max_tokens=4_000)


async def test_one_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        await Summarise(ScriptedProvider([Reply(hold=asyncio.Event())]), timeout=0).write(None, TALK, max_tokens=99)


async def test_the_providers_failure_is_told() -> None:
    provider = ScriptedProvider([Reply(error=ProviderUnavailableError("away"))])
    with pytest.raises(ProviderUnavailableError):
        await Summarise(provider).write(None, TALK, max_tokens=4_000)


@pytest.mark.parametrize("bad", [{"keep_last": 0}, {"max_chars": 1}, {"timeout": -1}, {"timeout": float("inf")}])
def test_senseless_numbers_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Summarise(ScriptedProvider([]), **bad)


def test_a_summary_survives_its_dict_and_reads_as_a_valid_conversation() -> None:
    summary = Summary("text", "m9", 9, ("m3",))

    assert Summary.from_dict(summary.to_dict()) == summary
    assert conversation_faults(summary.conversation) == []
    assert summary.conversation[1]["content"] == "[Summary of 9 earlier messages]\ntext"
