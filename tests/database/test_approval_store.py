"""Requests for approval, in memory and in databases: answered once, used once, in time, for exactly that call."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llmgine.bus.approval_records import ApprovalRecord, ApprovalState, ApprovalStore
from llmgine.database.stores import Database
from llmgine.errors import ApprovalAnswerError, ApprovalError
from llmgine.llm.approvals.memory import MemoryApprovalStore
from llmgine.messages import SessionID

from .conftest import NOON, Clock, Place, made

A, B = SessionID("a"), SessionID("b")
SEATS: dict[str, Any] = {
    "type": "object",
    "properties": {"seats": {"type": "integer", "minimum": 1}, "name": {"type": "string"}},
    "required": ["seats"],
}
ANSWER = {"seats": 2, "name": "\ud83d\0"}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[ApprovalStore]:
    if request.param == "memory":
        yield MemoryApprovalStore(clock=clock)
        return
    with made(request.param, request, clock) as place:
        database = place.open()
        yield database.approvals
        await database.aclose()


def request_of(name: str, digest: str = "d", **facts: Any) -> ApprovalRecord:
    facts = {"session_id": A, "expires_at": NOON + timedelta(seconds=60), **facts}
    return ApprovalRecord(id=name, digest=digest, tool="pay", requested_at=NOON, **facts)


def names(records: list[ApprovalRecord]) -> list[str]:
    return [record.id for record in records]


async def test_what_is_kept_comes_back_as_it_was(store: ApprovalStore) -> None:
    arguments = {"to": "bob", "amount": 9.5, "tags": ["x", None], "deep": {"half": "\ud83d", "nul": "\0"}}
    record = request_of(
        "1",
        arguments=arguments,
        run_id="r",
        call_key="k",
        approver="ada",
        note="again?",
        url="https://example.com/?a=\N{SNOWMAN}",
        answer_schema=SEATS,
    )
    await store.add(record)

    assert await store.get("1") == record
    assert await store.get("2") is None
    approved = await store.decide("1", approve=True, decided_by="ada", reason="fine", answer=ANSWER)
    assert approved == replace(
        record, state=ApprovalState.APPROVED, decided_at=NOON, decided_by="ada", reason="fine", answer=ANSWER
    )
    assert await store.consume("1", "d") == replace(approved, state=ApprovalState.USED, used_at=NOON)
    assert (await store.list())[0].state is ApprovalState.USED


async def test_an_approval_that_does_not_say_what_it_has_to_is_none_and_leaves_the_request_open(
    store: ApprovalStore,
) -> None:
    await store.add(request_of("1", answer_schema=SEATS))
    await store.add(request_of("plain"))
    wrong: list[tuple[str, Any, set[str]]] = [
        ("1", {"seats": 0}, {"seats"}),
        ("1", {"seats": "2", "window": True}, {"seats", "window"}),
        ("1", {}, {"seats"}),
        ("1", [2], {""}),
        ("1", "seats", {""}),
        ("plain", {"seats": 2}, {"seats"}),
    ]
    for name, answer, fields in wrong:
        with pytest.raises(ApprovalAnswerError, match="stays open") as caught:
            await store.decide(name, approve=True, answer=answer)
        assert caught.value.approval_id == name
        assert caught.value.problems.keys() == fields
    assert names(await store.pending()) == ["1", "plain"]
    with pytest.raises(ApprovalError, match="it is pending"):
        await store.consume("1", "d")

    assert (await store.decide("1", approve=True, answer={"seats": 3})).answer == {"seats": 3}
    assert (await store.decide("plain", approve=True, answer={})).answer is None
    with pytest.raises(ApprovalError, match="it is approved"):  # which matters more than that the answer is wrong
        await store.decide("1", approve=True, answer={"seats": 0})
    assert (await store.consume("1", "d")).answer == {"seats": 3}


async def test_without_an_answer_the_defaults_are_taken_and_a_no_says_nothing(store: ApprovalStore) -> None:
    schema = {**SEATS, "properties": {"seats": {"type": "integer", "default": 2}, "name": {"type": "string"}}}
    for name in "123":
        await store.add(request_of(name, answer_schema=schema))

    assert (await store.decide("1", approve=True)).answer == {"seats": 2}
    assert (await store.decide("2", approve=True, answer={"seats": 1, "name": "x"})).answer == {"seats": 1, "name": "x"}
    denied = await store.decide("3", approve=False, answer={"seats": "nonsense"})
    assert (denied.state, denied.answer) == (ApprovalState.DENIED, None)


async def test_a_second_answer_is_refused_and_changes_nothing(store: ApprovalStore) -> None:
    await store.add(request_of("1"))
    await store.decide("1", approve=False, decided_by="ada", reason="no")

    for approve in (True, False):
        with pytest.raises(ApprovalError, match="it is denied by ada") as caught:
            await store.decide("1", approve=approve)
        assert caught.value.approval_id == "1"
    with pytest.raises(ApprovalError, match="cannot be used: it is denied"):
        await store.consume("1", "d")
    found = await store.get("1")
    assert found is not None
    assert (found.state, found.reason) == (ApprovalState.DENIED, "no")


async def test_an_approval_is_used_once_and_only_for_its_call(store: ApprovalStore) -> None:
    await store.add(request_of("1"))
    with pytest.raises(ApprovalError, match="it is pending"):
        await store.consume("1", "d")
    await store.decide("1", approve=True)
    with pytest.raises(ApprovalError, match="another call"):
        await store.consume("1", "e")

    assert (await store.consume("1", "d")).state is ApprovalState.USED  # the wrong one has not used it up
    with pytest.raises(ApprovalError, match="it is used"):
        await store.consume("1", "d")
    with pytest.raises(ApprovalError, match="no request for approval 2"):
        await store.consume("2", "d")


async def test_what_has_expired_is_neither_answered_nor_used_nor_found(store: ApprovalStore, clock: Clock) -> None:
    for name in ("late", "unused", "ever"):
        await store.add(request_of(name, expires_at=None if name == "ever" else NOON + timedelta(seconds=60)))
    await store.decide("unused", approve=True)
    clock.advance(59.999999)
    assert names(await store.pending()) == ["late", "ever"]
    usable = await store.usable("d", A)
    assert usable is not None

    clock.advance(0.000001)
    assert names(await store.pending()) == ["ever"]
    assert await store.usable("d", A) is None
    assert [record.state for record in await store.list()] == ["expired", "expired", "pending"]
    with pytest.raises(ApprovalError, match="cannot be approved: it is expired"):
        await store.decide("late", approve=True)
    with pytest.raises(ApprovalError, match="cannot be used: it is expired"):
        await store.consume("unused", "d")
    assert (await store.decide("ever", approve=True)).state is ApprovalState.APPROVED


async def test_a_request_that_has_ended_stays_ended_also_if_the_clock_is_set_back(
    store: ApprovalStore, clock: Clock
) -> None:
    for name in ("late", "withdrawn", "approved"):
        await store.add(request_of(name))
    await store.decide("approved", approve=True)
    assert (await store.end("withdrawn", ApprovalState.WITHDRAWN)).state is ApprovalState.WITHDRAWN
    assert (await store.end("approved", ApprovalState.WITHDRAWN)).state is ApprovalState.APPROVED  # which came first
    clock.advance(60)
    assert (await store.end("late", ApprovalState.EXPIRED)).state is ApprovalState.EXPIRED
    clock.advance(-60)

    for name in ("late", "withdrawn"):
        with pytest.raises(ApprovalError, match=f"it is {'expired' if name == 'late' else 'withdrawn'}"):
            await store.decide(name, approve=True)
    with pytest.raises(ApprovalError, match="no request"):
        await store.end("nobody", ApprovalState.EXPIRED)


async def test_requests_are_found_by_session_by_call_and_by_what_they_let_through(store: ApprovalStore) -> None:
    for name, digest, session, key in [("1", "d", A, "k"), ("2", "d", B, "k"), ("3", "e", A, "l"), ("4", "d", A, "")]:
        await store.add(request_of(name, digest, session_id=session, call_key=key))
    assert names(await store.pending()) == ["1", "2", "3", "4"]
    assert names(await store.pending(A)) == ["1", "3", "4"]
    assert names(await store.list(B)) == ["2"]
    latest = await store.latest("k")
    assert latest is not None
    assert latest.id == "2"
    assert await store.latest("m") is None

    assert await store.usable("d", A) is None
    for name in ("2", "3", "4", "1"):
        await store.decide(name, approve=True)
    found = []
    while (record := await store.usable("d", A)) is not None:
        found.append(record.id)
        await store.consume(record.id, "d")
    assert found == ["1", "4"]


async def test_of_all_who_answer_or_use_at_once_one_succeeds(opened: Callable[[], Database], place: Place) -> None:
    stores = [opened().approvals for _ in range(4)]
    await stores[0].add(request_of("1"))
    answers = [each.decide("1", approve=bool(n % 2), decided_by=str(n)) for n, each in enumerate(stores * 3)]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert len([each for each in outcomes if isinstance(each, ApprovalRecord)]) == 1

    await stores[0].add(request_of("2"))
    await stores[1].decide("2", approve=True)
    uses = await asyncio.gather(*(each.consume("2", "d") for each in stores * 3), return_exceptions=True)
    assert len([each for each in uses if isinstance(each, ApprovalRecord)]) == 1
    assert all(isinstance(each, ApprovalRecord | ApprovalError) for each in uses)
    assert place.execute("SELECT count(*) FROM {approvals} WHERE state = 'used'") == [(1,)]


USE = """
import asyncio, sys
from llmgine.database.stores import Database
from llmgine.errors import ApprovalError

