"""Any of about a hundred providers, by way of LiteLLM."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from llmgine.errors import MissingExtraError
from llmgine.llm.providers.chat_provider import ChatProvider

__all__ = ["LiteLLMProvider"]


class LiteLLMProvider(ChatProvider):
    """A model that LiteLLM reaches. Where a server does not count tokens, LiteLLM estimates them.

    Args:
        model: LiteLLM's name for it, such as `gpt-4o-mini` or `anthropic/claude-sonnet-4-5`.
        base_url: the provider's server, if not at its usual place.
        api_key: by default what the provider's environment variable says.
        timeout: seconds that the provider may take to begin its reply.
        stall_timeout: seconds from one piece of a reply to the next.
        max_retries: how often what fails before the reply begins is tried again.
        supports_json_schema: whether the model knows JSON schemas as a `response_format`; by default what LiteLLM says
            of it, and true behind a `base_url`.

    Raises:
        MissingExtraError: LiteLLM is not installed.
    """

    name = "litellm"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        stall_timeout: float = 60.0,
        max_retries: int = 2,
        supports_json_schema: bool | None = None,
    ) -> None:
        self._litellm = _load()
        if supports_json_schema is None:
            supports_json_schema = bool(base_url) or bool(self._litellm.supports_response_schema(model=model))
        super().__init__(
            model,
            timeout=timeout,
            stall_timeout=stall_timeout,
            max_retries=max_retries,
            supports_json_schema=supports_json_schema,
        )
        self._options: dict[str, Any] = {"timeout": timeout, "max_retries": max_retries}
        if base_url:
            self._options["api_base"] = base_url
        if api_key:
            self._options["api_key"] = api_key
        elif base_url and model.startswith("openai/") and not os.environ.get("OPENAI_API_KEY"):
            self._options["api_key"] = "none"  # servers that are not OpenAI's may do without

    async def aclose(self) -> None:
        """Do nothing: LiteLLM shares its connections between all who use it, and closes them at exit."""

    async def _open(self, request: dict[str, Any]) -> Any:
        return await self._litellm.acompletion(**request, **self._options)

    async def _close(self, response: Any) -> None:
        await response.aclose()

    @property
    def _server(self) -> str:
        return f"{self.model.partition('/')[0]}, by way of LiteLLM,"

    def _has_ended(self, response: Any) -> bool:
        # LiteLLM says "stop" also when the server did not.
        return bool(response.received_finish_reason or response.intermittent_finish_reason)


def _load() -> Any:
    # Else it fetches its list of prices from the network while it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        litellm: Any = import_module("litellm")
    except ImportError as error:
        raise MissingExtraError("litellm", "The LiteLLM provider") from error
    litellm.telemetry = False
    litellm.suppress_debug_info = True  # it prints advice to standard output
    return litellm
