"""Laws 9, 14: at whatever moment the bus is stopped, each event was delivered, turned away, or is reported."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import EventFilter, MessageBus, StopReport
from llmgine.errors import BusNotRunningError, DeadlockError
from llmgine.messages import Event, SessionID

SESSIONS = [SessionID(name) for name in ("a", "b", "BUS")]


@dataclass
class Loaded(Event):
    load: Load | None = None


@dataclass(frozen=True)
class Load:
    """An event to publish: where, whether to wait, how often its handler suspends, and what it publishes in turn."""

    session: SessionID
    wait: bool
    turns: int
    turned_away: bool
    children: tuple[Load, ...]


def loads(depth: int) -> st.SearchStrategy[Load]:
    return st.builds(
        Load,
        st.sampled_from(SESSIONS),
        st.booleans(),
        st.integers(0, 4),
        st.sampled_from([False, False, False, True]),
        st.lists(loads(depth - 1), max_size=2).map(tuple) if depth else st.just(()),
    )


class TurnedAway(EventFilter):
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return not (isinstance(event, Loaded) and event.load is not None and event.load.turned_away)


class Books:
    """What was accepted, and what became of it."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.accepted: list[str] = []
        self.turned_away = 0
        self.stopping = False
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.outcomes: dict[str, str] = {}
        """What the waiting publisher of an event was told."""
        bus.register_event_handler(Loaded, self._handle)
        bus.register_event_handler(Loaded, self._handle_last, priority=90)
        bus.add_event_filter(TurnedAway())

    async def publish_from_outside(self, load: Load, after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        if self.stopping:
            with pytest.raises(BusNotRunningError):
                await self.bus.publish(Loaded(session_id=load.session, load=load), await_processing=load.wait)
        else:
            await self.publish(load)

    async def publish(self, load: Load) -> None:
        event = Loaded(session_id=load.session, load=load)
        if not load.turned_away:
            self.accepted.append(event.event_id)
        try:
            await self.bus.publish(event, await_processing=load.wait)
        except (DeadlockError, BusNotRunningError) as error:
            if "had finished" in str(error):
                self.outcomes[event.event_id] = "abandoned"
            elif not load.turned_away:
                self.accepted.remove(event.event_id)
        else:
            if load.turned_away:
                self.turned_away += 1
            elif load.wait:
                self.outcomes[event.event_id] = "delivered"

    async def _handle(self, event: Loaded) -> None:
        assert event.load is not None
        self.begun.append(event.event_id)
        for _ in range(event.load.turns):
            await asyncio.sleep(0)
        for child in event.load.children:
            await self.publish(child)

    def _handle_last(self, event: Loaded) -> None:
        self.ended.append(event.event_id)


class Turns(asyncio.SelectorEventLoop):
    """A loop on which a second passes whenever it looks at its clock, which it does about once a turn."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()

    def time(self) -> float:
        self._now += 1
        return self._now


async def starts_again(bus: MessageBus) -> None:
    """What is published after a stop is refused, and after the next start delivered."""
    with pytest.raises(BusNotRunningError):
        await bus.publish(Loaded())
    assert await bus.stop() == StopReport()
    seen: list[Event] = []
    bus.register_event_handler(Event, seen.append)
    await bus.start()
    first, second = Event(session_id=SessionID("a")), Event()
    await bus.publish(first, await_processing=False)
    await bus.publish(second)
    assert await bus.stop() == StopReport(delivered=1)
    assert sorted(event.event_id for event in seen) == [first.event_id, second.event_id]


@settings(max_examples=200)
@given(
    load=st.lists(loads(2), min_size=1, max_size=10),
    stop_after=st.integers(0, 25),
    timeout=st.one_of(st.none(), st.integers(0, 30)),
)
def test_each_event_was_delivered_or_turned_away_or_is_reported(
    load: list[Load], stop_after: int, timeout: int | None
) -> None:
    async def main() -> None:
        bus = MessageBus.isolated()
        books = Books(bus)
        await bus.start()
        publishing = [asyncio.create_task(books.publish_from_outside(each, after)) for after, each in enumerate(load)]
        for _ in range(stop_after):
            await asyncio.sleep(0)
        unfinished, accepted = bus.unfinished, len(books.accepted)
        books.stopping = True
        report = await bus.stop(timeout)
        note("abandoned" if report.abandoned else "delivered" if report.delivered else "nothing")
        for _ in range(100):
            await asyncio.sleep(0)
        assert all(task.done() for task in publishing), "a publisher waits for what was abandoned"
        await asyncio.gather(*publishing)

        assert report.persisted == 0
        assert report.delivered + report.abandoned == unfinished + len(books.accepted) - accepted
        assert report.abandoned == 0 or timeout is not None
        assert bus.unfinished == 0
        assert (await bus.get_stats())["filtered"].get("TurnedAway", 0) == books.turned_away
        assert [*Counter(books.begun).values()] == [1] * len(books.begun)
        assert set(books.ended) <= set(books.begun) <= set(books.accepted)
        cut = set(books.accepted) - set(books.ended)
        # An event whose handlers have ended in the very turn of the deadline is reported too.
        assert len(cut) <= report.abandoned <= len(cut) + len(SESSIONS)
        assert not cut & {event_id for event_id, outcome in books.outcomes.items() if outcome == "delivered"}
        await starts_again(bus)

    with asyncio.Runner(loop_factory=Turns) as runner:
        runner.run(main())