async def main():
    database = Database(sys.argv[1], sys.argv[2])
    await database.approvals.get("0")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(20):
        try:
            await database.approvals.consume(str(number), "d")
        except ApprovalError:
            continue
        print(number)
    await database.aclose()

asyncio.run(main())
"""


async def test_of_two_processes_one_uses_an_approval(place: Place, database: Database) -> None:
    for number in range(20):
        await database.approvals.add(request_of(str(number), expires_at=None))
        await database.approvals.decide(str(number), approve=True)
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", USE, place.url, place.schema, stdin=pipe, stdout=pipe
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    used = [int(line) for out, _ in outputs for line in out.split()]
    assert sorted(used) == list(range(20))


DAMAGE = [
    "state = 'Approved'",
    "state = ''",
    "arguments = '{'",
    "arguments = '[]'",
    "answer_schema = '[]'",
    "answer_schema = '{}'",
    "answer = '2'",
    f"expires_at = {2**62}",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_makes_no_sense_is_listed_and_permits_nothing(
    place: Place, database: Database, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = database.approvals
    for name in ("bad", "good"):
        await store.add(request_of(name))
        await store.decide(name, approve=True)
    place.execute("UPDATE {approvals} SET", damage, "WHERE id = 'bad'")

    bad, good = await store.list()
    assert (bad.state, good.state) == (ApprovalState.UNREADABLE, ApprovalState.APPROVED)
    usable = await store.usable("d", A)
    assert usable is not None
    assert usable.id == "good"
    with pytest.raises(ApprovalError, match="makes no sense"):
        await store.consume("bad", "d")
    with pytest.raises(ApprovalError, match="makes no sense"):
        await store.decide("bad", approve=True)
    assert "makes no sense" in caplog.text
    assert database.stats()["outages"] == 0  # the database is not to blame


class Machine(RuleBasedStateMachine):
    """Any order of asking, answering, the passing of time, using, ending and crashing, against the law itself."""

    open_store: Callable[[Clock], ApprovalStore]

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.store = type(self).open_store(self.clock)
        self.asked: dict[str, tuple[str, float]] = {}
        """By id: the digest, and when it expires."""
        self.approved: set[str] = set()
        self.answered: set[str] = set()
        self.ran: list[str] = []

    def do(self, work: Any) -> bool:
        try:
            self.loop.run_until_complete(work)
        except ApprovalError:
            return False
        return True

    @property
    def now(self) -> float:
        return (self.clock.now - NOON).total_seconds()

    @rule(digest=st.sampled_from("de"), seconds=st.sampled_from([1, 10, 100]))
    def ask(self, digest: str, seconds: int) -> None:
        name = str(len(self.asked))
        self.asked[name] = digest, self.now + seconds
        record = request_of(name, digest, expires_at=self.clock.now + timedelta(seconds=seconds))
        assert self.do(self.store.add(replace(record, requested_at=self.clock.now)))

    @rule(number=st.integers(0, 5), approve=st.booleans())
    def answer(self, number: int, approve: bool) -> None:
        name = str(number)
        may = name in self.asked and name not in self.answered and self.now < self.asked[name][1]
        assert self.do(self.store.decide(name, approve=approve)) is may
        if may:
            self.answered.add(name)
            if approve:
                self.approved.add(name)

    @rule(number=st.integers(0, 5), digest=st.sampled_from("de"))
    def use(self, number: int, digest: str) -> None:
        name = str(number)
        may = name in self.approved and self.asked[name][0] == digest and self.now < self.asked[name][1]
        assert self.do(self.store.consume(name, digest)) is (may and name not in self.ran)
        if may and name not in self.ran:
            self.ran.append(name)

    @rule(digest=st.sampled_from("de"))
    def take_up(self, digest: str) -> None:
        record = self.loop.run_until_complete(self.store.usable(digest, A))
        unused = self.approved - set(self.ran)
        usable = [each for each in unused if self.asked[each][0] == digest and self.now < self.asked[each][1]]
        assert (None if record is None else record.id) == min(usable, key=int, default=None)
        if record is not None:
            self.use(int(record.id), digest)

    @rule(number=st.integers(0, 5), state=st.sampled_from([ApprovalState.EXPIRED, ApprovalState.WITHDRAWN]))
    def end(self, number: int, state: Any) -> None:
        assert self.do(self.store.end(str(number), state)) is (str(number) in self.asked)
        self.answered.add(str(number)) if str(number) in self.asked else None

    @rule(seconds=st.sampled_from([0.5, 1, 9, 50]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def crash(self) -> None:
        if isinstance(self.store, MemoryApprovalStore):
            return
        self.store = type(self).open_store(self.clock)

    @invariant()
    def pending_are_those_that_can_be_answered(self) -> None:
        if not hasattr(self, "store"):
            return
        pending = self.loop.run_until_complete(self.store.pending())
        open_ = [name for name in self.asked if name not in self.answered and self.now < self.asked[name][1]]
        assert names(pending) == open_
        assert len(self.ran) == len(set(self.ran))

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_no_call_runs_without_exactly_one_approval_of_its_own(kind: str, tmp_path: Path) -> None:
    databases: list[Database] = []
    stores: list[Clock] = []

    def open_store(clock: Clock) -> ApprovalStore:
        if kind == "memory":
            return MemoryApprovalStore(clock=clock)
        if clock not in [each for each in stores if each is clock]:
            stores.append(clock)
        databases.append(Database(f"sqlite:///{tmp_path / 'bus.db'}", f"s{len(stores)}", clock=clock))
        return databases[-1].approvals

    machine = cast("Any", type("OfKind", (Machine,), {"open_store": staticmethod(open_store)}))
    few = settings(
        max_examples=100 if kind == "memory" else 8,
        stateful_step_count=30,
        suppress_health_check=[HealthCheck.too_slow],
    )
    try:
        run_state_machine_as_test(machine, settings=few)
    finally:
        for database in databases:
            database.close()
