"""Which model answers when nobody has said; the reason is a sentence for people."""

from __future__ import annotations

import asyncio

import pytest
from openai_server import OpenAIServer

from llmgine.errors import ConfigurationError
from llmgine.llm.providers import choose_model, create_provider
from llmgine.llm.providers.openai import OpenAIProvider


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMGINE_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("llmgine.llm.providers.choice._PROBE_TIMEOUT_S", 5.0)


async def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_MODEL", "openai:configured")
    choice = await choose_model("openai:asked")

    assert (choice.spec, choice.reason, choice.demonstration) == ("openai:asked", "as asked for", False)


async def test_what_is_configured_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_MODEL", "openai:configured")
    monkeypatch.setenv("OPENAI_API_KEY", "k")

    assert (await choose_model()).spec == "openai:configured"


async def test_a_key_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert (await choose_model()).reason == "because OPENAI_API_KEY is set"
    assert (await choose_model()).spec.startswith("openai:gpt")

    monkeypatch.setenv("OPENAI_MODEL", "mine")
    assert (await choose_model()).spec == "openai:mine"


async def test_a_base_url_is_asked_for_its_first_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OpenAIServer([], models=("first", "second")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        choice = await choose_model()

    assert (choice.spec, choice.reason) == ("openai:first", "because OPENAI_BASE_URL is set")


async def test_a_server_on_this_machine_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with OpenAIServer([{"text": "hi"}], models=("llama",)) as server:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.port}")
        choice = await choose_model()
        provider = create_provider(choice.spec, base_url=choice.base_url)
        chunks = [chunk async for chunk in provider.stream([{"role": "user", "content": "hello"}])]
        await provider.aclose()

    assert (choice.spec, choice.reason) == ("openai:llama", "because Ollama answers on this machine")
    assert chunks


@pytest.mark.parametrize("host", ["", "example.org:80", "localhost", "127.0.0.1:99999999", "[::1]:5"])
def test_only_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    from llmgine.llm.providers.choice import _ollama_url

    monkeypatch.setenv("OLLAMA_HOST", host)
    assert _ollama_url() == ("http://127.0.0.1:5/v1" if host == "[::1]:5" else "http://127.0.0.1:11434/v1")


async def test_a_server_that_talks_nonsense_or_nothing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    held = asyncio.Event()

    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.set()
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n["wha"]')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
    choice = await choose_model()
    server.close()

    assert held.is_set()
    assert choice.spec == "local:smollm2"


async def test_the_embedded_model_is_the_last_resort_and_said_to_be_small() -> None:
    async with OpenAIServer([]) as server:
        free = server.port
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", f"127.0.0.1:{free}")
        choice = await choose_model()

    assert (choice.spec, choice.demonstration) == ("local:smollm2", True)
    assert "no key is set" in choice.reason


@pytest.mark.parametrize("spec", ["gpt-4o", "openai:", "mistral:large", ":", ""])
def test_what_names_no_model_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError, match="names no model"):
        create_provider(spec)


async def test_a_name_may_have_colons() -> None:
    provider = create_provider("openai:llama3:8b", base_url="http://127.0.0.1:1/v1")

    assert isinstance(provider, OpenAIProvider)
    assert provider.model == "llama3:8b"
    await provider.aclose()
