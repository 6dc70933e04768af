"""Whatever the order of asking, answering, waiting, cancelling and crashing: one run for each approval, at most."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.bus.approval_records import ApprovalRecord, ApprovalState
from llmgine.errors import ApprovalError
from llmgine.llm.approvals import Approvals, DecideApprovalCommand, MemoryApprovalStore
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.toolCall import ToolCall

CALLS = 3
EXPIRES_S = 100


class Watched(MemoryApprovalStore):
    """A store that others share, whose every operation takes a moment, and that notes what was used when."""

    shared = True

    def __init__(self, world: World) -> None:
        super().__init__(clock=lambda: world.now)
        self._world = world

    async def add(self, record: ApprovalRecord) -> None:
        await asyncio.sleep(0)
        await super().add(record)

    async def decide(self, approval_id: str, **decision: Any) -> ApprovalRecord:
        await asyncio.sleep(0)
        record = await super().decide(approval_id, **decision)
        await asyncio.sleep(0)
        return record

    async def consume(self, approval_id: str, digest: str) -> ApprovalRecord:
        await asyncio.sleep(0)
        record = await super().consume(approval_id, digest)
        assert record.expires_at is not None
        assert self._world.now < record.expires_at
        self._world.used.append((record.id, digest))
        return record


@dataclass
class World:
    """Processes that come and go, the one store, and what really happened."""

    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    used: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    approved: set[str] = field(default_factory=set[str])
    ran: Counter[str] = field(default_factory=Counter[str])
    """By digest."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def begin(self) -> None:
        self.store = Watched(self)
        await self.start_process()

    async def start_process(self) -> None:
        self.bus = MessageBus.isolated()
        await self.bus.start()
        self.approvals = Approvals(self.bus, self.store, expires_in=EXPIRES_S, look_every=0.01, clock=lambda: self.now)

    def call(self, number: int) -> None:
        """Begin a call, or take it up again; the first two are the very same call of the same tool."""

        def pay(amount: int) -> None:
            """Pay."""

        amount = number // 2
        prepared = PreparedCall.of(ToolCall("1", name="pay"), Tool.from_function(pay), {"amount": amount})

        async def run(approvals: Approvals) -> None:
            refused = await approvals.check(prepared, ToolContext(run_id="r", idempotency_key=f"k{number}"))
            if refused is None:
                self.ran[prepared.digest] += 1
            else:
                assert refused.startswith("Error: the call of pay was ")

        self.tasks.append(asyncio.create_task(run(self.approvals)))

    async def answer(self, number: int, *, approve: bool, elsewhere: bool) -> None:
        records = await self.store.list()
        if not records:
            return
        record = records[number % len(records)]
        if elsewhere:
            try:
                await self.store.decide(record.id, approve=approve)
            except ApprovalError:
                return
            succeeded = True
        else:
            succeeded = (await self.bus.execute(DecideApprovalCommand(record.id, approve))).success
        if succeeded and approve:
            assert record.id not in self.approved
            self.approved.add(record.id)

    async def cancel(self, number: int) -> None:
        if self.tasks:
            self.tasks[number % len(self.tasks)].cancel()

    async def crash(self, *, gently: bool) -> None:
        if gently:
            self.approvals.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.bus.stop()
        await self.start_process()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert not [each for each in outcomes if isinstance(each, Exception)], outcomes
        await self.bus.stop()
        assert not self.approvals._waiting
        ids = [approval_id for approval_id, _ in self.used]
        assert len(ids) == len(set(ids))  # none is used twice
        assert set(ids) <= self.approved  # nor without having been given
        for digest, count in self.ran.items():  # each run has one of its own, for that very call
            assert count <= sum(1 for _, used in self.used if used == digest)
        states = Counter(record.state for record in await self.store.list())
        assert states[ApprovalState.USED] == len(ids)


NUMBERS = st.integers(0, CALLS - 1)
ACTIONS = st.one_of(
    st.tuples(st.just("call"), NUMBERS),
    st.tuples(st.just("call"), NUMBERS),
    st.tuples(st.just("approve"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("approve"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("deny"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("pass time"), st.sampled_from([1, 60, 100])),
    st.tuples(st.just("turns"), st.integers(1, 8)),
)


@settings(max_examples=150)
@given(actions=st.lists(ACTIONS, max_size=25))
def test_no_call_runs_without_one_approval_of_its_own(actions: list[tuple[str, int] | tuple[str, int, bool]]) -> None:
    async def go() -> None:
        world = World()
        await world.begin()
        answers: list[asyncio.Task[None]] = []
        for name, number, *rest in actions:
            match name:
                case "call":
                    world.call(number)
                case "approve" | "deny":
                    answer = world.answer(number, approve=name == "approve", elsewhere=bool(rest[0]))
                    answers.append(asyncio.create_task(answer))
                case "cancel":
                    await world.cancel(number)
                case "crash":
                    await world.crash(gently=bool(number))
                case "pass time":
                    world.now += timedelta(seconds=number)
                case _:
                    for _ in range(number):
                        await asyncio.sleep(0)
        await asyncio.gather(*answers)
        for _ in range(5):
            await asyncio.sleep(0)
        await world.end()

    asyncio.run(go())
