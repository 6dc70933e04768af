"""OpenAI, and every server that speaks its chat completions: vLLM, Ollama, llama.cpp, LM Studio and others."""

from __future__ import annotations

import os
from typing import Any, Literal
from urllib.parse import urlsplit

from llmgine.errors import ConfigurationError, MissingExtraError
from llmgine.llm.providers.chat_provider import ChatProvider
from llmgine.llm.providers.loopback import is_this_machine

__all__ = ["OpenAIProvider"]


class OpenAIProvider(ChatProvider):
    """A model behind the chat completions API.

    Requests that fail before the reply begins are tried again by the SDK, `max_retries` times; never one whose reply
    has begun.

    Args:
        model: the server's name for it.
        base_url: the server, such as `http://127.0.0.1:11434/v1`; by default OPENAI_BASE_URL, else OpenAI itself.
        api_key: by default OPENAI_API_KEY; servers other than OpenAI may do without.
        timeout: seconds without a sign of life; connecting gets at most ten.
        stall_timeout: seconds from one piece of a reply to the next, whatever signs of life there are.
        max_retries: see above.
        supports_json_schema: whether the server knows JSON schemas as a `response_format`.
        ceiling: what the server calls the number of tokens that a reply may have. By default `max_completion_tokens`
            where OpenAI is asked, also at Azure, because its newer models take nothing else; `max_tokens` elsewhere,
            because not every server knows the newer name. Say it where a gateway to OpenAI is asked.

    Raises:
        ConfigurationError: OpenAI itself is asked without a key, or an option makes no sense.
        MissingExtraError: the SDK is not installed.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        stall_timeout: float = 60.0,
        max_retries: int = 2,
        supports_json_schema: bool = True,
        ceiling: Literal["max_completion_tokens", "max_tokens"] | None = None,
    ) -> None:
        super().__init__(
            model,
            timeout=timeout,
            stall_timeout=stall_timeout,
            max_retries=max_retries,
            supports_json_schema=supports_json_schema,
        )
        if ceiling not in {None, "max_completion_tokens", "max_tokens"}:
            msg = f"ceiling must be 'max_completion_tokens', 'max_tokens' or None; got {ceiling!r}."
            raise ConfigurationError(msg)
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("openai", "The OpenAI provider") from error
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        api_key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
        if api_key is None:
            msg = f"openai:{model} needs a key: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server that needs none."
            raise ConfigurationError(msg)
        self._ceiling = ceiling or _ceiling_at(base_url)
        self._key_hint = f"Set OPENAI_API_KEY to one that may use {model}."
        patience = openai.Timeout(timeout, connect=min(timeout, 10.0))
        # A proxy from the environment would look for this machine's servers on its own.
        direct = openai.DefaultAsyncHttpxClient(trust_env=False) if is_this_machine(base_url or "") else None
        self._client = openai.AsyncOpenAI(
            api_key=api_key, base_url=base_url, timeout=patience, max_retries=max_retries, http_client=direct
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _open(self, request: dict[str, Any]) -> Any:
        return await self._client.chat.completions.create(**request)

    async def _close(self, response: Any) -> None:
        await response.close()

    @property
    def _server(self) -> str:
        return str(self._client.base_url.copy_with(userinfo=b"")).rstrip("/")


def _ceiling_at(base_url: str | None) -> str:
    host = "openai.com" if base_url is None else urlsplit(base_url).hostname or ""
    theirs = any(host == domain or host.endswith(f".{domain}") for domain in ("openai.com", "openai.azure.com"))
    return "max_completion_tokens" if theirs else "max_tokens"
