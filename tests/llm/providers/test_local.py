"""The embedded model: real weights, real tokens. Nothing is asserted about what it says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llmgine.errors import ContextLengthError, MissingExtraError, ModelFileError, ProviderError, ProviderResponseError
from llmgine.llm.context import ContextWindow, SimpleChatHistory
from llmgine.llm.providers import complete
from llmgine.llm.providers.local import LocalProvider
from llmgine.llm.types import Finish, FinishReason, LLMConversation

HELLO: LLMConversation = [{"role": "user", "content": "Say hello."}]
model = pytest.mark.model


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "Look something up", "parameters": parameters},
    }


@model
async def test_closing_stops_the_model_at_once(local_model: LocalProvider) -> None:
    chunks = local_model.stream([{"role": "user", "content": "Count to a thousand."}])
    await anext(chunks)
    await asyncio.wait_for(chunks.aclose(), 5)

    for thread in threading.enumerate():
        if thread.name.startswith("llmgine") and thread.name != "llmgine-database":
            thread.join(5)
            assert not thread.is_alive()


@model
async def test_closing_the_provider_does_not_wait_for_a_reader_that_has_stopped(weights: Path) -> None:
    provider = LocalProvider()
    chunks = provider.stream([{"role": "user", "content": "Count to a thousand."}])
    await anext(chunks)
    await asyncio.wait_for(provider.aclose(), 5)

    assert [chunk async for chunk in chunks if isinstance(chunk, Finish)] == []
    with pytest.raises(ProviderError, match="has been closed"):
        await complete(provider, HELLO)


@model
async def test_text_may_come_in_parts_and_broken(local_model: LocalProvider) -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": " hello \udc80."}]
    assert (await complete(local_model, [{"role": "user", "content": parts}])).text
    with pytest.raises(ProviderResponseError, match=r"reads text only.*image_url"):
        await complete(local_model, [{"role": "user", "content": [{"type": "image_url"}]}])


@model
async def test_a_conversation_that_is_too_long_says_by_how_much(weights: Path) -> None:
    provider = LocalProvider(str(weights), context_tokens=256)
    with pytest.raises(ContextLengthError, match=r"has 1,\d+ tokens, and 256 fit"):
        await complete(provider, [{"role": "user", "content": "word " * 1000}])
    assert (await complete(provider, HELLO)).text
    await provider.aclose()


@model
async def test_a_reply_that_fills_the_context_ends_with_its_length(weights: Path) -> None:
    provider = LocalProvider(str(weights), context_tokens=256)
    response = await complete(provider, [{"role": "user", "content": "Tell a very long story of a cat and a dog."}])
    await provider.aclose()

    assert response.finish_reason is FinishReason.LENGTH


@model
@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {}},
        {},
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, "required": ["a"]},
        {
            "type": "object",
            "properties": {"p": {"$ref": "#/$defs/P"}},
            "required": ["p"],
            "$defs": {"P": {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}},
        },
        {"type": "object", "properties": {"x": {"$ref": "#/nowhere"}}, "required": ["x"]},
        {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(?=a)["}}, "required": ["x"]},
    ],
    ids=["no properties", "no schema", "union", "reference", "dangling reference", "odd pattern"],
)
async def test_every_schema_gives_a_call_or_an_answer(local_model: LocalProvider, parameters: dict[str, Any]) -> None:
    question: LLMConversation = [{"role": "user", "content": "Look up the weather in Paris with lookup."}]
    response = await complete(local_model, question, tools=[tool("lookup", parameters)])

    assert response.text or response.tool_calls
    for call in response.tool_calls:
        assert call.name == "lookup"
        assert isinstance(json.loads(call.arguments), dict)


@model
async def test_after_a_tools_result_the_model_answers(local_model: LocalProvider) -> None:
    conversation: LLMConversation = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    response = await complete(local_model, conversation, tools=[tool("f", {})])

    assert response.text
    assert response.tool_calls == ()


@model
async def test_a_damaged_cache_is_fetched_again(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the right size, so that only loading tells."""
    cached = tmp_path / weights.name
    cached.write_bytes(b"\0" * weights.stat().st_size)
    fetched: list[int] = []

    async def fetch(progress: Any = None) -> Path:
        fetched.append(1)
        if not cached.exists():
            cached.symlink_to(weights)
        return cached

    monkeypatch.setattr("llmgine.llm.providers.local.fetch_weights", fetch)
    provider = LocalProvider()

    assert (await complete(provider, HELLO)).text
    assert len(fetched) == 2
    await provider.aclose()


