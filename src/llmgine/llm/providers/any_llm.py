"""Any of about forty providers, by way of any-llm."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from llmgine.errors import ConfigurationError, MissingExtraError
from llmgine.llm.providers.chat_provider import ChatProvider

__all__ = ["AnyLLMProvider"]


class AnyLLMProvider(ChatProvider):
    """A model that any-llm reaches, each with the SDK of its provider.

    Args:
        model: `provider/model`, such as `anthropic/claude-sonnet-4-5`.
        base_url: the provider's server, if not at its usual place.
        api_key: by default what the provider's environment variable says.
        timeout: seconds that the provider may take to begin its reply.
        stall_timeout: seconds from one piece of a reply to the next.
        max_retries: how often the provider's SDK tries again what fails before the reply begins.
        supports_json_schema: whether the provider knows JSON schemas as a `response_format`.

    Raises:
        ConfigurationError: any-llm does not know the provider, or it needs a key.
        MissingExtraError: any-llm is not installed, or not what it needs for this provider.
    """

    name = "any_llm"

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
    ) -> None:
        super().__init__(
            model,
            timeout=timeout,
            stall_timeout=stall_timeout,
            max_retries=max_retries,
            supports_json_schema=supports_json_schema,
        )
        kind, _, self._model = model.partition("/")
        if not self._model:
            msg = f"any_llm:{model} names no model. Expected any_llm:PROVIDER/NAME, such as any_llm:openai/gpt-4o."
            raise ConfigurationError(msg)
        try:
            create: Any = import_module("any_llm").AnyLLM.create
            errors: Any = import_module("any_llm.exceptions")
        except ImportError as error:
            raise MissingExtraError("any-llm", "The any-llm provider") from error
        if base_url and kind == "openai" and not os.environ.get("OPENAI_API_KEY"):
            api_key = api_key or "none"  # servers that are not OpenAI's may do without
        options: dict[str, Any] = {"api_key": api_key, "api_base": base_url, "unified_exceptions": True}
        try:
            try:
                self._llm: Any = create(kind, max_retries=max_retries, **options)
            except errors.UnsupportedParameterError:  # its SDK does not try again at all
                self._llm = create(kind, **options)
        except ImportError as error:
            msg = f"any_llm:{model} needs more than any-llm itself: pip install 'any-llm-sdk[{kind}]'. ({error})"
            raise ConfigurationError(msg) from error
        except errors.AnyLLMError as error:
            msg = f"any_llm:{model} cannot be set up: {error}"
            raise ConfigurationError(msg) from error
        self._where = base_url

    async def aclose(self) -> None:
        """Close the connections."""
        client = getattr(self._llm, "client", None)
        close = getattr(client, "close", None) or getattr(client, "aclose", None)
        if close is not None and (closing := close()) is not None:
            await closing

    async def _open(self, request: dict[str, Any]) -> Any:
        return await self._llm.acompletion(**request | {"model": self._model}, timeout=self._timeout)

    async def _close(self, response: Any) -> None:
        if hasattr(response, "aclose"):
            await response.aclose()

    @property
    def _server(self) -> str:
        return f"{self.model.partition('/')[0]}, by way of any-llm,"
