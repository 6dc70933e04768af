"""Tool calls that wait for somebody's word: from whom it comes, what it holds for, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from llmgine.bus import HandlerMiddleware, MessageBus, ResilientMessageBus
from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.database.stores import Database
from llmgine.errors import (
    ApprovalAnswerError,
    ApprovalError,
    ConfigurationError,
    HandlerAlreadyRegisteredError,
    StoreError,
)
from llmgine.llm.approvals import (
    Approvals,
    DecideApprovalCommand,
    MemoryApprovalStore,
    ToolApprovalAnswerEvent,
    ToolApprovalCommand,
    ToolApprovalEndedEvent,
    ToolApprovalEvent,
    ToolApprovalRequestedEvent,
    needs_approval,
)
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.messages import ApprovalCommand, ApprovalResult, Command, Event, SessionID
from llmgine.messages.approvals import ApprovalAcceptedEvent, ApprovalRequestEvent, ApprovalStatus
from llmgine.observability.serialize import to_line

A = SessionID("a")
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Bank:
    """A tool with an effect, and what it has done."""

    paid: list[int] = field(default_factory=list)

    def pay(self, amount: int, to: str = "bob") -> None:
        """Pay somebody."""
        self.paid.append(amount)

    def prepared(self, amount: int = 5, **options: Any) -> PreparedCall:
        tool = Tool.from_function(self.pay, **options)
        return PreparedCall.of(ToolCall("1", name="pay"), tool, {"amount": amount})

    async def run(self, approvals: Approvals, amount: int = 5, key: str = "", session: SessionID = A) -> str:
        """Do what an engine does."""
        prepared = self.prepared(amount)
        context = ToolContext(session_id=session, run_id="r", idempotency_key=key)
        async with asyncio.timeout(10):  # so that what is never answered does not hold up the tests
            refused = await approvals.check(prepared, context)
        if refused is not None:
            return refused
        await prepared.tool.call(prepared.arguments)
        return "paid"


@dataclass
class Seen:
    """What was said about approvals, and a way to wait for it."""

    events: list[Event] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, event: Event) -> None:
        async with self.arrived:
            self.events.append(event)
            self.arrived.notify_all()

    async def requests(self, count: int = 1) -> list[ToolApprovalRequestedEvent]:
        def asked() -> list[ToolApprovalRequestedEvent]:
            return [event for event in self.events if isinstance(event, ToolApprovalRequestedEvent)]

        async with self.arrived, asyncio.timeout(10):
            await self.arrived.wait_for(lambda: len(asked()) >= count)
        return asked()

    @property
    def ends(self) -> list[tuple[str, str]]:
        return [(e.approval_id, e.outcome.value) for e in self.events if isinstance(e, ToolApprovalEndedEvent)]


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def seen(bus: MessageBus) -> Seen:
    seen = Seen()
    bus.register_event_handler(ToolApprovalEvent, seen)
    return seen


@pytest.fixture
def approvals(bus: MessageBus) -> Approvals:
    return Approvals(bus)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Callable[[], Database]]:
    """Opens a database, once more with each call, as another process would."""
    databases: list[Database] = []

    def again() -> Database:
        databases.append(Database(f"sqlite:///{tmp_path / 'bus.db'}"))
        return databases[-1]

    yield again
    for database in databases:
        await database.aclose()


async def by_command(bus: MessageBus, approvals: Approvals, request: ToolApprovalRequestedEvent, approve: bool) -> None:
    command = DecideApprovalCommand(request.approval_id, approve, reason="so be it", decided_by="ada")
    (await bus.execute(command)).unwrap()


async def by_event(bus: MessageBus, approvals: Approvals, request: ToolApprovalRequestedEvent, approve: bool) -> None:
    event = ToolApprovalAnswerEvent(approval_id=request.approval_id, approve=approve, reason="so be it")
    await bus.publish(event)


async def by_call(bus: MessageBus, approvals: Approvals, request: ToolApprovalRequestedEvent, approve: bool) -> None:
    await approvals.decide(request.approval_id, approve=approve, reason="so be it")


@pytest.mark.parametrize("answer", [by_command, by_event, by_call])
@pytest.mark.parametrize("approve", [True, False])
async def test_a_call_runs_when_it_is_approved_and_only_then(
    bus: MessageBus, approvals: Approvals, seen: Seen, answer: Any, approve: bool
) -> None:
    bank = Bank()
    run = asyncio.create_task(bank.run(approvals))
    (request,) = await seen.requests()
    assert (request.tool_name, request.arguments, request.run_id) == ("pay", {"amount": 5, "to": "bob"}, "r")
    assert request.session_id == A
    assert bank.paid == []
    await answer(bus, approvals, request, approve)

    assert await run == ("paid" if approve else "Error: the call of pay was denied: so be it")
    assert bank.paid == ([5] if approve else [])
    assert seen.ends == [(request.approval_id, "approved" if approve else "denied")]
    (record,) = await approvals.store.list()
    assert record.state is (ApprovalState.USED if approve else ApprovalState.DENIED)


SEATS: dict[str, Any] = {
    "type": "object",
    "properties": {"seats": {"type": "integer", "minimum": 1}},
    "required": ["seats"],
}


async def ask_seats(approvals: Approvals) -> ApprovalRecord:
    async with asyncio.timeout(10):
        return await approvals.ask("book", {"to": "Graz"}, session_id=A, url="https://b.example", answer_schema=SEATS)


async def test_an_approval_says_what_is_asked_for_and_a_wrong_answer_is_told_to_who_gave_it(
    bus: MessageBus, approvals: Approvals, seen: Seen
) -> None:
    asked = asyncio.create_task(ask_seats(approvals))
    (request,) = await seen.requests()
    assert (request.answer_schema, request.url) == (SEATS, "https://b.example")

    wrong = await bus.execute(DecideApprovalCommand(request.approval_id, approve=True, answer={"seats": 0}))
    assert isinstance(wrong.exception, ApprovalAnswerError)
    assert wrong.exception.problems == {"seats": "expected a whole number, at least 1"}
    bus.unsuppress_event_errors()
    with pytest.raises(ApprovalAnswerError, match="seats: is missing"):
        await bus.publish(ToolApprovalAnswerEvent(approval_id=request.approval_id, approve=True))
    nonsense: Any = "seats"
    with pytest.raises(ApprovalAnswerError, match="expected a JSON object"):
        await approvals.decide(request.approval_id, approve=True, answer=nonsense)
    assert not asked.done()

    right = ToolApprovalAnswerEvent(approval_id=request.approval_id, approve=True, answer={"seats": 2})
    await bus.publish(right)
    record = await asked
    assert (record.state, record.answer) == (ApprovalState.APPROVED, {"seats": 2})
    assert (await approvals.store.consume(record.id, record.digest)).answer == {"seats": 2}


async def test_what_is_asked_for_must_be_a_flat_form(approvals: Approvals) -> None:
    nested = {"type": "object", "properties": {"a": {"type": "object"}}}
    with pytest.raises(ConfigurationError, match="without anything nested"):
        await approvals.ask("book", {}, answer_schema=nested)
    assert await approvals.pending() == []


async def test_the_applications_handler_answers_with_its_result_and_if_that_is_wrong_others_may(
    bus: MessageBus, approvals: Approvals, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[Any] = [{"seats": 4}, {"seats": 0}, "four"]
    complained = asyncio.Event()

    def note(record: logging.LogRecord) -> bool:
        complained.set()
        return True

    caplog.handler.addFilter(note)

    async def answer(command: ToolApprovalCommand) -> ApprovalResult:
        assert command.answer_schema == SEATS
        assert command.url == "https://b.example"
        return ApprovalResult(True, results.pop(0), approval_status=ApprovalStatus.APPROVED)

    bus.register_command_handler(ToolApprovalCommand, answer)
    assert (await ask_seats(approvals)).answer == {"seats": 4}
    for _ in range(2):
        asked = asyncio.create_task(ask_seats(approvals))
        await asyncio.wait_for(complained.wait(), 10)
        complained.clear()
        (record,) = await approvals.pending()
        await approvals.decide(record.id, approve=True, answer={"seats": 1})
        assert (await asked).answer == {"seats": 1}
    assert caplog.text.count("has not said what it had to") == 2


def test_what_is_asked_and_answered_is_content_that_logs_may_leave_out() -> None:
    record = ApprovalRecord(
        id="1", digest="d", tool="t", requested_at=NOON, url="https://b.example/seats", answer_schema=SEATS
    )
    for message in (ToolApprovalRequestedEvent.of(record), ToolApprovalAnswerEvent(answer={"seats": 2})):
        assert b"seats" in to_line(message)
        assert b"seats" not in to_line(message, record_content=False)


async def test_a_request_is_kept_before_anybody_hears_of_it(bus: MessageBus, approvals: Approvals, bank: Bank) -> None:
    async def answer(event: ToolApprovalRequestedEvent) -> None:
        (record,) = await approvals.pending(A)
        assert record.id == event.approval_id
        await bus.execute(DecideApprovalCommand(record.id, approve=True))  # at once, in the handler

    bus.register_event_handler(ToolApprovalRequestedEvent, answer)
    bus.unsuppress_event_errors()
    assert await bank.run(approvals) == "paid"


async def test_parallel_calls_have_requests_of_their_own_and_are_answered_one_by_one(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    runs = [asyncio.create_task(bank.run(approvals)) for _ in range(3)]  # the very same call
    requests = await seen.requests(3)
    assert len({request.approval_id for request in requests}) == 3
    await by_command(bus, approvals, requests[1], approve=True)
    done, waiting = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)

    assert [run.result() for run in done] == ["paid"]
    assert len(waiting) == 2
    assert len(await approvals.pending(A)) == 2
    await by_command(bus, approvals, requests[0], approve=False)
    await by_command(bus, approvals, requests[2], approve=True)
    assert [(await run)[:5] for run in runs] == ["Error", "paid", "paid"]
    assert bank.paid == [5, 5]


async def test_what_comes_too_late_is_refused_and_the_wait_ends_without_it(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    record = await approvals.ask("pay", {"amount": 1}, session_id=A, expires_in=0.02)
    assert record.state is ApprovalState.EXPIRED
    late = await bus.execute(DecideApprovalCommand(record.id, approve=True))

    assert not late.success
    assert late.error is not None
    assert "cannot be approved: it is expired" in late.error
    assert seen.ends == [(record.id, "expired")]
    assert await approvals.decision_for(record.digest, A) is None


async def test_nobody_answers_twice_and_nonsense_is_no_approval(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    run = asyncio.create_task(bank.run(approvals))
    (request,) = await seen.requests()
    unknown = await bus.execute(DecideApprovalCommand("nobody", approve=True))
    truthy: Any = "no"
    await bus.execute(DecideApprovalCommand(request.approval_id, approve=truthy))
    again = await bus.execute(DecideApprovalCommand(request.approval_id, approve=True))

    assert (await run).startswith("Error: the call of pay was denied")
    assert isinstance(unknown.exception, ApprovalError)
    assert isinstance(again.exception, ApprovalError)
    assert bank.paid == []


async def test_an_approval_that_has_gone_stale_when_the_call_runs_is_worth_nothing(
    bus: MessageBus, bank: Bank, seen: Seen
) -> None:
    clock = Clock()

    class Slow(MemoryApprovalStore):
        async def consume(self, approval_id: str, digest: str) -> ApprovalRecord:
            clock.now += timedelta(seconds=61)  # the loop was busy
            return await super().consume(approval_id, digest)

    approvals = Approvals(bus, Slow(clock=clock), expires_in=60, clock=clock)
    run = asyncio.create_task(bank.run(approvals))
    await by_command(bus, approvals, (await seen.requests())[0], approve=True)

    assert "cannot be used: it is expired" in await run
    assert bank.paid == []


async def test_arguments_that_change_while_somebody_decides_are_not_what_was_approved(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    prepared = bank.prepared(5)
    check = asyncio.create_task(approvals.check(prepared, ToolContext(session_id=A)))
    (request,) = await seen.requests()
    prepared.arguments["amount"] = 5_000_000
    assert request.arguments["amount"] == 5
    await by_command(bus, approvals, request, approve=True)

    refused = await check
    assert refused is not None
    assert "given for another call" in refused


async def test_a_cancelled_wait_withdraws_its_request_and_says_so(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    run = asyncio.create_task(bank.run(approvals))
    (request,) = await seen.requests()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await bus.wait_for_events()

    assert seen.ends == [(request.approval_id, "withdrawn")]
    assert not (await bus.execute(DecideApprovalCommand(request.approval_id, approve=True))).success
    assert await approvals.pending() == []


@pytest.mark.parametrize("turns", range(8))
async def test_a_wait_may_be_cancelled_at_any_moment(
    bus: MessageBus, approvals: Approvals, bank: Bank, turns: int, recwarn: pytest.WarningsRecorder
) -> None:
    bus.register_command_handler(ToolApprovalCommand, lambda _: ApprovalResult(success=False))
    run = asyncio.create_task(bank.run(approvals))
    for _ in range(turns):
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    gc.collect()

    assert not recwarn.list
    assert await approvals.pending() == []
    assert {record.state for record in await approvals.store.list()} <= {ApprovalState.WITHDRAWN}


async def test_a_wait_that_is_cancelled_while_the_store_is_away_or_the_bus_has_stopped_is_cancelled(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(MemoryApprovalStore):
        async def end(self, approval_id: str, state: Any) -> ApprovalRecord:
            raise StoreError("away")

    for store in (Away(), MemoryApprovalStore()):
        bus = MessageBus.isolated()
        seen = Seen()
        bus.register_event_handler(ToolApprovalEvent, seen)
        await bus.start()
        run = asyncio.create_task(bank.run(Approvals(bus, store)))
        await seen.requests()
        await bus.stop()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert "may not have been withdrawn: away" in caplog.text


async def test_a_wait_that_is_cancelled_while_its_request_is_written_withdraws_it_too(
    bus: MessageBus, bank: Bank, opened: Callable[[], Database]
) -> None:
    store = opened().approvals
    approvals = Approvals(bus, store)
    run = asyncio.create_task(bank.run(approvals))
    await asyncio.sleep(0)  # it has begun, and waits for the database
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert [record.state for record in await store.list()] in ([], [ApprovalState.WITHDRAWN])


async def test_a_program_that_ends_leaves_its_requests_to_the_next(
    bus: MessageBus, seen: Seen, bank: Bank, opened: Callable[[], Database]
) -> None:
    first = Approvals(bus, opened().approvals)
    run = asyncio.create_task(bank.run(first, key="k"))
    (request,) = await seen.requests()
    first.close()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    second = Approvals(bus, opened().approvals)
    (pending,) = await second.pending(A)
    assert pending.id == request.approval_id
    await by_command(bus, second, request, approve=True)  # while nobody waits
    found = await second.decision_for(bank.prepared().digest, A)
    assert found is not None
    assert found.id == request.approval_id
    assert await bank.run(second, key="k") == "paid"  # with another context, and nobody is asked again
    assert len(await seen.requests()) == 1
    assert seen.ends == [(request.approval_id, "approved")]


async def test_a_prompt_that_is_taken_up_again_waits_for_the_same_request_and_hears_the_same_answer(
    bus: MessageBus, seen: Seen, bank: Bank, opened: Callable[[], Database]
) -> None:
    first = Approvals(bus, opened().approvals)
    run = asyncio.create_task(bank.run(first, key="k"))
    await seen.requests()
    first.close()
    run.cancel()
    await asyncio.wait([run])

    second = Approvals(bus, opened().approvals)
    again = asyncio.create_task(bank.run(second, key="k"))
    before, after = await seen.requests(2)
    assert before.approval_id == after.approval_id
    await by_command(bus, second, after, approve=False)
    denied = await again
    assert await bank.run(second, key="k") == denied  # not asked once more
    assert len(await seen.requests(2)) == 2
    assert bank.paid == []


async def test_a_call_that_was_let_through_is_asked_about_anew(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    run = asyncio.create_task(bank.run(approvals, key="k"))
    await by_command(bus, approvals, (await seen.requests())[0], approve=True)
    assert await run == "paid"  # and then the process dies before that is known

    again = asyncio.create_task(bank.run(approvals, key="k"))
    first, second = await seen.requests(2)
    assert first.approval_id != second.approval_id
    await by_command(bus, approvals, second, approve=False)
    assert (await again).startswith("Error")
    assert bank.paid == [5]


async def test_an_answer_is_for_its_call_alone_whatever_key_another_has(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    runs = [asyncio.create_task(bank.run(approvals, amount, key="k")) for amount in (5, 6)]
    small, large = await seen.requests(2)
    await by_command(bus, approvals, small, approve=True)
    await by_command(bus, approvals, large, approve=False)
    assert await runs[0] == "paid"
    assert (await runs[1]).startswith("Error")
    assert bank.paid == [small.arguments["amount"]]


async def test_an_answer_from_another_process_is_seen_by_looking(
    bus: MessageBus, seen: Seen, bank: Bank, opened: Callable[[], Database]
) -> None:
    approvals = Approvals(bus, opened().approvals, look_every=0.02)
    run = asyncio.create_task(bank.run(approvals))
    (request,) = await seen.requests()
    await opened().approvals.decide(request.approval_id, approve=True, decided_by="root")

    assert await run == "paid"
    assert seen.ends == [(request.approval_id, "approved")]


async def test_nothing_is_looked_at_when_nobody_waits_or_nobody_else_can_answer(bus: MessageBus, bank: Bank) -> None:
    looks = 0

    class Counting(MemoryApprovalStore):
        async def get(self, approval_id: str) -> ApprovalRecord | None:
            nonlocal looks
            looks += 1
            return await super().get(approval_id)

    wakeups = 0

    def clock() -> datetime:
        nonlocal wakeups
        wakeups += 1
        return datetime.now(UTC)

    approvals = Approvals(bus, Counting(), look_every=0.01, clock=clock)
    assert (await approvals.ask("pay", {}, expires_in=0.2)).state is ApprovalState.EXPIRED
    assert looks == 0
    assert wakeups < 8


async def test_a_store_that_is_away_for_a_while_ends_no_wait(bus: MessageBus, seen: Seen, bank: Bank) -> None:
    looks = 0

    class Flaky(MemoryApprovalStore):
        shared = True

        async def get(self, approval_id: str) -> ApprovalRecord | None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise StoreError("away")
            return await super().get(approval_id)

    store = Flaky()
    approvals = Approvals(bus, store, look_every=0.01)
    run = asyncio.create_task(bank.run(approvals))
    (request,) = await seen.requests()
    await store.decide(request.approval_id, approve=True)
    assert await run == "paid"
    assert looks >= 2


async def test_a_store_that_cannot_be_reached_lets_nothing_through(bus: MessageBus, bank: Bank) -> None:
    class Away(MemoryApprovalStore):
        async def add(self, record: ApprovalRecord) -> None:
            raise StoreError("The database is away")

    told = await bank.run(Approvals(bus, Away()))
    assert told == "Error: the call of pay was not run: it could not be approved (The database is away)"
    assert bank.paid == []


# The application's handler


Handler = Callable[[Any], Any]


def approve(command: ApprovalCommand) -> ApprovalResult:
    assert isinstance(command, ToolApprovalCommand)
    assert (command.tool_name, command.arguments) == ("pay", {"amount": 5, "to": "bob"})
    return ApprovalResult(success=True, approval_status=ApprovalStatus.APPROVED)


def deny(command: ApprovalCommand) -> bool:
    return False


def fail(command: ApprovalCommand) -> bool:
    raise PermissionError("who asks?")


HANDLERS: list[tuple[Handler, str]] = [
    (approve, "paid"),
    (deny, "Error: the call of pay was denied: Approval request denied"),
    (fail, "Error: the call of pay was denied: PermissionError: who asks?"),
]


@pytest.mark.parametrize(("handler", "told"), HANDLERS)
@pytest.mark.parametrize("kind", [ToolApprovalCommand, ApprovalCommand])
@pytest.mark.parametrize("bus_class", [MessageBus, ResilientMessageBus])
async def test_the_application_decides_by_a_handler_and_middleware_sees_it(
    bank: Bank, handler: Handler, told: str, kind: Any, bus_class: type[MessageBus]
) -> None:
    commands: list[str] = []

    class Watch(HandlerMiddleware):
        async def process_command(self, command: Command[Any], handler: Any, next_middleware: Any) -> Any:
            commands.append(type(command).__name__)
            return await next_middleware(command, handler)

    bus = bus_class.isolated()
    bus.add_command_middleware(Watch())
    bus.register_command_handler(kind, handler)
    heard: list[Event] = []
    bus.register_event_handler(ApprovalRequestEvent, heard.append)
    bus.register_event_handler(ApprovalAcceptedEvent, heard.append)
    await bus.start()
    assert await bank.run(Approvals(bus)) == told
    await bus.stop()

    assert commands == ["ToolApprovalCommand"]
    assert len(heard) == (2 if told == "paid" else 1)
    assert bank.paid == ([5] if told == "paid" else [])


async def test_a_handler_may_leave_the_decision_to_others_or_be_too_slow(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    cancelled = asyncio.Event()

    async def ponder(command: ToolApprovalCommand) -> ApprovalResult:
        if command.session_id == A:
            return ApprovalResult(success=False, approval_status=ApprovalStatus.PENDING)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    bus.register_command_handler(ToolApprovalCommand, ponder)
    runs = [asyncio.create_task(bank.run(approvals, session=session)) for session in (A, SessionID("b"))]
    for request in await seen.requests(2):
        await by_command(bus, approvals, request, approve=True)
    assert [await run for run in runs] == ["paid", "paid"]
    assert cancelled.is_set()


async def test_those_who_fail_to_hear_of_a_request_keep_nobody_from_answering(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    bus.unsuppress_event_errors()

    def broken(event: ToolApprovalRequestedEvent) -> None:
        raise ValueError("no screen")

    bus.register_event_handler(ToolApprovalRequestedEvent, broken)
    run = asyncio.create_task(bank.run(approvals))
    (request,) = await seen.requests()
    await bus.wait_for_events()
    await by_command(bus, approvals, request, approve=True)
    assert await run == "paid"
    assert "did not reach everybody" in caplog.text


async def test_a_prompt_within_an_event_handler_can_be_answered(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    """The session's order is held by the handler that waits: the request is heard all the same."""
    told: list[str] = []

    @dataclass
    class Spoke(Event):
        pass

    async def answer(event: Spoke) -> None:
        told.append(await bank.run(approvals))

    bus.register_event_handler(Spoke, answer)
    published = asyncio.create_task(bus.publish(Spoke(session_id=A)))
    (request,) = await seen.requests()
    await bus.publish(ToolApprovalAnswerEvent(approval_id=request.approval_id, approve=True))
    await published
    assert told == ["paid"]


