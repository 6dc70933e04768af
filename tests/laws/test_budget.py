"""Law 32: what is spent is reserved before. A tree of budgets against plain lists, and threads against each other."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmgine.errors import BudgetExceededError
from llmgine.llm.budgets import Budget, Limits, Reservation, Spending

KINDS = ("requests", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "cost")
CENT = Decimal("0.01")

spendings = st.builds(
    Spending,
    requests=st.integers(0, 2),
    tool_calls=st.integers(0, 2),
    input_tokens=st.integers(0, 5),
    output_tokens=st.integers(0, 5),
    cost=st.integers(0, 5).map(lambda cents: cents * CENT),
)
bounds = st.none() | st.integers(0, 12)
limits = st.builds(
    Limits,
    requests=bounds,
    tool_calls=bounds,
    input_tokens=bounds,
    output_tokens=bounds,
    total_tokens=bounds,
    cost=st.none() | st.integers(0, 12).map(lambda cents: cents * CENT),
)


def amounts(spending: Spending) -> dict[str, Any]:
    return {kind: getattr(spending, kind) for kind in KINDS}


def total(spendings: list[Spending]) -> dict[str, Any]:
    return {kind: sum(getattr(each, kind) for each in spendings) for kind in KINDS}


@dataclass
class Held:
    reservation: Reservation
    chain: tuple[int, ...]
    estimate: Spending


@dataclass
class Node:
    budget: Budget
    chain: tuple[int, ...]
    reserved: list[Spending] = field(default_factory=list)
    used: list[Spending] = field(default_factory=list)


class Tree(RuleBasedStateMachine):
    """Application, two sessions, two runs in the first: each knows what it was told to hold, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.held: list[Held] = []
        self.settled: list[tuple[Held, Spending]] = []

    @initialize(limits=st.lists(limits, min_size=5, max_size=5))
    def plant(self, limits: list[Limits]) -> None:
        for number, (limit, parent) in enumerate(zip(limits, (None, 0, 0, 1, 1), strict=True)):
            above = None if parent is None else self.nodes[parent]
            budget = Budget(limit, name=str(number), parent=None if above is None else above.budget)
            self.nodes.append(Node(budget, (number, *(() if above is None else above.chain))))

    @rule(where=st.integers(0, 4), estimate=spendings)
    def reserve(self, where: int, estimate: Spending) -> None:
        chain = self.nodes[where].chain
        fits = all(self.has_room(self.nodes[number], estimate) for number in chain)
        if not fits:
            with pytest.raises(BudgetExceededError) as refused:
                self.nodes[where].budget.reserve(estimate)
            self.check(refused.value, chain)
            return
        reservation = self.nodes[where].budget.reserve(estimate)
        self.held.append(Held(reservation, chain, estimate))
        for number in chain:
            self.nodes[number].reserved.append(estimate)

    def check(self, error: BudgetExceededError, chain: tuple[int, ...]) -> None:
        node = self.nodes[int(error.budget)]
        assert int(error.budget) in chain
        assert error.limit == getattr(node.budget.limits, error.kind)
        assert error.used == total(node.used)[error.kind]
        assert error.reserved == total(node.reserved)[error.kind]

    def has_room(self, node: Node, estimate: Spending) -> bool:
        so_far = total(node.reserved + node.used)
        return all(
            limit is None or not amount or so_far[kind] + amount <= limit
            for kind, amount in amounts(estimate).items()
            for limit in [getattr(node.budget.limits, kind)]
        )

    def take(self, data: st.DataObject) -> Held:
        held = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        for number in held.chain:
            self.nodes[number].reserved.remove(held.estimate)
        return held

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.take(data).reservation.release()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), share=st.integers(0, 4))
    def settle(self, data: st.DataObject, share: int) -> None:
        held = self.take(data)
        estimate = held.estimate
        actual = Spending(
            requests=estimate.requests,
            tool_calls=estimate.tool_calls,
            input_tokens=estimate.input_tokens * share // 4,
            output_tokens=estimate.output_tokens * share // 4,
            cost=(estimate.cost or 0) * Decimal(share) / 4,
        )
        held.reservation.settle(None if share == 4 else actual)
        held.reservation.release()
        self.settled.append((held, actual))
        for number in held.chain:
            self.nodes[number].used.append(actual)

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_again_for_nothing(self, data: st.DataObject) -> None:
        held, before = self.settled.pop(data.draw(st.integers(0, len(self.settled) - 1)))
        held.reservation.settle(Spending())
        for number in held.chain:
            self.nodes[number].used.remove(before)

    @invariant()
    def figures_are_right_and_within_limits(self) -> None:
        for node in self.nodes:
            assert amounts(node.budget.reserved) == total(node.reserved)
            assert amounts(node.budget.used) == total(node.used)
            so_far = total(node.reserved + node.used)
            for kind in KINDS:
                limit = getattr(node.budget.limits, kind)
                assert limit is None or so_far[kind] <= limit
            assert amounts(node.budget.overrun) == dict.fromkeys(KINDS, 0)


