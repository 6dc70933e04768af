"""Scheduled events: never early, none lost, none twice, in the order in which they are due; and idle without any.

Time is made up: a loop whose clock goes on to the next timer at once, and a wall clock that follows it or is set.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgine.bus.memory_schedule import MemoryScheduleStore
from llmgine.bus.recurrence import Every
from llmgine.bus.release import LATE
from llmgine.bus.scheduling import Scheduler, ScheduleReport
from llmgine.bus.stores import Claim, Held, Misfire, ScheduleStore
from llmgine.errors import StoreError
from llmgine.messages import Event, SessionID

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LEASE = 60.0


class Due(Event):
    pass


class Hangs(Exception):  # noqa: N818  # not an error of what is tested
    """Nothing will ever happen any more, or it goes on and on."""


class MadeUpTime(selectors.DefaultSelector):
    """Lets no time pass but for timers, and that at once."""

    now = 0.0
    waits = 0
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if timeout is None or self.turns > 200_000:
            raise Hangs
        if timeout > 0:
            self.now += timeout
            self.waits += 1
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.made_up = MadeUpTime()
        super().__init__(self.made_up)

    def time(self) -> float:
        return self.made_up.now


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(work)


class Disk(MemoryScheduleStore):
    """What outlives a scheduler. It takes its time, and may be away."""

    away = False
    calls = 0

    async def _reach(self) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreError("away")

    async def add(self, held: Sequence[Held]) -> None:
        await self._reach()
        await super().add(held)
        await asyncio.sleep(0)

    async def claim(self, now: datetime, limit: int) -> list[Claim]:
        await self._reach()
        return await super().claim(now, limit)

    async def renew(self, claims: Sequence[Claim]) -> None:
        await self._reach()
        await super().renew(claims)

    async def settle(self, claims: Sequence[Claim], now: datetime) -> None:
        await self._reach()
        await super().settle(claims, now)

    async def release(self, claims: Sequence[Claim]) -> None:
        await self._reach()
        await super().release(claims)

    async def next_time(self) -> datetime | None:
        await self._reach()
        found = await super().next_time()
        await asyncio.sleep(0)
        return found

    async def cancel(self, ids: Sequence[str]) -> int:
        await self._reach()
        return await super().cancel(ids)

    async def count(self) -> int:
        await self._reach()
        return await super().count()


@dataclass
class World:
    """A wall clock, a database, and whoever handles what is delivered."""

    offset: timedelta = timedelta()
    handling: Callable[[Event], float] = lambda _: 0.0
    delivered: list[tuple[datetime, float, Event]] = field(default_factory=list[tuple[datetime, float, Event]])
    under_way: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])
    held: dict[str, tuple[Held, int]] = field(default_factory=dict[str, tuple[Held, int]])
    """With how many had been delivered by then."""

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.disk = Disk(lease=LEASE, clock=self.clock)

    def clock(self) -> datetime:
        return NOON + timedelta(seconds=self.loop.time()) + self.offset

    def deliver(self, event: Event) -> asyncio.Future[None] | None:
        self.delivered.append((self.clock(), self.loop.time(), event))
        seconds = self.handling(event)
        if not seconds:
            return None
        handled = self.loop.create_future()
        self.under_way.add(handled)
        handled.add_done_callback(self.under_way.discard)
        self.loop.call_later(seconds, self._handled, handled)
        return handled

    @staticmethod
    def _handled(delivery: asyncio.Future[None]) -> None:
        if not delivery.done():
            delivery.set_result(None)

    @property
    def waits(self) -> int:
        """How often the loop has waited for a timer."""
        assert isinstance(self.loop, Loop)
        return self.loop.made_up.waits

    def scheduler(self, store: ScheduleStore | None) -> Scheduler:
        return Scheduler(self.deliver, store, clock=self.clock, lease=LEASE)

    def started(self, store: ScheduleStore | None) -> Scheduler:
        scheduler = self.scheduler(store)
        scheduler.start(self.loop)
        return scheduler

    async def hold(self, scheduler: Scheduler, seconds: float, session: str = "one", **more: Any) -> Held:
        event = Due(session_id=SessionID(session))
        held = Held(event.id, event, self.clock() + timedelta(seconds=seconds), session_id=event.session_id, **more)
        self.held[held.id] = held, len(self.delivered)
        await scheduler.hold(held)
        return held

    async def stop(self, scheduler: Scheduler) -> ScheduleReport:
        """Stop as a bus does: nothing new, what is under way ends, and then."""
        scheduler.pause()
        while self.under_way:
            await asyncio.wait(self.under_way)
        return await scheduler.stop()

    @property
    def ids(self) -> list[str]:
        return [event.id for _, _, event in self.delivered]


step = st.one_of(
    st.tuples(st.just("hold"), st.integers(-20, 400), st.sampled_from("abc")),
    st.tuples(st.just("hold"), st.integers(0, 3), st.just("a")),
    st.tuples(st.just("cancel"), st.integers(0, 50), st.just("")),
    st.tuples(st.just("pass"), st.sampled_from([0, 1, 30, 90, 1000]), st.just("")),
    st.tuples(st.just("set clock"), st.sampled_from([-3600, -7, 7, 3600]), st.just("")),
    st.tuples(st.just("restart"), st.sampled_from([0, 100]), st.just("")),
    st.tuples(st.just("away"), st.sampled_from([0, 5, 300]), st.just("")),
)


async def play(
    steps: list[tuple[str, int, str]], handling: list[int], *, durable: bool, processes: int
) -> tuple[World, list[str], bool]:
    """Do the steps, then let everything come due. Return the world, the ids that were cancelled, and whether there was
    an outage."""
    world = World(handling=lambda event: handling[int(event.id[-4:], 16) % len(handling)])
    store = world.disk if durable else None
    schedulers = [world.started(store) for _ in range(processes)]
    cancelled: list[str] = []
    outage = False
    for turn, (what, number, session) in enumerate(steps):
        scheduler = schedulers[turn % processes]
        if what == "hold":
            await world.hold(scheduler, number, session)
        elif what == "cancel" and world.held and not world.disk.away:
            id_ = list(world.held)[number % len(world.held)]
            if await scheduler.cancel([id_]):
                assert id_ not in world.ids
                cancelled.append(id_)
        elif what == "pass":
            await asyncio.sleep(number)
        elif what == "set clock":
            world.offset += timedelta(seconds=number)
        elif what == "restart" and durable:
            world.disk.away = False
            report = await world.stop(scheduler)
            assert report.lost == 0
            assert report.kept == await world.disk.count()
            await asyncio.sleep(number)
            schedulers[turn % processes] = world.started(store)
        elif what == "away" and processes == 1:
            world.disk.away = outage = True
            world.loop.call_later(number, setattr, world.disk, "away", False)
    await asyncio.sleep(400)  # the outage ends
    world.disk.away = False
    await asyncio.sleep(150_000)  # also where the clock has been set back by as much as it can be
    for scheduler in schedulers:
        assert await scheduler.count() == 0
        assert scheduler.unsaved == scheduler.under_way == 0
        assert await world.stop(scheduler) == ScheduleReport(0, 0)
    return world, cancelled, outage


@settings(max_examples=150)
@given(
    st.lists(step, max_size=40),
    st.lists(st.sampled_from([0, 0, 1, 50, 200]), min_size=1),
    st.booleans(),
    st.integers(1, 2),
)
@example([("hold", 0, "a"), ("away", 300, ""), ("hold", 1, "a"), ("hold", 390, "a"), ("pass", 1000, "")], [0], True, 1)
@example([("hold", 0, "a"), ("pass", 1, ""), ("set clock", 3600, ""), ("pass", 90, "")], [200], True, 2)
@example([("hold", 0, "a"), ("pass", 1, ""), ("set clock", 3600, ""), ("hold", 0, "b")], [200], True, 1)
def test_every_event_is_delivered_once_never_early_and_in_order(
    steps: list[tuple[str, int, str]], handling: list[int], durable: bool, processes: int
) -> None:
    async def work() -> None:
        several = processes if durable else 1
        clock_set = any(what == "set clock" for what, *_ in steps)
        world, cancelled, outage = await play(steps, handling, durable=durable, processes=several)
        expected = [id_ for id_ in world.held if id_ not in cancelled]
        if several == 1 or not clock_set:  # leases go by the wall clock
            assert Counter(world.ids) == Counter(expected)
        assert {*world.ids} == {*expected}
        for moment, _, event in world.delivered:
            assert moment >= world.held[event.id][0].due
        if outage or several > 1 or clock_set:
            return
        for session in "abc":
            events = [(place, *world.held[id_]) for place, id_ in enumerate(world.ids)]
            of_session = [each for each in events if each[1].session_id == session]
            for (place, held, _), (_, later, held_when) in pairwise(of_session):
                assert held.due <= later.due or held_when > place

    run(work())


def test_an_event_that_is_held_while_the_store_is_asked_for_the_next_time_is_not_overlooked() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        next_time = world.disk.next_time

        async def held_meanwhile() -> datetime | None:
            world.disk.next_time = next_time  # type: ignore[method-assign]
            found = await next_time()
            await world.hold(scheduler, 10)
            return found

        await asyncio.sleep(1)
        world.disk.next_time = held_meanwhile  # type: ignore[method-assign]
        await world.hold(scheduler, 0)
        await asyncio.sleep(11)
        assert len(world.ids) == 2
        await world.stop(scheduler)

    run(work())


def test_a_scheduler_that_starts_again_finds_what_another_process_has_held() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        await asyncio.sleep(1)
        await world.stop(scheduler)
        held = await world.hold(world.scheduler(world.disk), 1)
        scheduler.start(world.loop)
        await asyncio.sleep(2)
        assert world.ids == [held.id]
        await world.stop(scheduler)

    run(work())


@pytest.mark.parametrize("durable", [True, False])
def test_however_much_is_due_others_have_their_turns(durable: bool) -> None:
    async def work() -> None:
        world = World()
        scheduler = world.scheduler(world.disk if durable else None)
        for _ in range(1000):
            await world.hold(scheduler, 0)
        turns = 0
        scheduler.start(world.loop)
        while len(world.ids) < 1000:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 10
        await world.stop(scheduler)

    run(work())


# What repeats


@settings(max_examples=100)
@given(
    st.sampled_from(Misfire),
    st.sampled_from([10, 30, 300]),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=5),
    st.sampled_from([0, 1, 25, 400]),
)
@example(Misfire.ALL, 10, [(100, 500)], 25)
@example(Misfire.SKIP, 10, [(0, 5), (0, 6)], 0)
def test_what_repeats_keeps_to_its_grid_and_makes_up_for_what_was_missed_as_it_was_asked(
    misfire: Misfire, seconds: int, runs: list[tuple[int, int]], handling: int
) -> None:
    async def work() -> None:
        world = World(handling=lambda _: handling)
        ran: list[tuple[datetime, datetime]] = []
        scheduler = world.scheduler(world.disk)
        every = Every(seconds, world.clock())
        await world.hold(scheduler, 0, recurrence=every, misfire=misfire)
        for running, resting in runs:
            since = world.clock()
            scheduler.start(world.loop)
            await asyncio.sleep(running)
            await world.stop(scheduler)
            ran.append((since, world.clock()))
            await asyncio.sleep(resting)
            scheduler = world.scheduler(world.disk)
        (left,) = await scheduler.list()
        assert (left.due - every.start) % timedelta(seconds=seconds) == timedelta()
        times = [moment for moment, _, _ in world.delivered]
        assert all(later - earlier >= timedelta(seconds=handling) for earlier, later in pairwise(times))  # no overlap
        assert len({*world.ids}) == len(times)
        if misfire is Misfire.ALL:
            assert left.due == every.start + len(times) * timedelta(seconds=seconds)
            assert all(moment >= every.start + place * timedelta(seconds=seconds) for place, moment in enumerate(times))
            return
        grid = [(moment - every.start) // timedelta(seconds=seconds) for moment in times]
        assert all(earlier < later for earlier, later in pairwise(grid))  # no two for one
        late = [moment for moment in times if (moment - every.start) % timedelta(seconds=seconds) > LATE]
        if misfire is Misfire.SKIP:
            assert not late
        else:
            assert all(any(since == moment for since, _ in ran) for moment in late)
            assert len(times) >= sum(until - since >= timedelta(seconds=seconds + handling) for since, until in ran)

    run(work())


def test_an_occurrence_is_an_event_of_its_own_in_the_chain_of_its_schedule() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(None)
        event = Due(metadata={"of": "the pattern"})
        event.correlation_id = "the chain"
        every = Every(10, world.clock())
        await scheduler.hold(Held(event.id, event, world.clock(), every))
        await asyncio.sleep(15)
        first, second = (each for _, _, each in world.delivered)
        assert len({first.id, second.id, event.id}) == 3
        assert {each.correlation_id for each in (first, second)} == {"the chain"}
        assert {each.causation_id for each in (first, second)} == {event.id}
        first.metadata["of"] = "the first"
        assert second.metadata == event.metadata == {"of": "the pattern"}
        assert await scheduler.cancel([event.id]) == 1
        await world.stop(scheduler)

    run(work())


# Idle


@pytest.mark.parametrize("durable", [True, False])
def test_a_scheduler_without_events_never_wakes(durable: bool) -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk if durable else None)
        await world.hold(scheduler, 5)
        await asyncio.sleep(10)
        assert len(world.ids) == 1
        calls, waits = world.disk.calls, world.waits
        await asyncio.sleep(86_400)
        assert (world.disk.calls, world.waits) == (calls, waits + 1)  # one for the sleep
        await world.stop(scheduler)

    run(work())


def test_a_hundred_thousand_waiting_events_are_one_timer_and_one_question_a_minute() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.scheduler(world.disk)
        events = [Due() for _ in range(100_000)]
        await world.disk.add([Held(event.id, event, NOON + timedelta(days=1)) for event in events])
        scheduler.start(world.loop)
        await asyncio.sleep(1)
        calls, waits = world.disk.calls, world.waits
        await asyncio.sleep(3600)
        assert world.disk.calls - calls == 60
        assert world.waits - waits <= 61
        await world.stop(scheduler)

    run(work())


def test_a_clock_that_is_set_forward_is_noticed_within_a_minute_and_one_set_back_waits() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        held = await world.hold(scheduler, 3600)
        world.offset += timedelta(seconds=1800)
        await asyncio.sleep(1790)
        world.offset -= timedelta(seconds=1800)
        await asyncio.sleep(1000)
        assert world.ids == []
        world.offset += timedelta(days=1)
        await asyncio.sleep(61)
        assert world.ids == [held.id]
        await world.stop(scheduler)

    run(work())


# The database is away


def test_an_outage_is_logged_once_and_retried_ever_more_slowly_until_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        await asyncio.sleep(1)
        world.disk.away = True
        attempts: list[float] = []
        reach = world.disk._reach

        async def noted() -> None:
            attempts.append(world.loop.time())
            await reach()

        world.disk._reach = noted  # type: ignore[method-assign]
        for seconds in (5, 10_000, 20_000):
            await world.hold(scheduler, seconds)
        await asyncio.sleep(200)
        assert attempts == [
            1,
            *(pytest.approx(1 + 2**n - 1) for n in range(1, 7)),
            pytest.approx(124),
            pytest.approx(184),
        ]
        assert len(world.ids) == 1  # from memory
        assert scheduler.unsaved == 2
        world.disk.away = False
        await asyncio.sleep(60)
        assert scheduler.unsaved == 0
        assert [held.due.timestamp() for held in await world.disk.list()] == [
            held.due.timestamp() for held, _ in list(world.held.values())[1:]
        ]
        assert await world.stop(scheduler) == ScheduleReport(kept=2, lost=0)

    run(work())
    assert ["away" in record.message or "back" in record.message for record in caplog.records] == [True, True]


def test_what_is_held_while_the_database_is_away_is_written_at_the_end_or_reported_as_lost() -> None:
    async def work() -> None:
        world = World()
        world.disk.away = True
        for away, report in ((True, ScheduleReport(None, 3)), (False, ScheduleReport(3, 0))):
            scheduler = world.scheduler(world.disk)
            for seconds in (10, 20, 30):
                await world.hold(scheduler, seconds)
            world.disk.away = away
            assert await world.stop(scheduler) == report
        assert world.ids == []

    run(work())


def test_what_was_delivered_and_could_not_be_settled_is_not_delivered_again() -> None:
    async def work() -> None:
        world = World(handling=lambda _: 10)
        scheduler = world.started(world.disk)
        await world.hold(scheduler, 1)
        await asyncio.sleep(5)
        world.disk.away = True
        await asyncio.sleep(5 * LEASE)
        world.disk.away = False
        await asyncio.sleep(5 * LEASE)
        assert len(world.ids) == 1
        assert await scheduler.count() == 0
        await world.stop(scheduler)

    run(work())


def test_many_failures_at_once_are_one_attempt() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        await asyncio.sleep(1)
        world.disk.away = True
        await asyncio.gather(*(world.hold(scheduler, 100) for _ in range(20)))
        world.disk.away = False
        assert scheduler.unsaved == 20
        await asyncio.sleep(1.1)
        assert scheduler.unsaved == 0
        await world.stop(scheduler)

    run(work())


def test_all_that_was_kept_in_memory_is_written_when_the_database_is_back_however_much_it_is() -> None:
    async def work() -> None:
        world = World()
        world.disk.away = True
        scheduler = world.started(world.disk)
        for _ in range(1700):
            await world.hold(scheduler, 1000)
        world.disk.away = False
        await asyncio.sleep(2)
        assert scheduler.unsaved == 0
        assert await world.stop(scheduler) == ScheduleReport(kept=1700, lost=0)

    run(work())


def test_what_is_cancelled_while_it_is_written_is_not_delivered() -> None:
    async def work() -> None:
        world = World()
        world.disk.away = True
        scheduler = world.started(world.disk)
        one = await world.hold(scheduler, 100)
        cancelling: list[asyncio.Task[int]] = []
        add = world.disk.add

        async def cancelled_meanwhile(held: Sequence[Held]) -> None:
            cancelling.append(asyncio.create_task(scheduler.cancel([one.id])))
            await asyncio.sleep(0.1)
            await add(held)

        world.disk.add = cancelled_meanwhile  # type: ignore[method-assign]
        world.disk.away = False
        await asyncio.sleep(200)
        assert [await each for each in cancelling] == [1]
        assert world.ids == []
        await world.stop(scheduler)

    run(work())


def test_what_was_delivered_from_memory_and_given_up_is_written_at_the_end() -> None:
    async def work() -> None:
        world = World(handling=lambda _: 1000)
        world.disk.away = True
        scheduler = world.started(world.disk)
        held = await world.hold(scheduler, 1)
        await asyncio.sleep(2)
        assert world.ids == [held.id]
        world.disk.away = False
        assert await scheduler.stop() == ScheduleReport(kept=1, lost=0)

    run(work())


# Ends of all kinds


def test_after_a_crash_nothing_is_lost_and_only_what_was_under_way_comes_again() -> None:
    async def work() -> None:
        world = World(handling=lambda _: 50)
        crashed = world.started(world.disk)
        for seconds in (1, 99, 200):
            await world.hold(crashed, seconds)
        await asyncio.sleep(100)  # the first is done, the second under way
        crashed.after_fork()  # it forgets everything
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        scheduler = world.started(world.disk)
        await asyncio.sleep(1000)
        assert list(Counter(world.ids).values()) == [1, 2, 1]
        again = [at for _, at, event in world.delivered if event.id == world.ids[1]]
        assert again == [99, pytest.approx(99 + LEASE, abs=1)]
        await world.stop(scheduler)

    run(work())


def test_what_the_bus_gave_up_when_it_stopped_is_due_at_once_for_the_next() -> None:
    async def work() -> None:
        world = World(handling=lambda _: 1000)
        scheduler = world.started(world.disk)
        held = await world.hold(scheduler, 1)
        await asyncio.sleep(2)
        scheduler.pause()
        for delivery in world.under_way:
            delivery.cancel()
        await asyncio.sleep(1)
        assert await scheduler.stop() == ScheduleReport(kept=1, lost=0)
        world.handling = lambda _: 0
        scheduler = world.started(world.disk)
        await asyncio.sleep(1)
        assert world.ids == [held.id] * 2
        await world.stop(scheduler)

    run(work())


def test_a_handler_that_cancels_itself_has_been_delivered_to() -> None:
    async def work() -> None:
        world = World(handling=lambda _: 1000)
        scheduler = world.started(world.disk)
        await world.hold(scheduler, 1)
        await asyncio.sleep(2)
        for delivery in world.under_way:
            delivery.cancel()
        await asyncio.sleep(1000)
        assert len(world.ids) == 1
        assert await world.stop(scheduler) == ScheduleReport(0, 0)

    run(work())


def test_nothing_is_released_once_it_is_paused_not_even_what_has_just_been_claimed() -> None:
    async def work() -> None:
        world = World()
        claim = world.disk.claim

        async def paused_meanwhile(now: datetime, limit: int) -> list[Claim]:
            claims = await claim(now, limit)
            scheduler.pause()
            return claims

        world.disk.claim = paused_meanwhile  # type: ignore[method-assign]
        scheduler = world.started(world.disk)
        await world.hold(scheduler, 1)
        await asyncio.sleep(100)
        assert world.ids == []
        assert await world.stop(scheduler) == ScheduleReport(kept=1, lost=0)
        world.disk.claim = claim  # type: ignore[method-assign]
        scheduler = world.started(world.disk)
        await asyncio.sleep(0.1)
        assert len(world.ids) == 1
        await world.stop(scheduler)

    run(work())


def test_whoever_cancels_every_task_does_not_end_the_scheduler() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        await world.hold(scheduler, 10)
        await asyncio.sleep(1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(10)
        assert len(world.ids) == 1
        await world.stop(scheduler)

    run(work())


def test_an_event_that_cannot_be_delivered_holds_up_no_other_and_is_tried_again() -> None:
    async def work() -> None:
        world = World()
        broken = [True]

        def handling(event: Event) -> float:
            if broken and event.session_id == "broken":
                raise ValueError("broken")
            return 0.0

        world.handling = handling
        scheduler = world.started(world.disk)
        bad, good = await world.hold(scheduler, 1, "broken"), await world.hold(scheduler, 1, "good")
        await asyncio.sleep(5)
        assert world.ids == [bad.id, good.id]
        broken.clear()
        await asyncio.sleep(2 * LEASE)
        assert world.ids == [bad.id, good.id, bad.id]
        await world.stop(scheduler)

    run(work())


def test_a_store_that_fails_in_another_way_is_logged_and_asked_again() -> None:
    async def work() -> None:
        world = World()
        claim = world.disk.claim

        async def broken(now: datetime, limit: int) -> list[Claim]:
            world.disk.claim = claim  # type: ignore[method-assign]
            raise TypeError("a mistake in the store")

        world.disk.claim = broken  # type: ignore[method-assign]
        scheduler = world.started(world.disk)
        await world.hold(scheduler, 0)
        await asyncio.sleep(100)
        assert len(world.ids) == 1
        await world.stop(scheduler)

    run(work())


def test_a_store_that_says_due_and_hands_out_nothing_is_asked_once_a_second() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(world.disk)
        await world.hold(scheduler, 0)

        async def nothing(now: datetime, limit: int) -> list[Claim]:
            await asyncio.sleep(0)
            return []

        world.disk.claim = nothing  # type: ignore[method-assign]
        await world.hold(scheduler, 1)
        await asyncio.sleep(1)
        calls = world.disk.calls
        await asyncio.sleep(60)
        assert world.disk.calls - calls <= 200
        await world.stop(scheduler)

    run(work())


def test_an_event_takes_the_place_of_one_with_its_id_wherever_that_is() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.scheduler(world.disk)
        world.disk.away = True
        first = await world.hold(scheduler, 10)
        world.disk.away = False
        for seconds in (20, 30):
            await scheduler.hold(Held(first.id, first.event, world.clock() + timedelta(seconds=seconds)))
            assert await scheduler.count() == 1
            scheduler.start(world.loop)
            await asyncio.sleep(5)
        await asyncio.sleep(100)
        assert [at for _, at, _ in world.delivered] == [pytest.approx(35)]
        await world.stop(scheduler)

    run(work())


def test_in_memory_events_survive_a_stop_and_a_start_of_the_same_scheduler() -> None:
    async def work() -> None:
        world = World()
        scheduler = world.started(None)
        await world.hold(scheduler, 10)
        assert await world.stop(scheduler) == ScheduleReport(kept=0, lost=1)
        await asyncio.sleep(20)
        assert world.ids == []
        scheduler.start(world.loop)
        await asyncio.sleep(1)
        assert len(world.ids) == 1
        await world.stop(scheduler)

    run(work())
