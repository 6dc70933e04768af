"""Which model answers, when nobody has said: the first that there is, and the reason in a sentence for people."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from llmgine.errors import ConfigurationError
from llmgine.llm.providers.base import Provider
from llmgine.llm.providers.loopback import is_this_machine

__all__ = ["ModelChoice", "choose_model", "create_provider"]

DEFAULT_OPENAI_MODEL = "gpt-4o-mini"
EMBEDDED_MODEL = "local:smollm2"
_PROBE_TIMEOUT_S = 0.3


@dataclass(frozen=True)
class ModelChoice:
    """A model, and why it was chosen."""

    spec: str
    """`provider:name`"""
    reason: str
    """Half a sentence for people."""
    base_url: str | None = None
    """Where the provider's server is, if not at its usual place."""
    demonstration: bool = False
    """Whether the model is too small to be more than that."""


async def choose_model(spec: str | None = None) -> ModelChoice:
    """Return the model that was asked for, or else the first of those that can answer.

    In order: `spec`; LLMGINE_MODEL; a provider whose key is in the environment; a server on this machine that answers
    (Ollama, then llama.cpp); the embedded model.
    """
    environment = os.environ
    if spec:
        return ModelChoice(spec, "as asked for", demonstration=spec == EMBEDDED_MODEL)
    if configured := environment.get("LLMGINE_MODEL"):
        return ModelChoice(configured, "as LLMGINE_MODEL says", demonstration=configured == EMBEDDED_MODEL)
    base_url = environment.get("OPENAI_BASE_URL")
    if environment.get("OPENAI_API_KEY") or base_url:
        found = "OPENAI_BASE_URL" if base_url else "OPENAI_API_KEY"
        model = environment.get("OPENAI_MODEL") or (await _first_model(base_url, patience=5.0) if base_url else None)
        return ModelChoice(f"openai:{model or DEFAULT_OPENAI_MODEL}", f"because {found} is set")
    servers = {"Ollama": _ollama_url(), "llama.cpp": "http://127.0.0.1:8080/v1"}
    models = await asyncio.gather(*(_first_model(url) for url in servers.values()))
    for (server, url), model in zip(servers.items(), models, strict=True):
        if model is not None:
            return ModelChoice(f"openai:{model}", f"because {server} answers on this machine", base_url=url)
    reason = "because no key is set and no model server answers on this machine"
    return ModelChoice(EMBEDDED_MODEL, reason, demonstration=True)


def create_provider(
    spec: str, *, base_url: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Provider:
    """Return the provider that a `provider:name` stands for.

    Args:
        spec: `openai:NAME`, `litellm:NAME`, `any_llm:PROVIDER/NAME`, `local:smollm2`, `local:/path/to/model.gguf` or
            `scripted:FILE.json`.
        base_url: the server, for `openai`, `litellm` and `any_llm`.
        progress: told the bytes done and the bytes in all while a model is fetched.

    Raises:
        ConfigurationError: there is no such provider, or it cannot be set up.
        MissingExtraError: what it needs is not installed.
    """
    kind, _, name = spec.partition(":")
    if name and kind == "openai":
        from llmgine.llm.providers.openai import OpenAIProvider

        return OpenAIProvider(name, base_url=base_url)
    if name and kind == "litellm":
        from llmgine.llm.providers.litellm import LiteLLMProvider

        return LiteLLMProvider(name, base_url=base_url)
    if name and kind == "any_llm":
        from llmgine.llm.providers.any_llm import AnyLLMProvider

        return AnyLLMProvider(name, base_url=base_url)
    if name and kind == "local":
        from llmgine.llm.providers.local import LocalProvider

        return LocalProvider(name, progress=progress)
    if name and kind == "scripted":
        from llmgine.llm.providers.scripted import ScriptedProvider

        return ScriptedProvider.from_file(name)
    msg = (
        f"{spec!r} names no model. Expected openai:NAME, litellm:NAME, any_llm:PROVIDER/NAME, local:smollm2, "
        "local:/path/to.gguf or scripted:FILE.json."
    )
    raise ConfigurationError(msg)


def _ollama_url() -> str:
    host = os.environ.get("OLLAMA_HOST", "")
    with suppress(ValueError):
        if is_this_machine(host):
            return f"http://127.0.0.1:{urlsplit(host if '//' in host else f'//{host}').port or 11434}/v1"
    return "http://127.0.0.1:11434/v1"


async def _first_model(base_url: str, patience: float = _PROBE_TIMEOUT_S) -> str | None:
    with suppress(TimeoutError):
        return await asyncio.wait_for(asyncio.to_thread(_ask_for_models, base_url, patience), 2 * patience)
    return None


def _ask_for_models(base_url: str, patience: float) -> str | None:
    if urlsplit(base_url).scheme not in {"http", "https"}:
        return None
    # A proxy would look for this machine's servers on its own.
    opener = build_opener(ProxyHandler({})) if is_this_machine(base_url) else build_opener()
    opener.addheaders = [("Authorization", f"Bearer {os.environ.get('OPENAI_API_KEY') or 'none'}")]
    try:
        with opener.open(f"{base_url.rstrip('/')}/models", timeout=patience) as response:
            models = json.loads(response.read(1_000_000))["data"]
        return str(models[0]["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
