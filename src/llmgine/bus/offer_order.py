"""Which lane holds the oldest of all events that wait, found without looking at every lane."""

from __future__ import annotations

from collections import deque

from llmgine.bus.lane import Lane

__all__ = ["OfferOrder"]

_SLACK = 64


class OfferOrder:
    """The lanes of all events that wait, in the order in which those were offered.

    An event that its lane has taken out in its turn leaves its entry behind, which is skipped later: within a lane the
    first entries are those of the events taken first. There are never more such entries than others, save for a few.
    """

    def __init__(self) -> None:
        self._lanes: deque[Lane] = deque()
        self._taken: dict[Lane, int] = {}
        """How many entries of each lane are left behind."""
        self._left_behind = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def offered(self, lane: Lane) -> None:
        """Note an event that was queued in a lane."""
        self._lanes.append(lane)

    def taken(self, lane: Lane) -> None:
        """Note that a lane has taken out the first of its events."""
        if self._lanes[0] is lane:
            self._lanes.popleft()
            return
        self._taken[lane] = self._taken.get(lane, 0) + 1
        self._left_behind += 1
        if 2 * self._left_behind > len(self._lanes) + _SLACK:
            self._lanes = deque(each for each in self._lanes if not self._skips(each))

    def take_oldest(self) -> Lane:
        """Return the lane whose first event is the oldest of all, which whoever asks takes out. There must be one."""
        while self._skips(lane := self._lanes.popleft()):
            pass
        return lane

    def clear(self) -> None:
        """Note that nothing waits any more."""
        self._lanes.clear()
        self._taken.clear()
        self._left_behind = 0

    def _skips(self, lane: Lane) -> bool:
        """Use up one entry that a lane has left behind; return False if it has none."""
        left = self._taken.pop(lane, 0)
        if not left:
            return False
        if left > 1:
            self._taken[lane] = left - 1
        self._left_behind -= 1
        return True
