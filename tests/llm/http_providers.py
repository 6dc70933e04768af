"""The providers that ask a server, each set up to ask the one of the tests."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from llmgine.llm.providers.chat_provider import ChatProvider
from llmgine.llm.providers.openai import OpenAIProvider

__all__ = ["MARKS", "http_providers", "open_provider"]

# LiteLLM's own types make pydantic warn.
_WARNS = (
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
)
MARKS: dict[str, tuple[pytest.MarkDecorator, ...]] = {"openai": (), "litellm": _WARNS, "any_llm": ()}
for _name in ("litellm", "any_llm"):
    if find_spec(_name) is None:
        MARKS[_name] = (pytest.mark.skip(reason=f"{_name} is not installed"),)

http_providers = pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in MARKS.items()])


def open_provider(name: str, base_url: str, **options: Any) -> ChatProvider:
    """Return a provider that asks a server, and does not try again unless told to."""
    options = {"base_url": base_url, "api_key": "k", "max_retries": 0, **options}
    if name == "litellm":
        from llmgine.llm.providers.litellm import LiteLLMProvider

        return LiteLLMProvider("openai/m", **options)
    if name == "any_llm":
        from llmgine.llm.providers.any_llm import AnyLLMProvider

        return AnyLLMProvider("openai/m", **options)
    return OpenAIProvider("m", **options)
