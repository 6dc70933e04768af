"""Law 32: a model is told how much it may write, so that no limit is passed by one that would write for ever."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import MessageBus
from llmgine.errors import BudgetExceededError
from llmgine.llm.budgets import AtLimit, Budget, Limits, Reservation, Spending, UnknownPrice
from llmgine.llm.budgets.room import SHORTEST_REPLY, with_output
from llmgine.llm.engine import LLMEngine, PromptCommand
from llmgine.llm.prices import Price, PriceTable
from llmgine.llm.types import Chunk, Finish, FinishReason, LLMMessage, TextDelta, Usage
from llmgine.messages import SessionID

KINDS = ("output_tokens", "total_tokens", "cost")
PRICE = Price(input=Decimal("0.7"), output=Decimal("3.1"))

counts = st.none() | st.integers(0, 400)
money = st.none() | st.integers(0, 1200).map(lambda millionths: Decimal(millionths) / 1_000_000)
limits = st.builds(Limits, output_tokens=counts, total_tokens=counts, cost=money)
prices = st.sampled_from([None, PRICE, Price(input=Decimal(0), output=Decimal(0))])
wanted = st.tuples(st.integers(0, 60), st.integers(1, 200), prices, st.booleans(), st.integers(0, 2))


def request(read: int, write: int, price: Price | None) -> Spending:
    return Spending.of_request(Usage(read, write), price)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(limits, min_size=3, max_size=3),
    st.sampled_from([None, "ignore", PRICE]),
    st.lists(wanted, max_size=15),
    st.data(),
)
def test_each_reply_is_as_long_as_is_wanted_or_as_there_is_room_for(
    drawn: list[Limits], unknown: UnknownPrice | None, plan: list[Any], data: st.DataObject
) -> None:
    above = Budget(drawn[0], unknown_price=unknown)
    left, right = (Budget(each, parent=above, set_aside=_half(each)) for each in drawn[1:])
    tree = (above, left, right)
    held: list[tuple[Reservation, Spending]] = []
    for read, longest, price, last, place in plan:
        budget = tree[place]
        try:
            reservation = budget.reserve_request(request(read, longest, price), price, last=last)
        except BudgetExceededError:
            least = request(read, min(longest, SHORTEST_REPLY), price)
            with pytest.raises(BudgetExceededError):  # also of somebody who does not ask for more
                budget.reserve(least, last=last)
            continue
        granted = reservation.estimate.output_tokens
        assert min(longest, SHORTEST_REPLY) <= granted <= longest
        assert reservation.estimate == request(read, granted, price)
        if granted < longest:  # not by one token too much
            reservation.release()
            with pytest.raises(BudgetExceededError):
                budget.reserve(with_output(reservation.estimate, price, granted + 1), last=last)
            reservation = budget.reserve(reservation.estimate, last=last)
        held.append((reservation, reservation.estimate))
        if data.draw(st.booleans()):
            ended, estimate = held.pop(data.draw(st.integers(0, len(held) - 1)))
            ended.settle(estimate)  # the model has written all that it could
        for each in tree:
            for kind in KINDS:
                limit, so_far = getattr(each.limits, kind), getattr(each.used, kind) + getattr(each.reserved, kind)
                assert limit is None or so_far <= limit
            assert each.overrun == Spending()


def _half(limits: Limits) -> Limits:
    return Limits(output_tokens=None if limits.output_tokens is None else limits.output_tokens // 2)


def test_a_budget_that_only_warns_shortens_nothing_and_a_callable_is_asked_once_nothing_is_left() -> None:
    warns = Budget(Limits(output_tokens=20), on_limit="warn")
    assert not warns.bounds_replies
    assert warns.reserve_request(request(0, 100, None), None).estimate.output_tokens == 100

    asked: list[BudgetExceededError] = []

    def warn(error: BudgetExceededError) -> AtLimit:
        asked.append(error)
        return "warn"

    decides = Budget(Limits(output_tokens=40, requests=5), on_limit=warn)
    assert decides.bounds_replies
    assert decides.reserve_request(request(0, 100, None), None).estimate.output_tokens == 40
    assert asked == []
    assert decides.reserve_request(request(0, 100, None), None).estimate.output_tokens == 100
    assert [error.kind for error in asked] == ["output_tokens"]
    assert not Budget(Limits(requests=5, input_tokens=5, seconds=5)).bounds_replies
    assert Budget(parent=Budget(Limits(cost=Decimal(1)))).bounds_replies


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("limit", "ends"), [(9_001, "settled"), (200, "released")])
def test_threads_use_up_a_limit_and_never_pass_it(limit: int, ends: str) -> None:
    application = Budget(Limits(total_tokens=limit))
    sessions = [Budget(Limits(total_tokens=4_000), parent=application) for _ in range(4)]
    broken: list[BaseException] = []
    missed: list[float] = []
    start = threading.Barrier(8)

    def spend(session: Budget) -> None:
        try:
            start.wait(10)
            for _ in range(100):
                try:
                    reservation = session.reserve_request(request(5, 70, None), None)
                except BudgetExceededError as error:
                    missed.append(float(error.limit) - float(error.used) - float(error.reserved))
                    continue
                if ends == "settled":
                    reservation.settle(reservation.estimate)
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
    # Nobody was refused because others took of it between two looks: there was no room for the shortest reply.
    assert all(left < 5 + SHORTEST_REPLY for left in missed)
    assert application.overrun == application.reserved == Spending()
    if ends == "settled":
        assert limit - 5 - SHORTEST_REPLY < application.used.total_tokens <= limit
    else:
        assert application.used == Spending()


class Endless:
    """A model that writes as long as it may, and for ever if nobody says how long."""

    name, model = "endless", "test"

    def __init__(self) -> None:
        self.ceilings: list[int | None] = []

    async def stream(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = (), max_output_tokens: int | None = None
    ) -> AsyncGenerator[Chunk, None]:
        self.ceilings.append(max_output_tokens)
        written = 1_000_000 if max_output_tokens is None else max_output_tokens
        await asyncio.sleep(0)
        yield TextDelta("on and on")
        await asyncio.sleep(0)
        yield Finish(FinishReason.LENGTH, Usage(1, written))

    async def aclose(self) -> None:
        pass


@settings(max_examples=30, deadline=None)
@given(limits, st.none() | st.integers(1, 300), st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_prompts_at_the_same_time_never_pass_a_limit_together(
    limit: Limits, ceiling: int | None, sessions: list[int]
) -> None:
    async def main() -> None:
        bus = MessageBus.isolated()
        await bus.start()
        provider = Endless()
        budget = Budget(limit, prices=PriceTable({"endless:test": PRICE}))
        LLMEngine(bus, provider, budget=budget, max_output_tokens=ceiling)

        async def converse(number: int, prompts: int) -> None:
            for _ in range(prompts):
                await bus.execute(PromptCommand("go on", session_id=SessionID(f"{number}")))

        await asyncio.gather(*(converse(*each) for each in enumerate(sessions)))
        await bus.stop()
        for kind in KINDS:
            most = getattr(limit, kind)
            assert most is None or getattr(budget.used, kind) <= most
        assert budget.reserved == budget.overrun == Spending() or not budget.bounds_replies
        assert all(each is None or each <= (ceiling or 4096) for each in provider.ceilings)
        if budget.bounds_replies or ceiling:
            assert None not in provider.ceilings

    asyncio.run(main())
