"""Bounded queues, and a bus in which only so many events may wait."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.backpressure import BackpressureStrategy, BoundedEventQueue, EventDroppedEvent
from llmgine.bus.lane import Lane
from llmgine.bus.offer_order import OfferOrder
from llmgine.bus.room import LONGEST_DELAY
from llmgine.errors import BusNotRunningError, ConfigurationError, QueueFullError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import EventHandlerFailedEvent

DROP, REJECT, ADAPT = BackpressureStrategy
A, B = SessionID("a"), SessionID("b")


@dataclass
class Numbered(Event):
    n: int = 0


class Held:
    """A bus whose handler of `Numbered` waits until it is let go."""

    def __init__(self, maxsize: int, strategy: BackpressureStrategy, **marks: Any) -> None:
        self.queue: BoundedEventQueue[Event] = BoundedEventQueue(maxsize, strategy=strategy, **marks)
        self.bus = MessageBus.isolated(event_queue=self.queue)
        self.let_go = asyncio.Event()
        self.seen: list[int] = []
        self.lost: list[tuple[Event | None, str]] = []
        self.bus.register_event_handler(Numbered, self._handle)
        self.bus.add_observer(self._observe)

    async def _handle(self, event: Numbered) -> None:
        self.seen.append(event.n)
        await self.let_go.wait()

    def _observe(self, event: Event) -> None:
        if isinstance(event, EventDroppedEvent):
            self.lost.append((event.event, event.reason))

    async def publish(self, *numbers: int, session: SessionID = A) -> None:
        for n in numbers:
            await self.bus.publish(Numbered(n=n, session_id=session), await_processing=False)

    async def fill(self, *numbers: int) -> None:
        """Have one event handled, number 0, and others wait behind it."""
        await self.bus.start()
        await self.publish(0)
        await turns()
        assert self.seen == [0]
        await self.publish(*numbers)

    async def finish(self) -> list[int]:
        self.let_go.set()
        await self.bus.wait_for_events()
        await self.bus.stop()
        assert self.queue.qsize() == 0
        return self.seen


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# The queue by itself


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"maxsize": 0}, "maxsize"),
        ({"maxsize": 1.5}, "maxsize"),
        ({"high_water_mark": 0.5, "low_water_mark": 0.5}, "0 < low_water_mark < high_water_mark <= 1"),
        ({"high_water_mark": 1.1}, "0 < low_water_mark < high_water_mark <= 1"),
        ({"low_water_mark": 0}, "0 < low_water_mark < high_water_mark <= 1"),
        ({"low_water_mark": -0.1}, "low_water_mark"),
        ({"high_water_mark": "all"}, "high_water_mark"),
        ({"strategy": "drop_oldest"}, "BackpressureStrategy"),
        ({"on_high_water": 3}, "on_high_water"),
        ({"on_low_water": 3}, "on_low_water"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BoundedEventQueue[Event](**arguments)


@pytest.mark.parametrize(
    ("strategy", "accepted", "left"), [(DROP, True, [2, 3]), (REJECT, False, [1, 2]), (ADAPT, False, [1, 2])]
)
async def test_a_full_queue_makes_nobody_wait(
    strategy: BackpressureStrategy, *, accepted: bool, left: list[int]
) -> None:
    queue = BoundedEventQueue[int](2, strategy=strategy)
    assert queue.empty()
    assert [await queue.put(1), await queue.put(2)] == [True, True]
    assert queue.full()
    assert await queue.put(3) is accepted
    assert [queue.get_nowait(), await queue.get()] == left
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    metrics = queue.metrics
    assert (metrics.total_enqueued, metrics.total_dequeued) == (2 + accepted, 2)
    assert (metrics.total_dropped, metrics.total_rejected) == (int(accepted), int(not accepted))
    assert (metrics.current_size, metrics.max_size_reached) == (0, 2)


async def test_getting_waits_for_an_item_and_joining_until_each_is_dealt_with_or_dropped() -> None:
    queue = BoundedEventQueue[str](1)
    getting = asyncio.create_task(queue.get())
    await turns()
    await queue.put("first")
    assert await getting == "first"
    await queue.put("gives way")
    await queue.put("second")
    joining = asyncio.create_task(queue.join())
    queue.task_done()
    await turns()
    assert not joining.done()
    assert await queue.get() == "second"
    queue.task_done()
    await joining
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


async def test_backpressure_begins_at_the_high_mark_and_ends_at_the_low_one(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def low() -> None:
        told.append("low")
        raise RuntimeError

    queue = BoundedEventQueue[int](10, on_high_water=lambda: told.append("high"), on_low_water=low)
    before = datetime.now(UTC)
    active: list[bool] = []
    assert not queue.metrics.last_high_water_mark
    for _ in range(9):
        await queue.put(1)
        active.append(queue.is_backpressure_active)
    assert active == [False] * 7 + [True] * 2
    active = []
    for _ in range(9):
        await queue.get()
        active.append(queue.is_backpressure_active)
    assert active == [True] * 3 + [False] * 6
    assert told == ["high", "low"]
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert queue.metrics.high_water_mark_hits == 1
    assert queue.metrics.last_high_water_mark is not None
    assert before <= queue.metrics.last_high_water_mark <= datetime.now(UTC)


@given(st.integers(1, 6), st.sampled_from(BackpressureStrategy), st.lists(st.booleans(), max_size=60))
def test_a_queue_hands_out_what_it_holds_in_order_and_counts_all_of_it(
    maxsize: int, strategy: BackpressureStrategy, steps: list[bool]
) -> None:
    async def main() -> None:
        queue = BoundedEventQueue[int](maxsize, strategy=strategy)
        model: list[int] = []
        active = False
        for number, put in enumerate(steps):
            if put:
                full = len(model) == maxsize
                assert await queue.put(number) is (not full or strategy is DROP)
                if full and strategy is DROP:
                    del model[0]
                if not full or strategy is DROP:
                    model.append(number)
                    active = active or len(model) >= int(maxsize * 0.8)
            elif model:
                assert queue.get_nowait() == model.pop(0)
                active = active and len(model) > int(maxsize * 0.5)
            metrics = queue.metrics
            assert metrics.total_enqueued == metrics.total_dequeued + metrics.total_dropped + metrics.current_size
            assert queue.qsize() == len(model)
            assert queue.is_backpressure_active is active

    asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from([*["offer"] * 4, *["take"] * 4, "evict"]), st.integers(0, 3)), max_size=200))
def test_the_lane_of_the_oldest_event_is_found_whatever_its_lanes_have_taken_out(steps: list[tuple[str, int]]) -> None:
    lanes = [Lane() for _ in range(4)]
    order = OfferOrder()
    model: list[Lane] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmgine.bus.offer_order._SLACK", 2)
        for step, number in steps:
            lane = lanes[number]
            if step == "offer":
                order.offered(lane)
                model.append(lane)
            elif step == "evict" and model:
                assert order.take_oldest() is model.pop(0)
            elif step == "take" and lane in model:
                order.taken(lane)
                model.remove(lane)
            assert len(order) <= 2 * len(model) + 3
        assert [order.take_oldest() for _ in model] == model


# On a bus


def test_a_bus_takes_a_bounded_queue_that_is_empty_and_its_own() -> None:
    queue = BoundedEventQueue[Event]()
    bus = MessageBus.isolated(event_queue=queue)
    with pytest.raises(ConfigurationError, match="another bus"):
        MessageBus.isolated(event_queue=queue)
    with pytest.raises(ConfigurationError, match=r"use bus\.publish"):
        queue.get_nowait()
    asyncio.run(bus.reset())
    used = BoundedEventQueue[Event]()
    asyncio.run(used.put(Event()))
    with pytest.raises(ConfigurationError, match="1 items wait"):
        MessageBus.isolated(event_queue=used)
    with pytest.raises(ConfigurationError, match="BoundedEventQueue"):
        MessageBus.isolated(event_queue=asyncio.Queue())


async def test_the_oldest_event_of_all_sessions_gives_way_and_its_publisher_is_told() -> None:
    held = Held(3, DROP)
    await held.fill()
    waiting = asyncio.create_task(held.bus.publish(Numbered(n=1, session_id=A)))
    await turns()
    await held.publish(10, 20, session=B)
    assert held.queue.qsize() == 3
    await held.publish(2, 3)
    with pytest.raises(QueueFullError, match="Numbered was dropped") as raised:
        await waiting
    assert raised.value.maxsize == 3
    assert [(getattr(event, "n", None), reason) for event, reason in held.lost] == [(1, "oldest"), (10, "oldest")]
    assert await held.finish() == [0, 20, 2, 3]
    assert held.bus.metrics.snapshot()["counters"]["events_dropped_total"]["labels"] == [
        {"labels": {"reason": "oldest"}, "value": 2}
    ]


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_publisher_is_refused_if_its_event_would_have_to_wait_and_only_then(*, awaited: bool) -> None:
    held = Held(2, REJECT)
    await held.fill(1, 2)
    with pytest.raises(QueueFullError, match="2 events wait already, and 2 may") as raised:
        await held.bus.publish(Numbered(n=3, session_id=A), await_processing=awaited)
    assert raised.value.maxsize == 2
    at_once = asyncio.create_task(held.bus.publish(Numbered(n=100, session_id=B)))
    await turns()
    assert await held.finish() == [0, 100, 1, 2]
    await at_once
    assert [reason for _, reason in held.lost] == ["rejected"]
    assert held.queue.metrics.total_rejected == 1


async def test_what_is_lost_is_shown_to_observers_only() -> None:
    held = Held(1, DROP)
    heard: list[Event] = []
    held.bus.register_event_handler(EventDroppedEvent, heard.append)
    await held.fill(1, 2)
    assert [reason for _, reason in held.lost] == ["oldest"]
    await held.finish()
    assert heard == []


async def test_the_gauges_follow_the_queue() -> None:
    held = Held(10, DROP)
    gauge = held.bus.metrics.gauges["backpressure_active"]
    await held.fill(*range(1, 8))
    assert gauge.value == 0
    await held.publish(8)
    assert (gauge.value, held.bus.metrics.gauges["queue_size"].value, held.queue.qsize()) == (1, 8, 8)
    await held.finish()
    assert gauge.value == 0


async def test_the_bus_itself_is_never_refused_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """A failure that cannot be announced, and events left pending that cannot be queued, are counted."""
    held = Held(1, REJECT)

    async def fail(_: Numbered) -> None:
        held.bus.add_pending_event(Numbered(n=50, session_id=A))
        raise RuntimeError

    async def leave(_: Numbered) -> None:
        held.bus.add_pending_event(Numbered(n=60, session_id=A))

    async def command(_: Command[Any]) -> None:
        held.bus.add_pending_event(Numbered(n=70, session_id=A))

    held.bus.register_event_handler(Numbered, fail, session_id=B)
    held.bus.register_event_handler(Numbered, leave, session_id=B)
    held.bus.register_event_handler(EventHandlerFailedEvent, lambda _: None)
    held.bus.register_command_handler(Command, command)
    await held.fill(1)
    with caplog.at_level(logging.WARNING):
        publishing = asyncio.create_task(held.bus.publish(Numbered(session_id=B)))
        await turns()
        result: CommandResult[Any] = await held.bus.execute(Command())
    assert result.success
    assert [(type(event).__name__, reason) for event, reason in held.lost] == [
        ("EventHandlerFailedEvent", "rejected"),
        ("Numbered", "rejected"),
        ("Numbered", "rejected"),
    ]
    assert sum("lost" in record.getMessage() for record in caplog.records) == 2
    assert await held.finish() == [0, 0, 1]
    await publishing


async def test_a_command_succeeds_also_if_what_it_left_pending_gives_way() -> None:
    held = Held(1, DROP)

    async def leave(_: Command[Any]) -> None:
        held.bus.add_pending_event(Numbered(n=1, session_id=A))

    held.bus.register_command_handler(Command, leave)
    await held.fill()
    executing = asyncio.create_task(held.bus.execute(Command[Any]()))
    await turns()
    await held.publish(2)
    assert (await executing).success
    assert await held.finish() == [0, 2]


# Publishers that wait


async def test_publishers_wait_for_room_in_the_order_in_which_they_came() -> None:
    held = Held(2, ADAPT)
    await held.fill(1)
    publishing = [asyncio.create_task(held.publish(n)) for n in range(2, 8)]
    await asyncio.sleep(2 * LONGEST_DELAY)
    assert held.queue.qsize() == 2
    assert [task.done() for task in publishing] == [True] + [False] * 5
    held.let_go.set()
    await asyncio.gather(*publishing)
    assert await held.finish() == list(range(8))
    assert held.lost == []
    assert held.queue.metrics.max_size_reached == 2


async def test_publishers_wait_the_longer_the_fuller_the_queue() -> None:
    held = Held(10, ADAPT)
    ticks = count()
    loop = asyncio.get_running_loop()
    tick = LONGEST_DELAY / 200
    loop.time = lambda: next(ticks) * tick  # type: ignore[method-assign]
    await held.fill()
    waited: list[float] = []
    for n in range(1, 11):
        before = next(ticks)
        await held.publish(n)
        waited.append((next(ticks) - before) * tick / LONGEST_DELAY)
    assert max(waited[:6]) < 0.05
    assert waited[6:] == sorted(waited[6:])
    assert waited[6:] == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.05)
    await held.finish()


async def test_a_publisher_that_gives_up_leaves_nothing_behind() -> None:
    held = Held(1, ADAPT)
    await held.fill(1)
    first, second, third = (asyncio.create_task(held.publish(n)) for n in (2, 3, 4))
    await asyncio.sleep(2 * LONGEST_DELAY)
    first.cancel()
    await turns()
    held.let_go.set()
    await turns(1)
    second.cancel()
    await third
    assert first.cancelled()
    seen = await held.finish()
    assert seen == ([0, 1, 4] if second.cancelled() else [0, 1, 3, 4])
    assert held.queue.metrics.total_enqueued == len(seen)


async def test_one_that_gives_up_when_its_turn_has_come_leaves_it_to_the_next() -> None:
    held = Held(2, ADAPT)
    await held.fill(1, 2)
    publishing = {n: asyncio.create_task(held.publish(n)) for n in (3, 4, 5)}
    await asyncio.sleep(2 * LONGEST_DELAY)

    def give_up(event: Numbered) -> None:  # in the turn of the loop in which 3 is told to go on
        if event.n == 1:
            publishing[3].cancel()
            publishing[4].cancel()

    held.bus.register_event_handler(Numbered, give_up, priority=0)
    held.let_go.set()
    await asyncio.wait_for(publishing[5], 5)
    assert await held.finish() == [0, 1, 2, 5]
    assert publishing[3].cancelled()
    assert publishing[4].cancelled()


async def test_one_whose_turn_has_come_is_refused_if_the_bus_was_stopped_from_elsewhere_before_it_goes_on() -> None:
    held = Held(1, ADAPT)
    await held.fill(1)
    publishing = asyncio.create_task(held.publish(2))
    await asyncio.sleep(2 * LONGEST_DELAY)

    def stop(event: Numbered) -> None:
        if event.n == 1:
            thread = threading.Thread(target=lambda: asyncio.run(held.bus.stop()))
            thread.start()
            thread.join(10)

    held.bus.register_event_handler(Numbered, stop, priority=0)
    held.let_go.set()
    with pytest.raises(BusNotRunningError):
        await asyncio.wait_for(publishing, 5)
    assert held.queue.qsize() == 0


@pytest.mark.parametrize("timeout", [None, 0])
async def test_a_stop_refuses_those_who_wait_for_room(timeout: float | None) -> None:
    held = Held(1, ADAPT)
    await held.fill(1)
    publishing = [asyncio.create_task(held.publish(n)) for n in (2, 3)]
    await asyncio.sleep(2 * LONGEST_DELAY)
    stopping = asyncio.create_task(held.bus.stop(timeout))
    for task in publishing:
        with pytest.raises(BusNotRunningError, match="waited for room"):
            await task
    held.let_go.set()
    await stopping
    figures = held.queue.metrics
    assert (figures.total_enqueued, figures.current_size) == (2, 0)
    assert figures.total_dequeued + figures.total_dropped == 2


async def test_a_handler_is_slowed_but_never_waits_for_the_room_that_only_its_end_makes() -> None:
    queue: BoundedEventQueue[Event] = BoundedEventQueue(2, strategy=ADAPT)
    bus = MessageBus.isolated(event_queue=queue)
    seen: list[int] = []

    async def handle(event: Numbered) -> None:
        seen.append(event.n)
        if event.n == 0:
            children = [Numbered(n=n, session_id=B) for n in range(1, 6)]
            await asyncio.gather(*(bus.publish(child, await_processing=False) for child in children))
            for n in range(6, 10):
                await bus.publish(Numbered(n=n, session_id=A), await_processing=False)
            seen.append(-1)

    bus.register_event_handler(Numbered, handle)
    await bus.start()
    await bus.publish(Numbered(session_id=A))
    await bus.wait_for_events()
    assert sorted(seen) == list(range(-1, 10))
    assert [n for n in seen if 1 <= n <= 5] == [1, 2, 3, 4, 5]
    assert queue.metrics.max_size_reached > 2
    assert seen[-5:] == [-1, 6, 7, 8, 9]
    await bus.stop()


async def test_an_event_that_is_delivered_at_once_waits_for_nothing_but_its_own_session() -> None:
    held = Held(1, ADAPT)
    await held.fill(1)
    queued = asyncio.create_task(held.publish(10, session=B))
    await asyncio.sleep(2 * LONGEST_DELAY)
    behind = asyncio.create_task(held.bus.publish(Numbered(n=11, session_id=B)))
    at_once = asyncio.create_task(held.bus.publish(Numbered(n=20)))
    await turns()
    assert held.seen == [0, 20]
    seen = await held.finish()
    assert seen.index(10) < seen.index(11)
    await asyncio.gather(queued, behind, at_once)


# Beginnings and ends


@pytest.mark.parametrize(
    ("strategy", "refused", "delivered"), [(DROP, 0, [3, 4]), (REJECT, 2, [1, 2]), (ADAPT, 0, [1, 2, 3, 4])]
)
async def test_what_is_published_before_the_start_is_bounded_too(
    strategy: BackpressureStrategy, refused: int, delivered: list[int]
) -> None:
    held = Held(2, strategy)
    errors = 0
    for n in (1, 2, 3, 4):
        try:
            await held.publish(n)
        except QueueFullError:
            errors += 1
    assert errors == refused
    assert held.queue.qsize() == len(delivered)
    await held.bus.start()
    assert held.queue.qsize() == len(delivered)
    assert held.queue.metrics.total_enqueued == 4 - refused
    assert await held.finish() == delivered
    assert held.queue.metrics.total_dequeued == len(delivered)


async def test_what_a_stop_or_a_reset_abandons_is_counted_as_dropped() -> None:
    held = Held(5, DROP)
    await held.fill(1, 2)
    report = await held.bus.stop(0)
    assert report.abandoned == 3
    assert [reason for _, reason in held.lost] == ["stopped"] * 2
    await held.bus.reset()
    await held.publish(1)
    await held.bus.reset()
    figures = held.queue.metrics
    assert (figures.total_enqueued, figures.total_dequeued, figures.total_dropped) == (4, 1, 3)
    assert held.queue.qsize() == 0
    assert held.bus.metrics.counters["events_dropped_total"].value == 3


def test_what_waits_on_a_loop_that_is_gone_goes_on_waiting_and_is_counted_once() -> None:
    async def leave() -> Held:
        held = Held(5, DROP)
        await held.fill(1, 2)
        return held

    async def go_on() -> None:
        await held.bus.start()
        assert held.queue.qsize() == 2
        assert await held.finish() == [0, 1, 2]

    held = asyncio.run(leave())
    assert held.queue.qsize() == 2
    asyncio.run(go_on())
    assert held.lost == []
    assert (held.queue.metrics.total_enqueued, held.queue.metrics.total_dequeued) == (3, 3)


@pytest.mark.parametrize("strategy", BackpressureStrategy)
def test_a_bus_that_another_loop_stops_leaves_the_account_in_order(strategy: BackpressureStrategy) -> None:
    """The loop goes on delivering what it has; the bus has nothing to do with it any more."""
    ready, end = threading.Event(), threading.Event()
    held: list[Held] = []
    outcomes: list[BaseException | None] = []

    async def run() -> None:
        mine = Held(2, strategy)
        held.append(mine)
        await mine.fill(1, 2)
        waiting = asyncio.create_task(mine.publish(3)) if strategy is ADAPT else None
        await turns()
        ready.set()
        await asyncio.to_thread(end.wait)
        mine.let_go.set()
        await turns(20)
        if waiting is not None:
            outcomes.append((await asyncio.gather(waiting, return_exceptions=True))[0])

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    ready.wait(10)
    report = asyncio.run(held[0].bus.stop())
    end.set()
    thread.join(10)
    figures = held[0].queue.metrics
    assert report.abandoned == 3
    assert (figures.total_enqueued, figures.total_dequeued, figures.total_dropped) == (3, 1, 2)
    assert figures.current_size == 0
    assert [type(error) for error in outcomes] == ([BusNotRunningError] if strategy is ADAPT else [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_nothing_waits_in_the_child() -> None:
    queue: BoundedEventQueue[Event] = BoundedEventQueue(2)
    bus = MessageBus.isolated(event_queue=queue)
    asyncio.run(bus.publish(Event()))
    asyncio.run(bus.publish(Event()))
    assert queue.is_backpressure_active
    pid = os.fork()
    if pid == 0:
        figures = queue.metrics
        empty = (queue.qsize(), figures.total_enqueued, queue.is_backpressure_active) == (0, 0, False)
        os._exit(0 if empty else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert queue.qsize() == 2


async def test_a_session_begins_and_ends_also_where_the_queue_is_full() -> None:
    bus = MessageBus.isolated(event_queue=BoundedEventQueue(maxsize=1, strategy=BackpressureStrategy.REJECT_NEW))
    release = asyncio.Event()

    async def wait(event: Event) -> None:
        await release.wait()

    bus.register_event_handler(Event, wait)
    await bus.start()
    for _ in range(2):
        await bus.publish(Event(session_id=SessionID("full")), await_processing=False)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        session = bus.create_session("full")
        await session.start()
        await session.end()
    release.set()
    await bus.stop()

    assert (await bus.get_metrics())["counters"]["events_dropped_total"]["value"] == 2
