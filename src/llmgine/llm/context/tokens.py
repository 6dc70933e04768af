"""How many tokens a request comes to: the provider's own count where there is one, else an estimate that learns."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Protocol

from llmgine.llm.context.message import IMAGE_TOKENS, image_count, texts
from llmgine.llm.types import LLMMessage, ModelFormattedDictTool

__all__ = ["Measure", "TokenCounter", "TokenEstimate", "measure"]

_MESSAGE_TOKENS = 4
_REPLY_TOKENS = 3
"""What stands around each message, and before the reply. Source: OpenAI Cookbook, "How to count tokens with tiktoken"
(4 or 3, by model, and 3)."""
_CHARACTERS_PER_TOKEN = 4.0
"""What English text comes to with common tokenizers."""
_PLAUSIBLE = (0.5, 8.0)
"""Emoji take several tokens each; beyond the other end the provider has not counted all that it was sent."""
_LEAST_TOKENS = 100
"""A shorter text says little about texts."""
_REMEMBERED = 5


class TokenCounter(Protocol):
    """Counts what a model has to read. A provider's `count_tokens` has this form."""

    def __call__(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()
    ) -> int | Awaitable[int]:
        """Return how many tokens a request with these messages and tools has."""
        ...


@dataclass(frozen=True, slots=True)
class Measure:
    """What can be counted of a request without a tokenizer."""

    characters: int = 0
    messages: int = 0
    images: int = 0

    def __add__(self, other: Measure) -> Measure:
        return Measure(self.characters + other.characters, self.messages + other.messages, self.images + other.images)

    def __sub__(self, other: Measure) -> Measure:
        return Measure(self.characters - other.characters, self.messages - other.messages, self.images - other.images)


def measure(messages: Sequence[LLMMessage], tools: Sequence[ModelFormattedDictTool] = ()) -> Measure:
    """Measure a request. Tools are as long as their JSON."""
    characters = len(json.dumps(list(tools), ensure_ascii=False)) if tools else 0
    images = 0
    for message in messages:
        content = message.get("content")
        characters += sum(map(len, texts(content)))
        images += image_count(content)
        for call in message.get("tool_calls") or ():
            characters += len(call["function"]["name"]) + len(call["function"]["arguments"])
    return Measure(characters, len(messages), images)


class TokenEstimate:
    """Estimates tokens from characters, and learns from what providers report how many of these make a token.

    It begins with 4, and takes the median of the last five requests, so that one odd report changes little. Reports
    are not believed that would make it fewer than 0.5 or more than 8 (some providers leave out what they had cached),
    nor those of short requests or ones with images.
    """

    def __init__(self) -> None:
        self._ratios = deque([_CHARACTERS_PER_TOKEN], maxlen=_REMEMBERED)

    def __call__(self, messages: Sequence[LLMMessage], *, tools: Sequence[ModelFormattedDictTool] = ()) -> int:
        """Estimate a request; see `TokenCounter`."""
        return self.of(measure(messages, tools))

    @property
    def characters_per_token(self) -> float:
        """What is assumed at present."""
        return median(self._ratios)

    def of(self, measured: Measure) -> int:
        """Estimate what was measured."""
        return ceil(measured.characters / self.characters_per_token) + _around(measured)

    def observe(self, measured: Measure, input_tokens: int) -> None:
        """Learn how many tokens a provider has counted in a request.

        Args:
            measured: the request.
            input_tokens: what was read, as reported; 0 if it was not.
        """
        tokens = input_tokens - _around(measured)
        if measured.images or tokens < _LEAST_TOKENS:
            return
        ratio = measured.characters / tokens
        if _PLAUSIBLE[0] <= ratio <= _PLAUSIBLE[1]:
            self._ratios.append(ratio)


def _around(measured: Measure) -> int:
    return _REPLY_TOKENS + _MESSAGE_TOKENS * measured.messages + IMAGE_TOKENS * measured.images
