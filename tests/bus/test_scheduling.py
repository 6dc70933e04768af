"""What is asked for, as it is held; the store in memory; and a scheduler on loops that come, go and fork."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus.clocks import utc_now
from llmgine.bus.memory_schedule import MemoryScheduleStore
from llmgine.bus.planning import plan
from llmgine.bus.recurrence import Every
from llmgine.bus.scheduling import Scheduler
from llmgine.bus.stores import Claim, Held, Misfire
from llmgine.cron import Cron
from llmgine.errors import ConfigurationError
from llmgine.messages import Event, ScheduledEvent, SessionID

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Due(Event):
    pass


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def add(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


# Plans


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"at": NOON + timedelta(seconds=5)}, 5),
        ({"at": (NOON + timedelta(seconds=5)).astimezone().replace(tzinfo=None)}, 5),  # local time
        ({"at": NOON - timedelta(seconds=5)}, -5),
        ({"after": 2.5}, 2.5),
        ({"after": timedelta(minutes=1)}, 60),
        ({"after": 0}, 0),
        ({"every": 30}, 30),
        ({"every": timedelta(hours=1)}, 3600),
        ({"every": 30, "after": 5}, 5),
        ({"every": 30, "at": NOON}, 0),
        ({"cron": "30 12 * * *"}, 1800),
        ({"cron": "30 13 * * *", "timezone": "Europe/Berlin"}, 1800),
    ],
)
def test_when_an_event_is_due(asked: dict[str, Any], seconds: float) -> None:
    event = Due(session_id=SessionID("mine"))
    held = plan(event, **asked, clock=Clock())
    assert held.due == NOON + timedelta(seconds=seconds)
    assert held.due.tzinfo is UTC
    assert (held.id, held.event, held.event_type, held.session_id) == (event.id, event, "Due", "mine")
    if "cron" in asked:
        assert held.recurrence == Cron(asked["cron"], asked.get("timezone", "UTC"))
    elif "every" in asked:
        every = asked["every"]
        assert held.recurrence == Every(every.total_seconds() if isinstance(every, timedelta) else every, held.due)
    else:
        assert held.recurrence is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "When"),
        ({"at": NOON, "after": 1}, "Give one of them"),
        ({"cron": "@daily", "every": 1}, "Leave out"),
        ({"cron": "@daily", "after": 1}, "Leave out"),
        ({"cron": "@daily", "at": NOON}, "Leave out"),
        ({"cron": "daily"}, "five fields"),
        ({"cron": "@daily", "timezone": "Mars"}, "no time zone"),
        ({"at": NOON, "timezone": "UTC"}, "timezone= is that of cron="),
        ({"at": "noon"}, "at must be a datetime"),
        ({"after": -1}, "after must be a number of seconds"),
        ({"after": float("nan")}, "after must be a number of seconds"),
        ({"after": "1"}, "after must be a number of seconds"),
        ({"after": 1e12}, "longer than dates reach"),
        ({"every": 0}, "every must be a number of seconds"),
        ({"every": -5}, "every must be a number of seconds"),
        ({"every": 1, "misfire": "never"}, "misfire is one of 'once', 'all', 'skip'; got 'never'"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        plan(Due(), **asked)


def test_a_scheduled_event_is_given_its_time_and_each_occurrence_its_own() -> None:
    event = ScheduledEvent()
    held = plan(event, every=10, clock=Clock())
    assert event.scheduled_time == held.due == NOON + timedelta(seconds=10)


# The store in memory


def held(seconds: float, session: str = "one", **more: Any) -> Held:
    event = Due(session_id=SessionID(session))
    return Held(event.id, event, NOON + timedelta(seconds=seconds), session_id=event.session_id, **more)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryScheduleStore:
    return MemoryScheduleStore(lease=60, clock=clock)


def ids(claims: list[Claim]) -> list[str]:
    return [claim.held.id for claim in claims]


async def test_what_is_due_is_claimed_once_the_earliest_first(store: MemoryScheduleStore, clock: Clock) -> None:
    third, first, second, later = held(3), held(1), held(2), held(9)
    await store.add([third, first, second, later])
    assert await store.next_time() == first.due
    assert ids(await store.claim(clock.add(5), 2)) == [first.id, second.id]
    assert ids(await store.claim(clock.now, 2)) == [third.id]
    assert await store.claim(clock.now, 2) == []
    assert await store.next_time() == later.due
    assert await store.count() == 4


async def test_a_lease_that_ends_is_another_s_and_the_former_changes_nothing_any_more(
    store: MemoryScheduleStore, clock: Clock
) -> None:
    await store.add([held(0)])
    former = await store.claim(clock.now, 1)
    clock.add(50)
    await store.renew(former)
    assert await store.next_time() == NOON + timedelta(seconds=110)
    assert await store.claim(clock.add(59), 1) == []
    latter = await store.claim(clock.add(1), 1)
    assert latter[0].token > former[0].token
    for change in (store.renew(former), store.release(former), store.settle(former, clock.now)):
        await change
    assert await store.next_time() == clock.now + timedelta(seconds=60)
    await store.settle(latter, clock.now)
    assert await store.count() == 0
    assert await store.next_time() is None


async def test_what_was_due_first_is_claimed_first_also_when_its_lease_has_ended(
    store: MemoryScheduleStore, clock: Clock
) -> None:
    first, second = held(0), held(1)
    await store.add([first])
    await store.claim(clock.now, 1)
    await store.add([second])
    assert ids(await store.claim(clock.add(61), 2)) == [first.id, second.id]
    assert await store.cancel([first.id]) == 0
    clock.add(60)
    assert await store.cancel([first.id]) == 1


async def test_what_is_put_back_does_not_replace_what_has_come_since(store: MemoryScheduleStore) -> None:
    first, other = held(5), held(6)
    await store.add([first, other])
    taken = store.take(2)
    again = Held(first.id, first.event, NOON)
    await store.add([again])
    await store.put_back(taken)
    assert await store.list() == [again, other]


async def test_what_is_being_delivered_is_not_cancelled(store: MemoryScheduleStore, clock: Clock) -> None:
    one, other = held(0), held(1)
    await store.add([one, other])
    claims = await store.claim(clock.now, 1)
    assert await store.cancel([one.id, other.id, other.id, "unknown"]) == 1
    await store.release(claims)
    assert ids(await store.claim(clock.now, 5)) == [one.id]


async def test_what_repeats_does_not_come_again_if_it_is_cancelled_while_it_is_delivered(
    store: MemoryScheduleStore, clock: Clock
) -> None:
    one = held(0, recurrence=Every(10, NOON))
    await store.add([one])
    claims = await store.claim(clock.now, 1)
    assert await store.cancel([one.id]) == 1
    await store.renew(claims)
    await store.settle(claims, clock.now)
    assert await store.next_time() is None


async def test_one_with_the_id_of_another_takes_its_place_also_from_whoever_delivers_that(
    store: MemoryScheduleStore, clock: Clock
) -> None:
    one = held(0)
    await store.add([one])
    claims = await store.claim(clock.now, 1)
    again = Held(one.id, one.event, NOON + timedelta(seconds=30))
    await store.add([again])
    await store.settle(claims, clock.now)
    assert await store.list() == [again]


async def test_what_repeats_is_held_until_it_is_due_again(store: MemoryScheduleStore, clock: Clock) -> None:
    await store.add([held(0, recurrence=Every(10, NOON), misfire=misfire) for misfire in Misfire])
    await store.settle(await store.claim(clock.now, 3), clock.add(35))
    assert [(each.misfire, (each.due - NOON).seconds) for each in await store.list()] == [
        (Misfire.ALL, 10),
        (Misfire.ONCE, 40),
        (Misfire.SKIP, 40),
    ]


async def test_lists_are_by_time_of_a_session_and_limited(store: MemoryScheduleStore) -> None:
    third, first, second = held(3, "a"), held(1, "a"), held(2, "b")
    await store.add([third, first, second])
    assert await store.list() == [first, second, third]
    assert await store.list(limit=2) == [first, second]
    assert await store.list(session_id=SessionID("a")) == [first, third]


async def test_events_that_come_and_go_leave_no_memory_behind(store: MemoryScheduleStore) -> None:
    for _ in range(100):
        several = [held(second) for second in range(100)]
        await store.add(several)
        await store.cancel([each.id for each in several])
        await store.next_time()
    assert len(store._heap) < 300


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "claim", "settle", "release", "cancel", "take", "put"]), st.integers(0, 9))
    )
)
def test_whatever_is_done_each_event_is_in_one_place(steps: list[tuple[str, int]]) -> None:
    async def work() -> None:
        clock = Clock()
        store = MemoryScheduleStore(clock=clock)
        waiting: set[str] = set()
        claimed: list[Claim] = []
        taken: list[Held] = []
        for what, number in steps:
            clock.add(1)
            if what == "add":
                await store.add([each := held(number)])
                waiting.add(each.id)
            elif what == "claim":
                claims = await store.claim(clock.now, number + 1)
                assert {*ids(claims)} <= waiting
                waiting -= {*ids(claims)}
                claimed += claims
            elif what in {"settle", "release"}:
                some, claimed = claimed[:number], claimed[number:]
                await (store.settle(some, clock.now) if what == "settle" else store.release(some))
                waiting |= {*ids(some)} if what == "release" else set()
            elif what == "cancel":
                some_ids = [*waiting, *ids(claimed)][:number]
                assert await store.cancel(some_ids) == len(waiting & {*some_ids})
                waiting -= {*some_ids}
            elif what == "take":
                several = store.take(number)
                assert [each.due for each in several] == sorted(each.due for each in several)
                taken += several
                waiting -= {each.id for each in several}
            else:
                await store.put_back(taken)
                waiting |= {each.id for each in taken}
                taken.clear()
            assert await store.count() == len(store) == len(waiting) + len(claimed)
        assert {*ids(await store.claim(clock.add(10), 1000))} == waiting

    asyncio.run(work())


# Loops


@dataclass
class Deliveries:
    """Whoever is delivered to, and waits for it."""

    events: list[Event] = field(default_factory=list[Event])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    look: Callable[[], object] = lambda: None

    def __call__(self, event: Event) -> None:
        self.look()
        self.events.append(event)
        self.arrived.set()


async def test_an_event_arrives_at_its_time_on_a_clock_that_really_runs() -> None:
    deliveries = Deliveries()
    scheduler = Scheduler(deliveries)
    scheduler.start(asyncio.get_running_loop())
    waiting = [plan(Due(), after=seconds) for seconds in (0.06, 0.02, 0.04, 0)]
    for each in waiting:
        await scheduler.hold(each)
    for each in sorted(waiting, key=lambda each: each.due):
        await deliveries.arrived.wait()
        deliveries.arrived.clear()
        assert deliveries.events[-1] is each.event
        assert timedelta() <= utc_now() - each.due < timedelta(seconds=1)
    await scheduler.stop()


async def test_an_event_is_not_delivered_in_the_context_of_whoever_held_it() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")
    seen: list[str] = []
    deliveries = Deliveries(look=lambda: seen.append(variable.get()))
    scheduler = Scheduler(deliveries)
    variable.set("that of the publisher")
    scheduler.start(asyncio.get_running_loop())
    await scheduler.hold(plan(Due(), after=0))
    await deliveries.arrived.wait()
    assert seen == ["none"]
    await scheduler.stop()


async def test_the_list_is_of_memory_and_database_together() -> None:
    store = MemoryScheduleStore()
    scheduler = Scheduler(Deliveries(), store)
    first, second = plan(Due(), after=10), plan(Due(), after=20)
    await scheduler.hold(second)
    await scheduler._memory.add([first])
    assert await scheduler.list() == [first, second]
    assert await scheduler.list(limit=1) == [first]
    assert await scheduler.list(session_id=SessionID("other")) == []
    assert await scheduler.count() == 2
    assert await scheduler.cancel([first.id, second.id, "unknown"]) == 2
    assert await scheduler.count() == 0


@pytest.fixture
def loops() -> Iterator[tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]]:
    both = asyncio.new_event_loop(), asyncio.new_event_loop()
    yield both
    for loop in both:
        loop.close()


def test_what_was_under_way_on_a_loop_that_is_gone_is_delivered_on_the_next(
    loops: tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop],
) -> None:
    first, second = loops
    events: list[Event] = []
    forever: list[asyncio.Future[None]] = []

    def deliver(event: Event) -> asyncio.Future[None] | None:
        events.append(event)
        if len(events) > 1:
            return None
        forever.append(asyncio.get_running_loop().create_future())
        return forever[0]

    scheduler = Scheduler(deliver, MemoryScheduleStore())

    async def until(number: int) -> None:
        scheduler.start(asyncio.get_running_loop())
        while len(events) < number:  # noqa: ASYNC110  # an event would belong to one of the loops
            await asyncio.sleep(0)

    first.run_until_complete(scheduler.hold(plan(Due(), after=0)))
    first.run_until_complete(until(1))
    tasks = asyncio.all_tasks(first)
    for task in tasks:
        task.cancel()
    first.run_until_complete(asyncio.wait(tasks))
    first.close()
    second.run_until_complete(until(2))
    assert events[0] is events[1]
    assert second.run_until_complete(scheduler.stop()).lost == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_delivers_nothing_of_its_parent_and_can_start_anew(
    loops: tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop],
) -> None:
    parents, childs = loops
    deliveries = Deliveries()
    scheduler = Scheduler(deliveries)

    async def hold(seconds: float) -> Held:
        scheduler.start(asyncio.get_running_loop())
        await scheduler.hold(waiting := plan(Due(), after=seconds))
        return waiting

    async def arrival(waiting: Held) -> None:
        await asyncio.wait_for(deliveries.arrived.wait(), 10)
        assert deliveries.events == [waiting.event]

    waiting = parents.run_until_complete(hold(0.02))
    child = os.fork()
    if not child:
        status = 1
        try:
            scheduler.after_fork()
            childs.run_until_complete(arrival(childs.run_until_complete(hold(0.05))))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    parents.run_until_complete(arrival(waiting))
    parents.run_until_complete(scheduler.stop())
