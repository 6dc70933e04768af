"""A conversation in memory, within bounds, always in a form that every provider accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from llmgine.errors import ConfigurationError, StoreError
from llmgine.llm.context.store import HistoryStore
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import LLMConversation, LLMMessage

__all__ = ["ChatMessage", "Role", "SimpleChatHistory", "SimpleMemory", "StoredChatHistory"]

_CHARS_PER_TOKEN = 4
"""What English text comes to with common tokenizers, where no estimator is given."""
_NO_RESULT = "Error: this tool call has no result; it was interrupted."


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_dict(self) -> LLMMessage:
        """Return the OpenAI-style form."""
        message: LLMMessage = {"role": self.role.value, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message

    @classmethod
    def from_dict(cls, message: LLMMessage) -> ChatMessage:
        """Return the message that `to_dict` described."""
        return cls(
            Role(message["role"]),
            message.get("content"),
            tuple(_tool_call(call) for call in message.get("tool_calls") or ()),
            message.get("tool_call_id"),
        )

    @property
    def size(self) -> int:
        """Characters that a model has to read."""
        return len(self.content or "") + sum(len(call.name) + len(call.arguments) for call in self.tool_calls)


class SimpleChatHistory:
    """The messages of one conversation, oldest first. The system prompt is apart, and never trimmed.

    What goes beyond the bounds is dropped in groups: a message, or an assistant's tool calls together with their
    results. The last user message and the last group stay whatever their size.

    Args:
        engine_id: whose conversation it is, for the caller's own use.
        session_id: the same.
        max_messages: bound of the number of messages.
        max_chars: bound of the characters in contents and tool calls.
        trim_strategy: `"drop_oldest"`, or `"drop_middle"`, which keeps the first user message too.
        token_estimator: counts the tokens of a text.
    """

    def __init__(
        self,
        engine_id: str = "",
        session_id: str = "",
        *,
        max_messages: int = 120,
        max_chars: int = 24_000,
        trim_strategy: Literal["drop_oldest", "drop_middle"] = "drop_oldest",
        token_estimator: Callable[[str], int] | None = None,
    ) -> None:
        if max_messages < 1 or max_chars < 1 or trim_strategy not in {"drop_oldest", "drop_middle"}:
            msg = (
                "max_messages and max_chars must be at least 1, trim_strategy 'drop_oldest' or 'drop_middle'; "
                f"got {max_messages}, {max_chars}, {trim_strategy!r}."
            )
            raise ConfigurationError(msg)
        self.engine_id = engine_id
        self.session_id = session_id
        self.system_prompt: str | None = None
        self._max_messages = max_messages
        self._max_chars = max_chars
        self._keep_first = trim_strategy == "drop_middle"
        self._estimate = token_estimator
        self._messages: list[ChatMessage] = []

    def __len__(self) -> int:
        return len(self._messages)

    def set_system_prompt(self, prompt: str) -> None:
        """Put `prompt` before the conversation."""
        self.system_prompt = prompt

    def add_user_message(self, content: str) -> None:
        """Add what the user said."""
        self._add(ChatMessage(Role.USER, content))

    def add_assistant_message(
        self, content: str | None = None, tool_calls: Sequence[ToolCall | dict[str, Any]] | None = None
    ) -> None:
        """Add what the model said, and which tools it asked for."""
        self._add(ChatMessage(Role.ASSISTANT, content, tuple(_tool_call(call) for call in tool_calls or ())))

    def add_tool_message(self, tool_call_id: str, content: str) -> None:
        """Add the result of a tool call."""
        self._add(ChatMessage(Role.TOOL, content, tool_call_id=tool_call_id))

    def drop_unanswered(self) -> None:
        """Forget the last message if it is a user's, to which nothing was said."""
        if self._messages and self._messages[-1].role is Role.USER:
            self._messages.pop()

    def get_messages(self) -> LLMConversation:
        """Return the conversation as OpenAI-style dicts, the system prompt first.

        Each tool call is followed by its result, or by a message that there is none; results of no call are left out.
        """
        results = {message.tool_call_id: message for message in self._messages if message.role is Role.TOOL}
        conversation: LLMConversation = []
        if self.system_prompt is not None:
            conversation.append(ChatMessage(Role.SYSTEM, self.system_prompt).to_dict())
        for message in self._messages:
            if message.role is Role.TOOL:
                continue
            conversation.append(message.to_dict())
            for call in message.tool_calls:
                result = results.get(call.id) or ChatMessage(Role.TOOL, _NO_RESULT, tool_call_id=call.id)
                conversation.append(result.to_dict())
        return conversation

    def estimated_tokens(self) -> int:
        """Estimate how many tokens a model has to read."""
        if self._estimate is None:
            prompt = len(self.system_prompt or "")
            return (prompt + sum(message.size for message in self._messages)) // _CHARS_PER_TOKEN
        texts = [self.system_prompt or ""]
        for message in self._messages:
            texts.append(message.content or "")
            texts += [call.name + call.arguments for call in message.tool_calls]
        return sum(map(self._estimate, texts))

    def clear(self) -> None:
        """Forget the conversation, but not the system prompt."""
        self._messages.clear()

    def reset(self) -> None:
        """Forget the conversation and the system prompt."""
        self.clear()
        self.system_prompt = None

    async def save(self) -> None:
        """Keep what was added; here, nothing is to be done."""

    async def store_assistant_message(
        self, content: str | None = None, tool_calls: Sequence[ToolCall | dict[str, Any]] | None = None
    ) -> None:
        """Add what the model said, and keep it."""
        self.add_assistant_message(content, tool_calls)
        await self.save()

    async def store_tool_result(self, tool_call_id: str, content: str) -> None:
        """Add the result of a tool call, and keep it."""
        self.add_tool_message(tool_call_id, content)
        await self.save()

    async def retrieve(self) -> LLMConversation:
        """Return what `get_messages` does."""
        return self.get_messages()

    def _add(self, message: ChatMessage) -> None:
        self._messages.append(message)
        self._trim()

    def _trim(self) -> None:
        excess = len(self._messages) - self._max_messages
        excess_chars = sum(message.size for message in self._messages) - self._max_chars
        if excess <= 0 and excess_chars <= 0:
            return
        groups = _groups(self._messages)
        users = [number for number, group in enumerate(groups) if group[0].role is Role.USER]
        keep = {len(groups) - 1, *users[-1:], *(users[:1] if self._keep_first else ())}
        for number, group in enumerate(groups):
            # A conversation that begins with a reply to nothing is refused by some providers.
            orphaned = number > 0 and group[0].role is not Role.USER and not any(groups[:number])
            if number in keep or (excess <= 0 and excess_chars <= 0 and not orphaned):
                continue
            excess -= len(group)
            excess_chars -= sum(message.size for message in group)
            groups[number] = []
        self._messages = [message for group in groups for message in group]


