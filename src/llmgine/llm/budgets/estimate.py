"""What a request to a model will take, before it is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from llmgine.llm.budgets.amounts import Spending
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
        messages: the conversation; counted as JSON, so what a server puts around each message is covered.
        tools: what the model may call, as it is described to it.
        max_output_tokens: as many as the model may write. Unless the request says so too, it is a guess.
        counter: counts the tokens of a text.
        price: of the model, with no input token cached; None if it is not known.
    """
    texts = (json.dumps(each, ensure_ascii=False, default=str) for each in (*messages, *tools))
    return Spending.of_request(Usage(sum(map(counter, texts)), max_output_tokens), price)
