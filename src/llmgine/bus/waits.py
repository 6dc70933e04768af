"""Who waits for whom: which lanes wait for a handler, and whether its waiting would close a cycle."""

from __future__ import annotations

from llmgine.bus.causality import Chain
from llmgine.bus.lane import Lane, Receipt
from llmgine.errors import DeadlockError
from llmgine.messages import SessionID

__all__ = ["Waits"]


class Waits:
    """The waits of handlers for events that are queued behind others."""

    def __init__(self, lanes: dict[SessionID, Lane]) -> None:
        """Take the lanes that there are at any time."""
        self._lanes = lanes
        self._waits: dict[Receipt, dict[SessionID, int]] = {}
        """Each wait: the lanes that wait for that handler, innermost first, each with its delivery."""
        self.given_up: set[int] = set()
        """The numbers of deliveries under way whose publisher waits no longer."""

    def held_by(self, chain: Chain | None) -> dict[SessionID, int]:
        """The lanes that wait for a chain, innermost first, each with its delivery under way."""
        held: dict[SessionID, int] = {}
        for session, number in reversed(chain[2]) if chain is not None else ():
            lane = self._lanes.get(session)
            if lane is None or not lane.is_under_way(number):
                break  # it has ended, and so nothing around it waits for the chain any more
            held.setdefault(session, number)
            if number in self.given_up:
                break
        return held

    def note(self, receipt: Receipt, target: SessionID, held: dict[SessionID, int]) -> None:
        """Note that a handler waits in a lane, and so do the lanes that wait for it."""
        self._waits[receipt] = held
        for session, number in held.items():
            self._lanes[session].waits[receipt] = number, target

    def forget(self, receipt: Receipt) -> None:
        """Note that a wait is over."""
        for session in self._waits.pop(receipt, ()):
            if (lane := self._lanes.get(session)) is not None:
                lane.waits.pop(receipt, None)

    def give_up(self, number: int) -> None:
        """Note that nobody waits any longer for a delivery under way, and so for what its handlers wait for."""
        self.given_up.add(number)
        for receipt, held in self._waits.items():
            numbers = list(held.values())
            if number in numbers:
                for outer in list(held)[numbers.index(number) + 1 :]:
                    del held[outer]
                    if (lane := self._lanes.get(outer)) is not None:
                        lane.waits.pop(receipt, None)

    def refuse_cycle(self, target: SessionID, held: dict[SessionID, int]) -> None:
        """Refuse a wait in a lane that waits, over however many others, for the handler that would wait.

        Raises:
            DeadlockError: it names the cycle.
        """
        paths: list[tuple[SessionID, ...]] = [(target,)] if held else []
        seen = {target}
        while paths:
            path = paths.pop()
            lane = self._lanes[path[-1]]
            for number, session in lane.waits.values():
                if not lane.is_under_way(number):
                    continue  # of a task that outlives its handler
                if session in held:
                    cycle = (session, *path, session)
                    msg = (
                        f"Waiting here would never end: {' waits for '.join(cycle)}. Publish with "
                        "await_processing=False, or from outside the handler."
                    )
                    raise DeadlockError(msg, cycle=cycle)
                if session not in seen and session in self._lanes:
                    seen.add(session)
                    paths.append((*path, session))
