"""The port to wherever conversations are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmgine.llm.types import LLMMessage

__all__ = ["HistoryStore"]


class HistoryStore(Protocol):
    """Keeps conversations by name. What `append` has returned from survives the end of the process, however it ends."""

    async def load(self, conversation: str) -> list[LLMMessage]:
        """Return a conversation's messages in order; none if there is no such conversation.

        Raises:
            StoreError: it could not be read.
        """
        ...

    async def append(self, conversation: str, messages: Sequence[LLMMessage]) -> None:
        """Add messages to the end of a conversation, all or none. Being cancelled, it finishes first.

        Raises:
            StoreError: they could not be written.
        """
        ...

    async def clear(self, conversation: str) -> None:
        """Forget a conversation.

        Raises:
            StoreError: it could not be written.
        """
        ...
