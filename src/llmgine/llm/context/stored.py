"""A conversation that outlives the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmgine.errors import ResourceConflictError, StoreError
from llmgine.llm.context.memory import SimpleChatHistory, fork_end
from llmgine.llm.context.message import ChatMessage, Role
from llmgine.llm.context.store import ForkingStore, HistoryStore, SummaryStore
from llmgine.llm.context.summary import Summary
from llmgine.llm.types import LLMMessage

__all__ = ["StoredChatHistory"]


class StoredChatHistory(SimpleChatHistory):
    """A conversation that is kept in a store too, where all of it stays, whatever is trimmed or summarised here."""

    def __init__(self, store: HistoryStore, conversation: str, **bounds: Any) -> None:
        super().__init__(**bounds)
        self._store = store
        self._conversation = conversation
        self._unsaved: list[ChatMessage] = []
        self._unsaved_summary: Summary | None = None
        self._cleared = False

    async def load(self) -> None:
        """Read what the store has of the conversation, in place of what is here.

        Raises:
            StoreError: it could not be read.
        """
        stored = await self._store.load(self._conversation)
        summaries: list[dict[str, Any]] = []
        if isinstance(self._store, SummaryStore):
            summaries = await self._store.load_summaries(self._conversation)
        try:
            # What was written twice, because nobody knew whether it had been, has one id.
            messages = {
                id_: ChatMessage.from_dict(each | {"id": id_}) for id_, each in zip(_ids(stored), stored, strict=True)
            }
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            msg = f"The conversation {self._conversation!r} holds what is no message: {error!r}."
            raise StoreError(msg) from error
        super().clear()
        self._unsaved.clear()
        self._unsaved_summary = None
        self._cleared = False
        for message in messages.values():
            self._messages.add(message)
        # Of a conversation that this one was forked from, a summary may go further than what they share.
        self.summary = next((Summary.from_dict(each) for each in summaries if each.get("last") in messages), None)

    async def save(self) -> None:
        """Write what was added since the last time, all or none.

        Raises:
            StoreError: it could not be written; it stays unsaved, for the next time.
        """
        if self._cleared:
            await self._store.clear(self._conversation)
            self._cleared = False
        unsaved, self._unsaved = self._unsaved, []
        if unsaved:
            try:
                await self._store.append(self._conversation, [message.to_stored() for message in unsaved])
            except StoreError:
                self._unsaved = unsaved + self._unsaved
                raise
        summary = self._unsaved_summary
        if summary is not None and isinstance(self._store, SummaryStore):
            await self._store.append_summary(self._conversation, summary.to_dict())
            if self._unsaved_summary is summary:
                self._unsaved_summary = None

    async def fork_to(self, conversation: str, at: str | int | None = None) -> StoredChatHistory:
        """Save, and begin a conversation in the same store that has been the same as this one up to a message.

        Args:
            conversation: the new one's name.
            at: the last message that they share, as for `fork`; places are those in the store, which has them all.

        Raises:
            ResourceNotFoundError: there is no such message.
            ResourceConflictError: there is a conversation of that name.
            StoreError: it could not be written.
        """
        await self.save()
        if isinstance(self._store, ForkingStore):
            await self._store.fork(self._conversation, conversation, at=at)
        else:
            await self._copy(conversation, at)
        fork = StoredChatHistory(self._store, conversation, **self._bounds)
        fork.engine_id, fork.session_id, fork.system_prompt = self.engine_id, self.session_id, self.system_prompt
        await fork.load()
        return fork

    def keep_summary(self, summary: Summary) -> None:
        """Take a summary in place of the one before; in the store, beside the messages, with the next `save`."""
        super().keep_summary(summary)
        self._unsaved_summary = summary

    def clear(self) -> None:
        """Forget the conversation, but not the system prompt; in the store, at the next `save`."""
        super().clear()
        self._unsaved.clear()
        self._unsaved_summary = None
        self._cleared = True

    def drop_unanswered(self) -> None:
        """Forget the last message if it is a user's, to which nothing was said, and was not saved."""
        super().drop_unanswered()
        if self._unsaved and self._unsaved[-1].role is Role.USER:
            self._unsaved.pop()

    def _add(self, message: ChatMessage) -> None:
        self._unsaved.append(message)
        super()._add(message)

    async def _copy(self, target: str, at: str | int | None) -> None:
        if await self._store.load(target):
            msg = f"There is a conversation {target!r} already. Choose another name, or clear it first."
            raise ResourceConflictError(msg, resource_id=target)
        stored = await self._store.load(self._conversation)
        end = fork_end(_ids(stored), [message.get("role", "") for message in stored], at)
        if end:
            await self._store.append(target, stored[:end])


def _ids(stored: Sequence[LLMMessage]) -> list[str]:
    return [message.get("id") or f"#{place}" for place, message in enumerate(stored)]
