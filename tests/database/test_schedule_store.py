"""Scheduled events: what every store promises, in memory and in databases, and what only a database can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus.memory_schedule import MemoryScheduleStore
from llmgine.bus.recurrence import Every
from llmgine.bus.stores import Claim, Held, Misfire, ScheduleStore
from llmgine.cron import Cron
from llmgine.database.stores import Database
from llmgine.errors import CodecError, ConfigurationError
from llmgine.messages import SessionID
from llmgine.messages.scheduled_events import ScheduledEvent

from .conftest import NOON, Clock, Place, made


@dataclass
class Reminder(ScheduledEvent):
    text: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def held(id_: str, seconds: float = 0, session: str = "BUS", **options: Any) -> Held:
    event = Reminder(event_id=id_, text=f"for {id_}", scheduled_time=at(seconds), session_id=SessionID(session))
    return Held.of(event, at(seconds), **options)


def ids(claims: list[Claim]) -> list[str]:
    return [claim.held.id for claim in claims]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[ScheduleStore]:
    if request.param == "memory":
        yield MemoryScheduleStore(clock=clock)
        return
    with made(request.param, request, clock) as place:
        database = place.open()
        yield database.schedule
        await database.aclose()


class TestEveryStore:
    async def test_events_are_claimed_when_they_are_due_the_earliest_first(self, store: ScheduleStore) -> None:
        await store.add([held("c", 3), held("a", 1), held("b", 2), held("later", 100)])

        assert await store.claim(at(0.999999), 10) == []
        assert ids(await store.claim(at(2), 1)) == ["a"]
        assert ids(await store.claim(at(50), 10)) == ["b", "c"]
        assert await store.next_time() == at(62)  # when the lease of the first ends

    async def test_what_is_claimed_is_what_was_added(self, store: ScheduleStore) -> None:
        notes = {"snow": "\N{SNOWMAN}", "when": at(5), "list": [1, 2.5, None]}
        event = Reminder(text="x", notes=notes, scheduled_time=at(1), session_id=SessionID("s"), metadata={"k": "v"})
        recurrence = Every(30, at(1))
        await store.add([Held.of(event, at(1), recurrence, Misfire.ALL)])

        (claim,) = await store.claim(at(1), 1)
        assert claim.held.event == event
        assert claim.held == Held(
            event.event_id, event, at(1), recurrence, Misfire.ALL, None, "Reminder", SessionID("s")
        )

    async def test_those_that_are_due_together_keep_their_order(self, store: ScheduleStore) -> None:
        names = [f"{n * 7 % 10}" for n in range(10)]
        await store.add([held(name) for name in names[:5]])
        for name in names[5:]:
            await store.add([held(name)])

        assert ids(await store.claim(at(0), 20)) == names
        assert [each.id for each in await store.list()] == names

    async def test_a_claimed_event_is_nobody_elses_until_the_lease_ends(
        self, store: ScheduleStore, clock: Clock
    ) -> None:
        await store.add([held("a")])
        (claim,) = await store.claim(clock(), 10)
        assert await store.claim(at(59.9), 10) == []
        assert await store.next_time() == at(60)

        (again,) = await store.claim(at(60), 10)
        assert again.held == claim.held
        assert again.token != claim.token

    async def test_who_has_lost_the_lease_changes_nothing(self, store: ScheduleStore, clock: Clock) -> None:
        await store.add([held("a"), held("b"), held("c", recurrence=Every(10, at(0)))])
        late = await store.claim(clock(), 10)
        others = await store.claim(clock.advance(60), 10)
        clock.advance(50)

        await store.settle(late, clock())
        await store.release(late)
        await store.renew(late)
        assert await store.count() == 3
        assert await store.claim(at(119), 10) == []
        assert await store.next_time() == at(120)

        await store.settle(others, clock())
        assert [(each.id, each.due) for each in await store.list()] == [("c", at(120))]

    async def test_a_renewed_lease_begins_anew(self, store: ScheduleStore, clock: Clock) -> None:
        await store.add([held("a")])
        claims = await store.claim(clock(), 10)
        clock.advance(50)
        await store.renew(claims)

        assert await store.claim(at(109), 10) == []
        await store.settle(claims, clock())
        assert await store.count() == 0

    async def test_what_is_released_is_due_at_once(self, store: ScheduleStore, clock: Clock) -> None:
        await store.add([held("a", -5)])
        claims = await store.claim(clock(), 10)
        await store.release(claims)

        assert await store.next_time() == at(-5)
        await store.settle(claims, clock())  # which they no longer are
        assert ids(await store.claim(clock(), 10)) == ["a"]

    @pytest.mark.parametrize(("misfire", "due"), [(Misfire.ONCE, 40), (Misfire.SKIP, 40), (Misfire.ALL, 10)], ids=str)
    async def test_what_repeats_is_held_again(self, store: ScheduleStore, misfire: Misfire, due: float) -> None:
        await store.add([held("a", recurrence=Every(10, at(0)), misfire=misfire)])
        claims = await store.claim(at(35), 10)
        await store.settle(claims, at(35))
        assert await store.next_time() == at(due)

        await store.settle(claims, at(35))  # told twice, it is done once
        assert await store.next_time() == at(due)

    async def test_a_clock_that_is_set_back_repeats_no_occurrence(self, store: ScheduleStore) -> None:
        await store.add([held("a", recurrence=Cron("0 9 * * *", "Europe/Berlin"))])
        claims = await store.claim(at(0), 10)
        await store.settle(claims, at(-1_000_000))

        assert await store.next_time() == datetime(2030, 1, 2, 8, tzinfo=UTC)

    async def test_one_with_the_id_of_another_takes_its_place(self, store: ScheduleStore, clock: Clock) -> None:
        await store.add([held("a", 0)])
        claims = await store.claim(clock(), 1)
        await store.add([held("a", 100, session="other")])
        await store.settle(claims, clock())  # of the one that is no more

        assert [(each.due, each.session_id) for each in await store.list()] == [(at(100), "other")]
        assert await store.next_time() == at(100)

    async def test_what_is_not_being_delivered_can_be_cancelled(self, store: ScheduleStore, clock: Clock) -> None:
        await store.add([held("now"), held("later", 100), held("other", 200)])
        claims = await store.claim(clock(), 10)

        assert await store.cancel(["now", "later", "later", "nobody"]) == 1
        await store.settle(claims, clock())
        assert [each.id for each in await store.list()] == ["other"]

    async def test_whoever_crashed_is_delivering_nothing(self, store: ScheduleStore, clock: Clock) -> None:
        await store.add([held("a")])
        await store.claim(clock(), 10)
        clock.advance(60)

        assert await store.cancel(["a"]) == 1

    async def test_a_list_is_in_the_order_of_delivery(self, store: ScheduleStore) -> None:
        await store.add([held("c", 3, "s"), held("a", 1, "s"), held("b", 2, "t")])
        assert [each.id for each in await store.list()] == ["a", "b", "c"]
        assert [each.id for each in await store.list(session_id=SessionID("s"))] == ["a", "c"]
        assert [each.id for each in await store.list(limit=2)] == ["a", "b"]
        assert await store.count() == 3

    async def test_an_empty_store_is_empty(self, store: ScheduleStore) -> None:
        await store.add([])
        assert await store.next_time() is None
        assert await store.claim(at(0), 10) == []
        assert await store.list() == []
        assert await store.cancel([]) == 0
        await store.settle([], at(0))

    async def test_the_first_and_the_last_day_are_days_like_others(self, store: ScheduleStore) -> None:
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        event = Reminder(event_id="never")
        await store.add([Held.of(event, last), Held.of(Reminder(event_id="long ago"), first)])

        (claim,) = await store.claim(at(0), 10)
        assert (claim.held.id, claim.held.due) == ("long ago", first)
        await store.settle([claim], at(0))
        assert await store.next_time() == last

    async def test_those_who_claim_at_once_share_the_events(self, store: ScheduleStore) -> None:
        await store.add([held(f"{n}") for n in range(60)])
        claims = await asyncio.gather(*(store.claim(at(0), 10) for _ in range(10)))

        assert sorted(each for some in claims for each in ids(some)) == sorted(f"{n}" for n in range(60))


_OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 5), st.integers(-50, 50), st.sampled_from([None, 7, 45])),
    st.tuples(st.sampled_from(["claim", "advance"]), st.integers(1, 40)),
    st.tuples(st.sampled_from(["settle", "release", "renew"]), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
)


@settings(max_examples=60)
@given(st.lists(_OPERATIONS, max_size=25))
def test_a_database_does_what_the_memory_does(operations: list[Any]) -> None:
    async def both() -> None:
        clock = Clock()
        database = Database("sqlite://", clock=clock)
        stores: list[ScheduleStore] = [MemoryScheduleStore(clock=clock), database.schedule]
        rounds: list[list[list[Claim]]] = []
        try:
            for operation in operations:
                match operation:
                    case "add", number, seconds, every:
                        recurrence = None if every is None else Every(every, at(0))
                        for store in stores:
                            await store.add([held(f"{number}", seconds, recurrence=recurrence)])
                    case "claim", _:
                        rounds.append([await store.claim(clock(), 100) for store in stores])
                        assert sorted(ids(rounds[-1][0])) == sorted(ids(rounds[-1][1]))
                    case "advance", seconds:
                        clock.advance(seconds)
                    case "settle" | "release" | "renew" as name, number if number < len(rounds):
                        now = (clock(),) if name == "settle" else ()
                        for store, claims in zip(stores, rounds[number], strict=True):
                            await getattr(store, name)(claims, *now)
                    case "cancel", number:
                        assert len({await store.cancel([f"{number}"]) for store in stores}) == 1
                    case _:
                        pass
                assert await stores[0].next_time() == await stores[1].next_time()
                kept = [{(each.id, each.due) for each in await store.list()} for store in stores]
                assert kept[0] == kept[1]
        finally:
            await database.aclose()

    asyncio.run(both())


async def test_what_was_added_is_there_for_the_next_process(opened: Callable[[], Database]) -> None:
    first = opened()
    await first.schedule.add([held("a")])
    await first.aclose()

    assert ids(await opened().schedule.claim(at(0), 10)) == ["a"]


async def test_what_cannot_be_stored_is_refused_and_nothing_is_half_done(database: Database) -> None:
    bad = Held.of(Reminder(notes={"x": object()}), at(0))
    with pytest.raises(CodecError, match="notes"):
        await database.schedule.add([held("a"), bad])
    assert await database.schedule.count() == 0


BROKEN = {
    "unknown class": "type_name = 'gone:Gone'",
    "broken JSON": "payload = '{'",
    "no object": "payload = '[]'",
    "another version": "version = 99",
    "no recurrence": "recurrence = 'when the moon is full'",
    "no misfire": "misfire = 'perhaps'",
    "no event": "type_name = 'llmgine.messages.commands:Command'",
    "an impossible date": f"due_at = {2**62}",
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
async def test_a_row_that_cannot_be_read_is_kept_and_holds_nobody_up(
    place: Place, database: Database, opened: Callable[[], Database], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    original = held("bad")
    await database.schedule.add([original, held("good", 1), held("better", 2)])
    whole = place.execute("SELECT * FROM {scheduled_events} WHERE id = 'bad'")[0]
    place.execute("UPDATE {scheduled_events} SET", damage, "WHERE id = 'bad'")

    with caplog.at_level(logging.ERROR, "llmgine.database"):
        assert ids(await database.schedule.claim(at(5), 1)) == ["good"]
        assert ids(await database.schedule.claim(at(5), 10)) == ["better"]
        assert await database.schedule.claim(at(64), 10) == []
        assert await database.schedule.claim(at(200), 1) != []  # those whose leases have ended
    assert len([each for each in caplog.records if "bad" in each.getMessage()]) == 1

    (bad,) = [each for each in await database.schedule.list() if each.id == "bad"]
    assert bad.event is None
    assert bad.error
    assert bad.event_type == "Reminder"
    assert place.execute("SELECT failures FROM {scheduled_events} WHERE id = 'bad'") == [(2,)]

    # A version of the program that knows better gets its chance at once.
    columns = ("type_name", "version", "payload", "recurrence", "misfire", "due_at")
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    values = {name: getattr(whole, name) for name in columns}
    place.execute("UPDATE {scheduled_events} SET", assignments, "WHERE id = 'bad'", **values)
    again = opened().schedule
    assert await again.next_time() == at(0)
    (claim,) = await again.claim(at(5), 10)
    assert claim.held == original
    await again.settle([claim], at(5))
    assert "bad" not in {each.id for each in await again.list()}


async def test_however_many_cannot_be_read_the_others_are_found(place: Place, database: Database) -> None:
    await database.schedule.add([*(held(f"{n}") for n in range(30)), held("good", 1)])
    place.execute("UPDATE {scheduled_events} SET payload = '' WHERE id <> 'good'")

    assert ids(await database.schedule.claim(at(5), 3)) == ["good"]
    assert await database.schedule.count() == 31
    assert await database.schedule.next_time() == at(65)


async def test_whatever_text_an_id_is_made_of_it_is_stored(database: Database) -> None:
    odd = [
        held("nul\0", 1),
        held("half \ud83d", 2),
        held("quote'\"; --", 3, session="s\0"),
        held("\N{SNOWMAN}" * 500, 4),
    ]
    await database.schedule.add(odd)

    assert len(await database.schedule.claim(at(9), 2)) == 2
    assert await database.schedule.cancel([each.id for each in odd]) == 2


@pytest.mark.parametrize("lease", [0, -1, float("nan"), float("inf"), "60"])
def test_a_lease_is_some_time(lease: Any) -> None:
    with pytest.raises(ConfigurationError, match="lease"):
        Database("sqlite://", lease=lease)
