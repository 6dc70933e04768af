"""Law 22: whatever is published, in whatever order, is delivered, dropped or refused, and counted as what it was."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.backpressure import BackpressureStrategy, BoundedEventQueue, EventDroppedEvent
from llmgine.errors import BusNotRunningError, DeadlockError, QueueFullError
from llmgine.messages import Event, SessionID

RunToEnd = Callable[[Coroutine[Any, Any, None]], None]
SESSIONS = [SessionID(name) for name in ("a", "b", "BUS")]
DROP, REJECT, ADAPT = BackpressureStrategy


@dataclass
class Loaded(Event):
    load: Load | None = None


@dataclass(frozen=True)
class Load:
    """An event to publish: where, whether to wait, how often its handler suspends, and what it publishes in turn."""

    session: SessionID
    wait: bool
    turns: int
    together: bool = False
    """Whether the handler publishes its events at the same time, rather than one after another."""
    children: tuple[Load, ...] = ()


def loads(depth: int) -> st.SearchStrategy[Load]:
    children = st.lists(loads(depth - 1), max_size=3).map(tuple) if depth else st.just(())
    return st.builds(Load, st.sampled_from(SESSIONS), st.booleans(), st.integers(0, 3), st.booleans(), children)


bounds = st.builds(
    BoundedEventQueue[Event], st.integers(1, 5), st.just(0.8), st.just(0.5), st.sampled_from(BackpressureStrategy)
)


def quicken() -> None:
    """Let a millisecond pass whenever the loop looks at its clock, which it does about once a turn."""
    ticks = count()
    asyncio.get_running_loop().time = lambda: next(ticks) / 1000  # type: ignore[method-assign]


class Books:
    """What was published, and what became of it."""

    def __init__(self, queue: BoundedEventQueue[Event]) -> None:
        self.queue = queue
        self.bus = MessageBus.isolated(event_queue=queue)
        self.published: list[str] = []
        self.begun: list[str] = []
        self.order: dict[str, list[str]] = {session: [] for session in SESSIONS}
        self.lost: dict[str, list[str]] = {"oldest": [], "rejected": [], "stopped": []}
        self.outcomes: dict[str, type[BaseException] | None] = {}
        """What the publisher of each was told."""
        self.bus.register_event_handler(Loaded, self._handle)
        self.bus.add_observer(self._observe)

    async def publish(self, load: Load) -> None:
        event = Loaded(session_id=load.session, load=load)
        self.published.append(event.event_id)
        try:
            await self.bus.publish(event, await_processing=load.wait)
        except (QueueFullError, DeadlockError, BusNotRunningError) as error:
            self.outcomes[event.event_id] = type(error)
        except asyncio.CancelledError as error:
            self.outcomes[event.event_id] = type(error)
            raise
        else:
            self.outcomes[event.event_id] = None
        self.check()

    def check(self) -> None:
        """The law, at any moment."""
        figures = self.queue.metrics
        waiting = self.bus.metrics.gauges["queue_size"].value
        assert figures.current_size == waiting == self.queue.qsize()
        assert figures.total_enqueued == figures.total_dequeued + figures.total_dropped + waiting
        assert figures.total_rejected == len(self.lost["rejected"])
        assert figures.total_dropped == len(self.lost["oldest"]) + len(self.lost["stopped"])
        assert figures.total_dequeued == len(self.begun)
        if self.queue.strategy is not ADAPT:
            assert figures.max_size_reached <= self.queue.maxsize

    def settle(self) -> None:
        """The law, when nothing waits any more."""
        self.check()
        assert self.queue.qsize() == 0
        assert not self.queue.is_backpressure_active
        assert max(Counter(self.begun).values(), default=1) == 1
        lost = Counter(event_id for ids in self.lost.values() for event_id in ids)
        assert max(lost.values(), default=1) == 1
        for event_id in self.published:
            told = self.outcomes[event_id]
            if event_id in self.begun:
                assert event_id not in lost
                assert told in {None, asyncio.CancelledError, BusNotRunningError}
            elif event_id in self.lost["rejected"]:
                assert told is QueueFullError
            elif event_id in lost:
                assert told in {None, asyncio.CancelledError, QueueFullError, BusNotRunningError}
            else:
                assert told in {asyncio.CancelledError, DeadlockError, BusNotRunningError}, "an event was lost"
        counted = self.bus.metrics.snapshot()["counters"]["events_dropped_total"]
        by_reason = {each["labels"]["reason"]: each["value"] for each in counted.get("labels", ())}
        assert by_reason == {reason: len(ids) for reason, ids in self.lost.items() if ids}
        if self.queue.strategy is ADAPT:
            assert not self.lost["oldest"]
            assert not self.lost["rejected"]

    async def _handle(self, event: Loaded) -> None:
        assert event.load is not None
        self.begun.append(event.event_id)
        self.order[event.session_id].append(event.event_id)
        self.check()
        for _ in range(event.load.turns):
            await asyncio.sleep(0)
        if event.load.together:
            await asyncio.gather(*map(self.publish, event.load.children))
        else:
            for child in event.load.children:
                await self.publish(child)

    def _observe(self, event: Event) -> None:
        if isinstance(event, EventDroppedEvent):
            assert event.event is not None
            assert event.correlation_id == event.event.correlation_id
            self.lost[event.reason].append(event.event.event_id)


@settings(max_examples=300)
@given(queue=bounds, load=st.lists(st.tuples(st.integers(0, 2), loads(0)), max_size=30))
def test_each_session_delivers_what_is_not_lost_in_the_order_of_publishing(
    run_to_end: RunToEnd, queue: BoundedEventQueue[Event], load: list[tuple[int, Load]]
) -> None:
    async def main() -> None:
        quicken()
        books = Books(queue)
        await books.bus.start()
        publishing: list[asyncio.Task[None]] = []
        for pause, each in load:
            publishing.append(asyncio.create_task(books.publish(each)))
            for _ in range(pause):
                await asyncio.sleep(0)
        await asyncio.gather(*publishing)
        await books.bus.wait_for_events()
        books.settle()
        note(f"{queue.strategy.value}: {'under' if queue.metrics.high_water_mark_hits else 'no'} pressure")
        for session in SESSIONS:
            mine = [n for n, (_, each) in zip(books.published, load, strict=True) if each.session == session]
            assert books.order[session] == [event_id for event_id in mine if event_id in books.begun]
        await books.bus.stop()

    run_to_end(main())


@settings(max_examples=300)
@given(
    queue=bounds,
    load=st.lists(st.tuples(loads(2), st.one_of(st.none(), st.integers(0, 10))), max_size=12),
    start_after=st.integers(0, 4),
    stop=st.one_of(st.none(), st.tuples(st.integers(0, 30), st.sampled_from([None, 0, 0.02]))),
)
def test_nothing_hangs_or_is_lost_unseen_whoever_publishes_gives_up_or_stops_the_bus(
    run_to_end: RunToEnd,
    queue: BoundedEventQueue[Event],
    load: list[tuple[Load, int | None]],
    start_after: int,
    stop: tuple[int, float | None] | None,
) -> None:
    """Publishers, some cancelled after some turns, some before `start`; handlers publish; then a stop, or none."""

    async def main() -> None:
        quicken()
        books = Books(queue)

        async def publish(each: Load, patience: int | None) -> None:
            task = asyncio.create_task(books.publish(each))
            if patience is not None:
                for _ in range(patience):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()

        tasks: list[asyncio.Task[None]] = []
        for number, (each, patience) in enumerate(load):
            if number == start_after:
                await books.bus.start()
            tasks.append(asyncio.create_task(publish(each, patience)))
            await asyncio.sleep(0)
            books.check()
        await books.bus.start()
        if stop is not None:
            for _ in range(stop[0]):
                await asyncio.sleep(0)
                books.check()
            await books.bus.stop(stop[1])
        for task in tasks:
            await task
        await books.bus.wait_for_events()
        assert books.bus.event_handler_errors == []
        for event_id in books.published:
            books.outcomes.setdefault(event_id, asyncio.CancelledError)  # a task that was cancelled before it began
        books.settle()
        await books.bus.start()
        await books.bus.publish(Loaded(load=Load(SESSIONS[2], wait=True, turns=1)))
        await books.bus.stop()
        assert len(books.begun) == queue.metrics.total_dequeued

    run_to_end(main())


@pytest.mark.parametrize("strategy", BackpressureStrategy)
async def test_a_flood_takes_no_more_memory_than_the_queue_and_every_event_is_accounted_for(
    strategy: BackpressureStrategy,
) -> None:
    flood, room = 200_000, 1000
    queue: BoundedEventQueue[Event] = BoundedEventQueue(room, strategy=strategy)
    bus = MessageBus.isolated(event_queue=queue)
    handled = refused = 0

    async def handle(_: Event) -> None:
        nonlocal handled
        handled += 1
        if handled % 50 == 0:
            await asyncio.sleep(0)

    bus.register_event_handler(Event, handle)
    await bus.start()
    sessions = [SessionID(str(number)) for number in range(20)]
    gc.collect()
    before, peak = sys.getallocatedblocks(), 0
    for number in range(flood):
        try:
            await bus.publish(Event(session_id=sessions[number % 20]), await_processing=False)
        except QueueFullError:
            refused += 1
        if number % 500 == 0:
            peak = max(peak, sys.getallocatedblocks() - before)
        if number % 5000 == 0:
            await asyncio.sleep(0)
    await bus.wait_for_events()

    assert peak < 20 * room
    figures = queue.metrics
    assert figures.total_enqueued + figures.total_rejected == flood
    assert figures.total_enqueued == handled + figures.total_dropped
    assert refused == figures.total_rejected
    assert figures.max_size_reached <= room
    if strategy is BackpressureStrategy.ADAPTIVE_RATE_LIMIT:
        assert handled == flood
    else:
        assert figures.total_dropped + figures.total_rejected > flood / 2
    await bus.stop()
