"""The port to wherever conversations are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from llmgine.llm.types import LLMMessage

__all__ = ["ForkingStore", "HistoryStore", "SummaryStore"]


class HistoryStore(Protocol):
    """Keeps conversations by name. What `append` has returned from survives the end of the process, however it ends.

    Messages have an `"id"`, except those of older versions.
    """

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


@runtime_checkable
class SummaryStore(Protocol):
    """What a store that can keep summaries beside the messages has, too. With others they go with the process."""

    async def load_summaries(self, conversation: str) -> list[dict[str, Any]]:
        """Return the summaries of a conversation and of those that it was forked from, newest first.

        Raises:
            StoreError: they could not be read.
        """
        ...

    async def append_summary(self, conversation: str, summary: dict[str, Any]) -> None:
        """Add a summary.

        Raises:
            StoreError: it could not be written.
        """
        ...


@runtime_checkable
class ForkingStore(Protocol):
    """What a store that can fork without copying has, too. With others a fork is a copy."""

    async def fork(self, source: str, target: str, *, at: str | int | None = None) -> None:
        """Begin a conversation that has been the same as another one up to a message.

        Args:
            source: the other one.
            target: the new one's name.
            at: the last message that they share: its id, or its place, from 0; by default the last one. The tool
                results that follow it are shared too. A message without an id goes by its place: `"#0"`, `"#1"`.

        Raises:
            ResourceNotFoundError: there is no such message.
            ResourceConflictError: there is a conversation of that name.
            StoreError: it could not be written.
        """
        ...
