"""What belongs together in a conversation: a message, or an assistant's tool calls with the results of them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from llmgine.llm.context.message import ChatMessage, Role
from llmgine.llm.types import LLMConversation, LLMMessage

__all__ = ["Group", "conversation", "groups_of"]

_NO_RESULT = "Error: this tool call has no result; it was interrupted."


@dataclass(slots=True, eq=False)
class Group:
    """A message with the tool results that came right after it."""

    messages: list[ChatMessage]
    conversation: LLMConversation
    """What a model reads of it: each call and its result, or that there is none, and no result of no call."""

    @property
    def head(self) -> ChatMessage:
        """The message that the others belong to."""
        return self.messages[0]

    @property
    def is_user(self) -> bool:
        """Whether a user speaks."""
        return self.head.role is Role.USER


def conversation(system_prompt: str | None, groups: Iterable[Group]) -> LLMConversation:
    """Return what a model reads: OpenAI-style dicts, the system prompt first."""
    begin = [] if system_prompt is None else [ChatMessage(Role.SYSTEM, system_prompt).to_dict()]
    return begin + [message for group in groups for message in group.conversation]


def groups_of(messages: Iterable[ChatMessage]) -> list[Group]:
    """Join messages to groups, in order."""
    groups: list[Group] = []
    for message in messages:
        if message.role is Role.TOOL and groups:
            groups[-1].messages.append(message)
        else:
            groups.append(Group([message], []))
    for group in groups:
        if group.head.role is not Role.TOOL:
            group.conversation.append(_as_read(group.head))
    calls = Counter(call.id for group in groups for call in group.head.tool_calls)
    if calls:
        anywhere = {id_: result for id_, result in _results(groups).items() if calls[id_] == 1}
        for turn in _turns(groups):
            _add_results(turn, anywhere)
    return groups


def _as_read(head: ChatMessage) -> LLMMessage:
    message = head.to_dict()
    if head.content is None and not head.tool_calls:
        message["content"] = ""  # a message that says nothing and asks for nothing is refused
    return message


def _add_results(turn: list[Group], anywhere: dict[str, ChatMessage]) -> None:
    """Put behind each call its result. Some servers give the same ids again and again: the nearest result is meant."""
    in_turn = _results(turn)
    for group in turn:
        if group.head.tool_calls and group.conversation:  # and the model reads of them
            found = (_results([group]), in_turn, anywhere)
            for call in group.head.tool_calls:
                result = next((results[call.id] for results in found if call.id in results), None)
                result = result or ChatMessage(Role.TOOL, _NO_RESULT, tool_call_id=call.id)
                group.conversation.append(result.to_dict())


def _results(groups: Iterable[Group]) -> dict[str, ChatMessage]:
    results = [message for group in groups for message in group.messages if message.role is Role.TOOL]
    return {result.tool_call_id or "": result for result in results}


def _turns(groups: Iterable[Group]) -> list[list[Group]]:
    """Part groups where a user speaks."""
    turns: list[list[Group]] = []
    for group in groups:
        if group.is_user or not turns:
            turns.append([])
        turns[-1].append(group)
    return turns
