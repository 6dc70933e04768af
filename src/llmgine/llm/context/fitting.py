"""One request being made to fit: what it consists of, and what has been taken out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmgine.llm.context.dropping import Selection
from llmgine.llm.context.groups import Group, conversation, groups_of
from llmgine.llm.context.memory import SimpleChatHistory
from llmgine.llm.context.summary import Summarise, Summary
from llmgine.llm.context.tokens import Measure, TokenEstimate, measure
from llmgine.llm.types import LLMConversation, ModelFormattedDictTool, Usage

__all__ = ["Fitting"]


class Fitting:
    """A conversation on its way into a window. Nothing takes effect on the history before `take_effect`.

    Args:
        history: the conversation.
        tools: what is sent with it.
        room: how many tokens fit.
        keep_first: whether the first question is left out last.
    """

    def __init__(
        self,
        history: SimpleChatHistory,
        tools: Sequence[ModelFormattedDictTool],
        *,
        room: int,
        keep_first: bool,
    ) -> None:
        self._history = history
        self._tools = tools
        self._room = room
        self._groups = groups_of(history.messages)
        self._estimate = TokenEstimate()
        self._uncovered = _uncovered(self._groups, history.summary)
        self._selection = Selection(self._uncovered, keep_first=keep_first)
        self._summarised: list[Group] = []
        self.summary = history.summary
        """What is read in place of the oldest messages."""

    @property
    def messages(self) -> LLMConversation:
        """What is read, as it is now."""
        begin = conversation(self._history.system_prompt, ())
        if self.summary is not None:
            begin += self.summary.conversation
        return begin + conversation(None, self._selection.read)

    def leave_out_as_before(self) -> None:
        """Leave out what was left out last time."""
        self._selection.leave_out_all_of(self._history.left_out)

    def leave_out(self, tokens: int) -> bool:
        """Leave out what has to be, going by how many tokens it all is now. Return whether there was anything."""
        return self._leave_out(self._scale(tokens), self._fixed(self.summary))

    async def summarise(self, strategy: Summarise, tokens: int) -> Usage:
        """Leave out what has to be, going by how many tokens it all is now, and have a summary written in its place.

        Raises:
            Exception: what the strategy raises; then it is left out all the same.
        """
        scale = self._scale(tokens)
        self._selection = Selection(self._uncovered, keep_first=False)
        self._selection.leave_out_before(strategy.keep_last)
        self._leave_out(scale, self._fixed(None) + Measure(strategy.max_chars, 2))
        replaced, read = self._selection.left_out, self._selection.read
        if not replaced:
            return Usage()
        text, usage = await strategy.write(self.summary, conversation(None, replaced), max_tokens=self._room)
        before, gone = self._uncovered[: self._uncovered.index(replaced[-1])], set(replaced)
        self.summary = Summary(
            text,
            last=replaced[-1].messages[-1].id,
            messages=len(_ids(replaced)) + (0 if self.summary is None else self.summary.messages),
            kept=tuple(group.head.id for group in before if group not in gone),
        )
        self._summarised = replaced
        self._selection = Selection(read, keep_first=False)
        return usage

    def take_effect(self) -> list[str]:
        """Tell the history what was done. Return the ids of the messages that are read no longer, oldest first."""
        history = self._history
        new: list[str] = []
        if self.summary is None:
            read = set(self._selection.read)
            left_out = _ids(group for group in self._groups if group not in read)
        else:
            left_out = _ids(self._selection.left_out)
            if self._summarised:
                new = _ids(self._summarised)
                history.keep_summary(self.summary)
        new += [id_ for id_ in left_out if id_ not in history.left_out]
        history.left_out = frozenset(left_out)
        return new

    def _fixed(self, summary: Summary | None) -> Measure:
        """Measure what is not left out group by group."""
        begin = conversation(self._history.system_prompt, ())
        return measure(begin + (summary.conversation if summary is not None else []), self._tools)

    def _scale(self, tokens: int) -> float:
        """Return how far the estimate is from what has been counted."""
        return tokens / self._estimate.of(measure(self.messages, self._tools))

    def _leave_out(self, scale: float, fixed: Measure) -> bool:
        return self._selection.leave_out_while(lambda read: self._estimate.of(fixed + read) * scale > self._room)


def _uncovered(groups: Sequence[Group], summary: Summary | None) -> list[Group]:
    """Return the groups that a summary does not stand for."""
    if summary is None:
        return list(groups)
    end = 0
    for place, group in enumerate(groups, 1):
        if any(message.id == summary.last for message in group.messages):
            end = place
    return [group for place, group in enumerate(groups) if place >= end or group.head.id in summary.kept]


def _ids(groups: Iterable[Group]) -> list[str]:
    return [message.id for group in groups for message in group.messages]
