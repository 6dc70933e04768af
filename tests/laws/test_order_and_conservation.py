"""Property tests of the laws of events: order per session, nesting, conservation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import EventFilter, MessageBus, StopReport
from llmgine.messages import Event, SessionID

SESSIONS = [SessionID(name) for name in "abc"] + [SessionID("BUS")]


@dataclass
class Numbered(Event):
    n: int = 0
    turns: int = 0
    children: list[Plan] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """An event to publish: where, whether to wait, how often its handler suspends, and what it publishes in turn."""

    session: SessionID
    wait: bool
    turns: int
    children: tuple[Plan, ...] = ()


leaves = st.builds(Plan, st.sampled_from(SESSIONS), st.booleans(), st.integers(0, 2))
plans = st.recursive(
    leaves,
    lambda inner: st.builds(
        Plan, st.sampled_from(SESSIONS), st.booleans(), st.integers(0, 2), st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


async def within_budget(work: Awaitable[object]) -> None:
    """Wait for work that hangs if it has not ended after some turns of the loop."""
    task = asyncio.ensure_future(work)
    for _ in range(1000):
        if task.done():
            await task
            return
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    pytest.fail("it hangs")


def count(plan: Plan) -> int:
    return 1 + sum(count(child) for child in plan.children)


@given(st.lists(leaves, max_size=30))
def test_each_session_delivers_in_the_order_of_publishing_one_at_a_time(flat: list[Plan]) -> None:
    delivered: dict[str, list[int]] = {session: [] for session in SESSIONS}
    under_way: Counter[str] = Counter()

    async def handle(event: Numbered) -> None:
        under_way[event.session_id] += 1
        assert under_way[event.session_id] == 1
        for _ in range(event.turns):
            await asyncio.sleep(0)
        delivered[event.session_id].append(event.n)
        under_way[event.session_id] -= 1

    async def main() -> None:
        bus = MessageBus.isolated()
        bus.unsuppress_event_errors()
        bus.register_event_handler(Numbered, handle)
        await bus.start()
        publishing = []
        for n, plan in enumerate(flat):
            event = Numbered(n=n, turns=plan.turns, session_id=plan.session)
            if plan.wait:
                publishing.append(asyncio.create_task(bus.publish(event)))
                await asyncio.sleep(0)
            else:
                await bus.publish(event, await_processing=False)
        await asyncio.gather(*publishing)
        await bus.wait_for_events()
        assert bus.event_handler_errors == []
        await bus.stop()

    asyncio.run(main())
    for session in SESSIONS:
        assert delivered[session] == [n for n, plan in enumerate(flat) if plan.session == session]


def all_waiting(plan: Plan) -> Plan:
    return replace(plan, wait=True, children=tuple(map(all_waiting, plan.children)))


@given(st.lists(plans.map(all_waiting), max_size=5))
def test_whatever_handlers_publish_from_within_is_delivered_once(forest: list[Plan]) -> None:
    """One chain at a time: nothing waits for anybody else, so nothing may be refused or hang."""
    delivered: Counter[str] = Counter()

    async def publish(bus: MessageBus, plan: Plan) -> None:
        event = Numbered(turns=plan.turns, session_id=plan.session, children=list(plan.children))
        await bus.publish(event, await_processing=plan.wait)
        if plan.wait:
            assert delivered[event.event_id] == 1

    async def main() -> None:
        bus = MessageBus.isolated()

        async def handle(event: Numbered) -> None:
            for _ in range(event.turns):
                await asyncio.sleep(0)
            for child in event.children:
                await publish(bus, child)
            delivered[event.event_id] += 1

        bus.register_event_handler(Numbered, handle)
        await bus.start()

        async def one_after_another() -> None:
            for plan in forest:
                await publish(bus, plan)
                await bus.wait_for_events()

        await within_budget(one_after_another())
        assert bus.event_handler_errors == []
        assert await bus.stop() == StopReport()

    asyncio.run(main())
    assert set(delivered.values()) <= {1}
    assert len(delivered) == sum(count(plan) for plan in forest)


@given(st.lists(plans, min_size=1, max_size=5))
def test_concurrent_chains_never_hang_and_lose_nothing(forest: list[Plan]) -> None:
    """Chains may meet and be refused; a refused event is one that nobody accepted."""
    published: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    delivered: Counter[str] = Counter()

    async def main() -> None:
        bus = MessageBus.isolated()

        async def publish(plan: Plan) -> None:
            event = Numbered(turns=plan.turns, session_id=plan.session, children=list(plan.children))
            published[event.event_id] += 1
            try:
                await bus.publish(event, await_processing=plan.wait)
            except Exception:
                refused[event.event_id] += 1
                raise

        async def handle(event: Numbered) -> None:
            delivered[event.event_id] += 1
            for _ in range(event.turns):
                await asyncio.sleep(0)
            for child in event.children:
                await publish(child)

        bus.register_event_handler(Numbered, handle)
        await bus.start()
        await within_budget(asyncio.gather(*(publish(plan) for plan in forest)))
        await within_budget(bus.wait_for_events())
        assert len(bus.event_handler_errors) == sum(refused.values())
        await bus.stop()

    asyncio.run(main())
    assert delivered + refused == published


class Odd(EventFilter):
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return isinstance(event, Numbered) and event.n % 2 == 1


@given(st.lists(leaves, max_size=20), st.integers(0, 20))
def test_what_is_published_is_delivered_filtered_or_reported(flat: list[Plan], start_after: int) -> None:
    delivered: list[int] = []

    async def handle(event: Numbered) -> None:
        for _ in range(event.turns):
            await asyncio.sleep(0)
        delivered.append(event.n)

    async def main() -> None:
        bus = MessageBus.isolated()
        bus.register_event_handler(Numbered, handle)
        bus.add_event_filter(Odd())
        for n, plan in enumerate(flat):
            if n == start_after:
                await bus.start()
            await bus.publish(Numbered(n=n, turns=plan.turns, session_id=plan.session), await_processing=False)
        await bus.start()
        before = len(delivered)
        report = await bus.stop()
        assert report.abandoned == 0
        assert report.delivered == len(delivered) - before
        assert (await bus.get_stats())["filtered"] == ({"Odd": (len(flat) + 1) // 2} if flat else {})

    asyncio.run(main())
    assert sorted(delivered) == [n for n in range(len(flat)) if n % 2 == 1]
