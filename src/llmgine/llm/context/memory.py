"""A conversation in memory, within bounds, always in a form that every provider accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from llmgine.errors import ConfigurationError, ResourceNotFoundError
from llmgine.llm.context.groups import conversation, groups_of
from llmgine.llm.context.message import IMAGE_TOKENS, ChatMessage, Content, Role, as_tool_call, image_count, texts
from llmgine.llm.context.summary import Summary
from llmgine.llm.context.trimming import TrimmedMessages
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.llm.types import LLMConversation

__all__ = ["ChatMessage", "Role", "SimpleChatHistory", "SimpleMemory"]

_CHARS_PER_TOKEN = 4
"""What English text comes to with common tokenizers, where no estimator is given."""


class SimpleChatHistory:
    """The messages of one conversation, oldest first. The system prompt is apart, and never trimmed.

    What goes beyond the bounds is dropped in groups: a message, or an assistant's tool calls together with their
    results. The last user message and the last group stay whatever their size.

    Args:
        engine_id: whose conversation it is, for the caller's own use.
        session_id: the same.
        max_messages: bound of the number of messages.
        max_chars: bound of the characters in contents and tool calls; an image counts as 6,400.
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
        self.summary: Summary | None = None
        """What a `ContextWindow` has the model read in place of the oldest messages."""
        self.left_out: frozenset[str] = frozenset()
        """The ids of the messages that a `ContextWindow` left out last time."""
        self._bounds: dict[str, Any] = {
            "max_messages": max_messages,
            "max_chars": max_chars,
            "trim_strategy": trim_strategy,
            "token_estimator": token_estimator,
        }
        self._estimate = token_estimator
        self._messages = TrimmedMessages(max_messages, max_chars, keep_first=trim_strategy == "drop_middle")

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """What was said, with the ids by which it can be forked."""
        return tuple(self._messages)

    def set_system_prompt(self, prompt: str) -> None:
        """Put `prompt` before the conversation."""
        self.system_prompt = prompt

    def add_user_message(self, content: Content) -> None:
        """Add what the user said."""
        self._add(ChatMessage(Role.USER, content))

    def add_assistant_message(
        self, content: Content | None = None, tool_calls: Sequence[ToolCall | dict[str, Any]] | None = None
    ) -> None:
        """Add what the model said, and which tools it asked for."""
        self._add(ChatMessage(Role.ASSISTANT, content, tuple(as_tool_call(call) for call in tool_calls or ())))

    def add_tool_message(self, tool_call_id: str, content: Content) -> None:
        """Add the result of a tool call."""
        self._add(ChatMessage(Role.TOOL, content, tool_call_id=tool_call_id))

    def add_message(self, message: ChatMessage) -> None:
        """Add a message as it is, with its id."""
        self._add(message)

    def drop_unanswered(self) -> None:
        """Forget the last message if it is a user's, to which nothing was said."""
        self._messages.pop_user()

    def get_messages(self) -> LLMConversation:
        """Return the conversation as OpenAI-style dicts, the system prompt first.

        Each tool call is followed by its result, or by a message that there is none; results of no call are left out.
        """
        return conversation(self.system_prompt, groups_of(self._messages))

    def fork(self, at: str | int | None = None) -> SimpleChatHistory:
        """Return a conversation, in memory, that has been the same as this one up to a message.

        Args:
            at: the last message that they share: its id, or its place, from 0; by default the last one. If it is a
                tool call or a result, its whole group is shared.

        Raises:
            ResourceNotFoundError: there is no such message.
        """
        messages = self.messages
        end = fork_end([message.id for message in messages], [message.role for message in messages], at)
        fork = SimpleChatHistory(self.engine_id, self.session_id, **self._bounds)
        fork.system_prompt = self.system_prompt
        for message in messages[:end]:
            fork._messages.add(message)
        if self.summary is not None and self.summary.last not in {message.id for message in messages[end:]}:
            fork.summary = self.summary
        return fork

    def estimated_tokens(self) -> int:
        """Estimate how many tokens a model has to read."""
        if self._estimate is None:
            return (len(self.system_prompt or "") + self._messages.size) // _CHARS_PER_TOKEN
        words = [self.system_prompt or ""]
        images = 0
        for message in self._messages:
            words += texts(message.content)
            words += [call.name + call.arguments for call in message.tool_calls]
            images += image_count(message.content)
        return sum(map(self._estimate, words)) + IMAGE_TOKENS * images

    def keep_summary(self, summary: Summary) -> None:
        """Take a summary in place of the one before."""
        self.summary = summary

    def clear(self) -> None:
        """Forget the conversation, but not the system prompt."""
        self._messages.clear()
        self.summary = None
        self.left_out = frozenset()

    def reset(self) -> None:
        """Forget the conversation and the system prompt."""
        self.clear()
        self.system_prompt = None

    async def save(self) -> None:
        """Keep what was added; here, nothing is to be done."""

    async def store_assistant_message(
        self, content: Content | None = None, tool_calls: Sequence[ToolCall | dict[str, Any]] | None = None
    ) -> None:
        """Add what the model said, and keep it."""
        self.add_assistant_message(content, tool_calls)
        await self.save()

    async def store_tool_result(self, tool_call_id: str, content: Content) -> None:
        """Add the result of a tool call, and keep it."""
        self.add_tool_message(tool_call_id, content)
        await self.save()

    async def retrieve(self) -> LLMConversation:
        """Return what `get_messages` does."""
        return self.get_messages()

    def _add(self, message: ChatMessage) -> None:
        self._messages.add(message)


SimpleMemory = SimpleChatHistory


def fork_end(ids: Sequence[str], roles: Sequence[str], at: str | int | None) -> int:
    """Return how many messages a conversation shares with its fork; see `SimpleChatHistory.fork`.

    Raises:
        ResourceNotFoundError: there is no such message.
    """
    if at is None:
        return len(ids)
    place = ids.index(at) if at in ids else at
    if not isinstance(place, int) or not 0 <= place < len(ids):
        msg = f"The conversation has no message {at!r} to be forked at. It has {len(ids)} messages, counted from 0."
        raise ResourceNotFoundError(msg, resource_id=str(at))
    end = place + 1
    while end < len(ids) and roles[end] == Role.TOOL:
        end += 1
    return end
