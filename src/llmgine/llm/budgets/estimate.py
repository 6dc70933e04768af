"""What a request to a model will take, before it is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from llmgine.llm.budgets.amounts import Spending
from llmgine.llm.context.message import IMAGE_TOKENS, image_count
from llmgine.llm.prices import Price
from llmgine.llm.types import LLMMessage, ModelFormattedDictTool, Usage

__all__ = ["estimate_request", "estimate_tokens"]

_BYTES_PER_TOKEN = 4
"""What English text comes to with common tokenizers; of other scripts a character has more bytes, and more tokens."""


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has: its bytes in UTF-8 by four, rounded up."""
    return -(-len(text.encode(errors="surrogatepass")) // _BYTES_PER_TOKEN)


def estimate_request(
    messages: Sequence[LLMMessage],
    tools: Sequence[ModelFormattedDictTool] = (),
    *,
    max_output_tokens: int,
    counter: Callable[[str], int] = estimate_tokens,
    price: Price | None,
) -> Spending:
    """Return the most that a request is expected to take.

    Args:
        messages: the conversation; counted as JSON, so what a server puts around each message is covered. An image
            counts as 1,600 tokens, however long it is as text.
        tools: what the model may call, as it is described to it.
        max_output_tokens: as many as the model may write; a guess, unless the request says so too.
        counter: counts the tokens of a text.
        price: of the model, with no input token cached; None if it is not known.
    """
    readable = map(_without_images, messages)
    texts = (json.dumps(each, ensure_ascii=False, default=str) for each in (*readable, *tools))
    images = sum(image_count(message.get("content")) for message in messages)
    return Spending.of_request(Usage(sum(map(counter, texts)) + IMAGE_TOKENS * images, max_output_tokens), price)


def _without_images(message: LLMMessage) -> LLMMessage:
    content = message.get("content")
    if not image_count(content):
        return message
    return {**message, "content": [part for part in content or () if isinstance(part.get("text"), str)]}