@model
@pytest.mark.parametrize("content", ["cut", "zeros"])
async def test_a_damaged_file_is_one_clear_error(weights: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(weights.read_bytes()[:5000] if content == "cut" else b"GGUF" + b"\0" * 5000)

    with pytest.raises(ModelFileError, match="cannot be loaded as a model"):
        await complete(LocalProvider(str(path)), HELLO)


def test_what_is_no_gguf_file_is_refused_at_once(tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("my notes")

    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        LocalProvider(str(text))
    with pytest.raises(ModelFileError, match="No such file"):
        LocalProvider(str(tmp_path / "none.gguf"))
    with pytest.raises(ModelFileError, match="cannot be read as a model"):
        LocalProvider(str(tmp_path))


@model
def test_a_home_folder_may_be_meant(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").symlink_to(weights)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    assert LocalProvider("~/model.gguf").model == "~/model.gguf"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r"llmgine\[local\]"):
        LocalProvider()


WRITER = """
import asyncio
import subprocess
import sys
from llmgine.llm.providers.local import LocalProvider

async def main():
    async for chunk in LocalProvider().stream([{"role": "user", "content": "Count to a thousand."}]):
        print("token", flush=True)

asyncio.run(main())
"""


@model
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_in_mid_reply_ends(weights: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, how)
        writer.communicate(timeout=30)


@model
def test_the_librarys_own_log_stays_off_the_terminal(weights: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER.replace("a thousand", "two")], capture_output=True, check=True)

    assert done.stderr == b""
    assert set(done.stdout.split()) == {b"token"}


# Counting

LONG = "Naïve café, 漢字 and 🙂, over and over. " * 30
CONVERSATIONS: dict[str, LLMConversation] = {
    "a question": HELLO,
    "a past": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": "So it is, <|im_end|> and so on."},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " now?"}]},
    ],
    "a tool's result": [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "w", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "sunny in Oslo", "tool_call_id": "1"},
    ],
    "nothing": [{"role": "user", "content": ""}],
}


@model
@pytest.mark.parametrize("about", CONVERSATIONS)
async def test_as_many_tokens_are_counted_as_the_model_says_that_it_has_read(
    about: str, local_model: LocalProvider
) -> None:
    messages = CONVERSATIONS[about]
    usage = (await complete(local_model, messages, max_output_tokens=1)).usage
    assert usage is not None
    assert await local_model.count_tokens(messages) == usage.input_tokens


@model
async def test_with_tools_the_longer_of_the_two_requests_is_counted(local_model: LocalProvider) -> None:
    tools = [tool("weather", {"type": "object", "properties": {"city": {"type": "string"}}})]
    usage = (await complete(local_model, HELLO, tools=tools, max_output_tokens=1)).usage  # of the choice alone
    assert usage is not None
    assert await local_model.count_tokens(HELLO, tools=tools) == usage.input_tokens
    assert usage.output_tokens == 1
    longer: LLMConversation = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "Yes."}, *HELLO]
    assert await local_model.count_tokens(longer, tools=tools) == await local_model.count_tokens(longer)


@model
async def test_counting_does_not_wait_for_a_reply_that_is_being_written(local_model: LocalProvider) -> None:
    chunks = local_model.stream([{"role": "user", "content": "Count to a thousand."}])
    await anext(chunks)
    assert await asyncio.wait_for(local_model.count_tokens(HELLO), 5) > 0
    await chunks.aclose()


@model
async def test_a_window_counts_with_the_model_and_the_request_fits(local_model: LocalProvider) -> None:
    history = SimpleChatHistory(max_chars=100_000)
    for number in range(8):
        history.add_user_message(f"{number}: {LONG}")
        history.add_assistant_message("Yes.")
    history.add_user_message("Say hello.")
    view = await ContextWindow(1_500, reserve_tokens=100).fit(history, provider=local_model)
    usage = (await complete(local_model, view.messages, max_output_tokens=1)).usage

    assert usage is not None
    assert view.compaction is not None
    assert 700 < view.tokens == usage.input_tokens <= 1_400


@model
async def test_what_cannot_be_counted_is_an_error_of_the_provider(weights: Path) -> None:
    provider = LocalProvider()
    picture: LLMConversation = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    with pytest.raises(ProviderResponseError, match="reads text only"):
        await provider.count_tokens(picture)
    llama = provider._llama
    await provider.aclose()
    with pytest.raises(ProviderError, match="has been closed"):
        await provider.count_tokens(HELLO)
    assert llama is not None
    with pytest.raises(ProviderResponseError, match=r"cannot count.*has been closed"):
        llama.count_tokens(HELLO)


@model
def test_a_model_may_be_closed_as_soon_as_it_is_loaded(weights: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from llmgine.llm.providers.llama import Llama\n"
        "for _ in range(5): Llama(Path(sys.argv[1]), context_tokens=256, threads=1).close()"
    )
    # Where it hangs, it holds the interpreter's lock: only another process can tell.
    subprocess.run([sys.executable, "-c", program, weights], check=True, timeout=60)