async def test_a_prompt_within_a_prompt_is_answered_by_id_alone(
    bus: MessageBus, approvals: Approvals, seen: Seen, bank: Bank
) -> None:
    @dataclass
    class Delegate(Command[str]):
        depth: int

    async def delegate(command: Delegate) -> str:
        if command.depth:
            inner = Delegate(command.depth - 1, session_id=SessionID(f"child{command.depth}"))
            return (await bus.execute(inner)).unwrap()
        return await bank.run(approvals, session=command.session_id)

    bus.register_command_handler(Delegate, delegate)
    run = asyncio.create_task(bus.execute(Delegate(3)))
    (request,) = await seen.requests()
    assert request.session_id == "child1"
    await by_command(bus, approvals, request, approve=True)
    assert (await run).unwrap() == "paid"


# What needs approval, what is shown, and what makes no sense


def test_only_a_plain_no_lets_a_call_through_unasked(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    def of(required: Any, amount: int = 5) -> bool:
        prepared = bank.prepared(amount)
        return needs_approval(replace(prepared, tool=replace(prepared.tool, requires_approval=required)))

    def broken(arguments: dict[str, Any]) -> bool:
        raise KeyError("limit")

    def large(arguments: dict[str, Any]) -> bool:
        return bool(arguments["amount"] > 100)

    def silent(arguments: dict[str, Any]) -> None:
        pass

    assert [of(True), of(False), of(None), of("")] == [True, False, True, True]
    assert [of(large), of(large, 101), of(silent), of(broken)] == [False, True, True, True]
    assert "requires_approval of tool pay has failed" in caplog.text


async def test_secrets_are_bound_but_neither_kept_nor_told_and_content_stays_out_of_logs(
    bus: MessageBus, approvals: Approvals, seen: Seen
) -> None:
    logged: list[str] = []
    bus.add_observer(lambda event: logged.append(to_line(event, record_content=False).decode()))
    bus.register_command_handler(ToolApprovalCommand, lambda _: True)
    records = [await approvals.ask("login", {"key": SecretStr(key), "to": "the moon"}) for key in ("one", "two")]

    assert records[0].digest != records[1].digest
    assert records[0].arguments == {"key": "**********", "to": "the moon"}
    text = "".join(logged)
    assert "ToolApprovalRequestedEvent" in text
    assert "ApprovalRequestEvent" in text
    assert "the moon" not in text


async def test_arguments_that_cannot_be_compared_are_not_asked_about(approvals: Approvals) -> None:
    with pytest.raises(TypeError):
        await approvals.ask("pay", {"what": object()})
    assert await approvals.pending() == []


@pytest.mark.parametrize(
    "options", [{"expires_in": 0}, {"expires_in": -1}, {"expires_in": 1e300}, {"expires_in": "1"}, {"look_every": 0}]
)
async def test_options_that_make_no_sense_are_refused(bus: MessageBus, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Approvals(bus, **options)


async def test_a_bus_has_one_of_them_until_it_is_closed(bus: MessageBus) -> None:
    first = Approvals(bus)
    with pytest.raises(HandlerAlreadyRegisteredError):
        Approvals(bus)
    first.close()
    first.close()
    Approvals(bus).close()