Tree.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTree = Tree.TestCase


@given(st.lists(st.tuples(spendings, spendings), max_size=12))
def test_an_overrun_is_counted_once_and_the_next_reservation_sees_it(plan: list[tuple[Spending, Spending]]) -> None:
    limit = 10
    above = Budget(Limits(input_tokens=limit))
    budget = Budget(parent=above)
    used = over = 0
    for estimate, actual in plan:
        try:
            reservation = budget.reserve(estimate)
        except BudgetExceededError:
            assert used + estimate.input_tokens > limit
            continue
        assert not estimate.input_tokens or used + estimate.input_tokens <= limit
        reservation.settle(actual)
        reservation.settle(actual)
        used += actual.input_tokens
        over += max(0, actual.input_tokens - estimate.input_tokens)
        assert reservation.overrun.input_tokens == max(0, actual.input_tokens - estimate.input_tokens)
    assert above.used.input_tokens == budget.used.input_tokens == used
    assert above.overrun.input_tokens == over
    assert (above.left.input_tokens or 0) == max(0, limit - used)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("ends", ["settled", "released"])
def test_threads_never_pass_a_limit_together(ends: str) -> None:
    application = Budget(Limits(requests=150, cost=Decimal("1.50")), name="application")
    sessions = [Budget(Limits(requests=60), name=str(number), parent=application) for number in range(4)]
    estimate = Spending(requests=1, cost=CENT)
    seen: list[int] = []
    taken: list[Budget] = []
    broken: list[BaseException] = []
    start = threading.Barrier(8)

    def spend(session: Budget) -> None:
        try:
            start.wait(10)
            for _ in range(100):
                with suppress(BudgetExceededError):
                    reservation = session.reserve(estimate)
                    seen.append(application.used.requests + application.reserved.requests)
                    if ends == "settled":
                        reservation.settle(estimate)
                        taken.append(session)
                    else:
                        reservation.release()
        except BaseException as error:  # noqa: BLE001  # for the thread of the test
            broken.append(error)

    threads = [threading.Thread(target=spend, args=(session,)) for session in sessions for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not broken
    assert application.reserved == Spending()
    if ends == "settled":
        assert application.used == Spending(requests=150, cost=Decimal("1.50"))
        assert [session.used.requests for session in sessions] == [taken.count(session) for session in sessions]
        assert max(session.used.requests for session in sessions) <= 60
    else:
        assert application.used == Spending()
        # Two looks, between which others may change it; each of the eight holds one at a time.
        assert max(seen) <= 16


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=12).flatmap(
        lambda plan: st.tuples(st.just(plan), st.permutations(range(len(plan))))
    )
)
def test_tasks_that_overlap_never_pass_a_limit_together(
    drawn: tuple[list[tuple[int, int, bool]], list[int]],
) -> None:
    plan, order = drawn
    budget = Budget(Limits(total_tokens=10), parent=Budget(Limits(total_tokens=12)))

    async def spend(wanted: int, actual: int, fails: bool) -> None:
        with budget.reserve(Spending(output_tokens=wanted)) as reservation:
            await doors.pop()
            if fails:
                raise KeyError
            reservation.settle(Spending(output_tokens=min(actual, wanted)))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        doors.extend(loop.create_future() for _ in plan)
        closed = [doors[number] for number in order]
        tasks = [asyncio.create_task(spend(*each)) for each in plan]
        for door in closed:
            await asyncio.sleep(0)
            assert budget.used.total_tokens + budget.reserved.total_tokens <= 10
            door.set_result(None)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(outcome) for outcome in outcomes}
        assert kinds <= {type(None), KeyError, BudgetExceededError}
        spent = [
            min(actual, wanted) for (wanted, actual, _), outcome in zip(plan, outcomes, strict=True) if outcome is None
        ]
        assert budget.used.output_tokens == sum(spent) <= 10
        assert budget.reserved == Spending()

    doors: list[asyncio.Future[None]] = []
    asyncio.run(main())
