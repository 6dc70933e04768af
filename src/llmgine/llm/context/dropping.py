"""What is left out of a conversation first, and what never is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from llmgine.llm.context.groups import Group
from llmgine.llm.context.tokens import Measure, measure

__all__ = ["Selection"]


class Selection:
    """Which groups of a conversation a model reads.

    A question is left out together with all that was done for it, so that no reply stands behind somebody else's
    question. Of what was done for the last question, single groups are left out; that question itself and the last
    group never are.

    Args:
        groups: the conversation.
        keep_first: whether the first question, with what was done for it, is left out last.
    """

    def __init__(self, groups: Sequence[Group], *, keep_first: bool) -> None:
        self._groups = groups
        self._measures = [measure(group.conversation) for group in groups]
        self._left_out: set[int] = set()
        self._order = _order(groups, keep_first=keep_first)
        self.measure = sum(self._measures, Measure())
        """Of what is read."""

    @property
    def read(self) -> list[Group]:
        """The groups that are read."""
        return [group for place, group in enumerate(self._groups) if place not in self._left_out]

    @property
    def left_out(self) -> list[Group]:
        """The groups that are not."""
        return [self._groups[place] for place in sorted(self._left_out)]

    def leave_out_before(self, keep_last: int) -> None:
        """Leave out all that may be but the last so many groups. A question that is half left out is so wholly."""
        end = len(self._groups) - keep_last
        while self._order and min(self._order[0]) < end:
            self._leave_out(self._order.popleft())

    def leave_out_all_of(self, ids: AbstractSet[str]) -> None:
        """Leave out what may be and whose messages all have one of these ids."""
        order, self._order = self._order, deque()
        for places in order:
            if all(message.id in ids for place in places for message in self._groups[place].messages):
                self._leave_out(places)
            else:
                self._order.append(places)

    def leave_out_while(self, too_much: Callable[[Measure], bool]) -> bool:
        """Leave out one thing after the other, as long as the rest is too much and there is one that may be.

        Returns:
            Whether anything was left out.
        """
        before = len(self._order)
        while self._order and too_much(self.measure):
            self._leave_out(self._order.popleft())
        return len(self._order) < before

    def _leave_out(self, places: Sequence[int]) -> None:
        self._left_out.update(places)
        for place in places:
            self.measure -= self._measures[place]


def _order(groups: Sequence[Group], *, keep_first: bool) -> deque[Sequence[int]]:
    """Return what may be left out, in order, as places of groups that go together."""
    starts = [place for place, group in enumerate(groups) if place == 0 or group.is_user]
    if not starts:
        return deque()
    turns = [range(start, end) for start, end in zip(starts, [*starts[1:], len(groups)], strict=True)]
    *earlier, last = turns
    begin = last.start + (1 if groups[last.start].is_user else 0)
    order: list[Sequence[int]] = [*earlier, *([place] for place in range(begin, last.stop - 1))]
    if keep_first:
        first = next((turn for turn in earlier if groups[turn.start].is_user), None)
        if first is not None:
            order.remove(first)
            order.append(first)
    return deque(order)