SimpleMemory = SimpleChatHistory


class StoredChatHistory(SimpleChatHistory):
    """A conversation that is kept in a store too, where all of it stays, whatever is trimmed here."""

    def __init__(self, store: HistoryStore, conversation: str, **bounds: Any) -> None:
        super().__init__(**bounds)
        self._store = store
        self._conversation = conversation
        self._unsaved: list[ChatMessage] = []
        self._cleared = False

    async def load(self) -> None:
        """Read what the store has of the conversation, in place of what is here.

        Raises:
            StoreError: it could not be read.
        """
        self._messages = [ChatMessage.from_dict(message) for message in await self._store.load(self._conversation)]
        self._unsaved.clear()
        self._trim()

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
                await self._store.append(self._conversation, [message.to_dict() for message in unsaved])
            except StoreError:
                self._unsaved = unsaved + self._unsaved
                raise

    def clear(self) -> None:
        """Forget the conversation, but not the system prompt; in the store, at the next `save`."""
        super().clear()
        self._unsaved.clear()
        self._cleared = True

    def drop_unanswered(self) -> None:
        """Forget the last message if it is a user's, to which nothing was said, and was not saved."""
        super().drop_unanswered()
        if self._unsaved and self._unsaved[-1].role is Role.USER:
            self._unsaved.pop()

    def _add(self, message: ChatMessage) -> None:
        self._unsaved.append(message)
        super()._add(message)


def _tool_call(call: ToolCall | dict[str, Any]) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function", {})
    return ToolCall(call["id"], call.get("type", "function"), function.get("name", ""), function.get("arguments", "{}"))


def _groups(messages: Sequence[ChatMessage]) -> list[list[ChatMessage]]:
    """Join tool results to the message before them, so that what belongs together is dropped together."""
    groups: list[list[ChatMessage]] = []
    for message in messages:
        if message.role is Role.TOOL and groups:
            groups[-1].append(message)
        else:
            groups.append([message])
    return groups
