"""Law 10: where every session waits for the next one, exactly one wait is refused, whoever waits in whatever way."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.errors import DeadlockError
from llmgine.messages import Command, Event, SessionID

TURNS = 500
"""After so many turns of the loop, what has not ended hangs."""
WAYS = ["itself", "command", "awaited child", "gathered child", "child left running"]


@dataclass
class Enter(Event):
    position: int = 0


@dataclass
class Cross(Event):
    pass


@dataclass
class CrossFrom(Command[None]):
    position: int = 0


def rings(size: int) -> st.SearchStrategy[list[tuple[str, int]]]:
    """How each handler of a ring waits for the next session, and after how many turns."""
    return st.lists(st.tuples(st.sampled_from(WAYS), st.integers(0, 3)), min_size=size, max_size=size)


class Ring:
    """Sessions 0, 1, 2 and so on, each with a handler that publishes into the next."""

    def __init__(self, ways: list[tuple[str, int]]) -> None:
        self.ways = ways
        self.bus = MessageBus.isolated()
        self.entered = asyncio.Barrier(len(ways))
        self.broken = asyncio.Event()
        self.refused: list[DeadlockError] = []
        self.crossed: Counter[str] = Counter()
        self.children: list[asyncio.Task[None]] = []
        self.bus.register_event_handler(Enter, self._enter)
        self.bus.register_event_handler(Cross, self._count)
        self.bus.register_command_handler(CrossFrom, self._cross_from)

    async def close(self) -> bool:
        """Return whether everybody has come to an end."""
        await self.bus.start()
        entering = [
            asyncio.create_task(self.bus.publish(Enter(position=n, session_id=SessionID(str(n)))))
            for n in range(len(self.ways))
        ]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        ended = all(task.done() for task in entering) and self.bus.unfinished == 0
        await self.bus.stop(timeout=0)
        await asyncio.wait([*entering, *self.children])
        return ended

    async def _enter(self, event: Enter) -> None:
        way, turns = self.ways[event.position]
        await self.entered.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        match way:
            case "itself":
                await self._cross(event.position)
            case "command":
                await self.bus.execute(CrossFrom(position=event.position))
            case "awaited child":
                await asyncio.create_task(self._cross(event.position))
            case "gathered child":
                await asyncio.gather(asyncio.sleep(0), self._cross(event.position))
            case _:
                self.children.append(asyncio.create_task(self._cross(event.position)))
                await self.broken.wait()

    async def _cross_from(self, command: CrossFrom) -> None:
        await self._cross(command.position)

    async def _cross(self, position: int) -> None:
        try:
            await self.bus.publish(Cross(session_id=SessionID(str((position + 1) % len(self.ways)))))
        except DeadlockError as error:
            self.refused.append(error)
            self.broken.set()

    def _count(self, event: Cross) -> None:
        self.crossed[event.session_id] += 1


@settings(max_examples=60)
@given(st.integers(2, 4).flatmap(rings))
def test_of_a_ring_exactly_one_wait_is_refused_whoever_waits(ways: list[tuple[str, int]]) -> None:
    """A child task counts as part of its handler until the handler ends, also one that nobody awaits."""
    size = len(ways)

    async def main() -> Ring:
        ring = Ring(ways)
        assert await ring.close(), "it hangs"
        assert ring.bus.event_handler_errors == []
        return ring

    ring = asyncio.run(main())
    (error,) = ring.refused
    cycle = [int(session) for session in error.cycle]
    assert len(cycle) == size + 1
    assert all((here + 1) % size == there for here, there in pairwise(cycle))
    assert sorted(ring.crossed.values()) == [1] * (size - 1)
