"""The figures of a bus agree with what happened on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine.bus import EventFilter, MessageBus
from llmgine.bus.middleware import RetryMiddleware
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import EventHandlerFailedEvent

SESSIONS = [SessionID(name) for name in ("a", "b", "BUS")]
RETRIES = 1


@dataclass(frozen=True)
class Publish:
    session: SessionID
    wait: bool
    handlers: tuple[tuple[int, bool], ...]
    """How often each of its handlers suspends, and whether it fails in the end; the rest of them do nothing."""
    turned_away: bool = False


@dataclass(frozen=True)
class Execute:
    ends: str
    turns: int
    pending: int
    inner: tuple[Traffic, ...]


Traffic: TypeAlias = Publish | Execute

publishes = st.builds(
    Publish,
    st.sampled_from(SESSIONS),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=2).map(tuple),
    st.sampled_from([False, False, False, True]),
)
ENDS = ["well", "well", "raising", "reporting", "missing", "cancelled", "too late"]


def executes(inner: st.SearchStrategy[tuple[Traffic, ...]]) -> st.SearchStrategy[Execute]:
    return st.builds(Execute, st.sampled_from(ENDS), st.integers(0, 2), st.integers(0, 2), inner)


traffic = st.lists(
    publishes | executes(st.lists(publishes | executes(st.just(())), max_size=2).map(tuple)), max_size=10
).map(tuple)


@dataclass
class Seen(Event):
    what: Publish | None = None


@dataclass
class Act(Command[None]):
    what: Execute | None = None


@dataclass
class Unknown(Command[None]):
    pass


class TurnedAway(EventFilter):
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return not (isinstance(event, Seen) and event.what is not None and event.what.turned_away)


class Tally:
    """A bus, with what happens on it counted by hand."""

    def __init__(self, *, retrying: bool) -> None:
        self.bus = MessageBus.isolated()
        self.counted: Counter[str] = Counter()
        self.bus.add_event_filter(TurnedAway())
        for index in range(2):
            self.bus.register_event_handler(Seen, self._handler(index), priority=10 * index)
        self.bus.register_event_handler(EventHandlerFailedEvent, self._note_failure)
        self.bus.register_command_handler(Act, self._act)
        if retrying:
            self.bus.add_command_middleware(RetryMiddleware(RETRIES, sleep=lambda _: asyncio.sleep(0)))

    async def cause(self, traffic: Traffic) -> None:
        if isinstance(traffic, Publish):
            self.counted["published"] += 1
            await self.bus.publish(Seen(session_id=traffic.session, what=traffic), await_processing=traffic.wait)
            return
        self.counted["sent"] += 1
        if traffic.ends == "missing":
            result = await self.bus.execute(Unknown())
        elif traffic.ends == "too late":
            result = await self.bus.execute(Act(what=traffic), timeout=0)
        elif traffic.ends == "cancelled":
            await self._cancelled(Act(what=traffic))
            return
        else:
            result = await self.bus.execute(Act(what=traffic))
        self.counted["succeeded" if result.success else "failed"] += 1
        assert result.success == (traffic.ends == "well")

    async def _cancelled(self, command: Act) -> None:
        caller = asyncio.create_task(self.bus.execute(command))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait((caller,))
        self.counted["failed"] += 1

    async def _act(self, command: Act) -> CommandResult[None] | None:
        assert command.what is not None
        self.counted["runs of commands"] += 1
        for _ in range(command.what.turns):
            await asyncio.sleep(0)
        if command.what.ends in {"cancelled", "too late"}:
            await asyncio.Event().wait()
        for inner in command.what.inner:
            await self.cause(inner)
        for _ in range(command.what.pending):
            self.bus.add_pending_event(Seen(what=Publish(SESSIONS[0], True, ())))
        if command.what.ends == "raising":
            raise ValueError
        if command.what.ends == "reporting":
            return CommandResult(success=False, error="no")
        self.counted["published"] += command.what.pending
        return None

    def _handler(self, index: int) -> Callable[[Seen], Awaitable[None]]:
        async def handle(event: Seen) -> None:
            assert event.what is not None
            turns, fails = event.what.handlers[index] if index < len(event.what.handlers) else (0, False)
            for _ in range(turns):
                await asyncio.sleep(0)
            self.counted["handlers failed" if fails else "handlers succeeded"] += 1
            if fails:
                raise ValueError

        return handle

    async def _note_failure(self, _: EventHandlerFailedEvent) -> None:
        self.counted["handlers succeeded"] += 1


@pytest.mark.usefixtures("quiet")
@settings(max_examples=150)
@given(traffic, st.booleans())
def test_the_figures_agree_with_what_happened(
    run_to_end: Callable[[Coroutine[Any, Any, None]], None], traffic: tuple[Traffic, ...], retrying: bool
) -> None:
    async def main() -> None:
        tally = Tally(retrying=retrying)
        bus, counted = tally.bus, tally.counted
        metrics = bus.metrics
        await bus.start()
        await asyncio.gather(*map(tally.cause, traffic))
        await bus.wait_for_events()

        assert {name: counter.value for name, counter in metrics.counters.items() if counter.value} == {
            name: value
            for name, value in {
                "events_published_total": counted["published"],
                "events_processed_total": counted["handlers succeeded"],
                "events_failed_total": counted["handlers failed"],
                "commands_sent_total": counted["sent"],
                "commands_processed_total": counted["succeeded"],
                "commands_failed_total": counted["failed"],
            }.items()
            if value
        }
        histograms = (await bus.get_metrics())["histograms"]
        durations = [histograms[f"{kind}_processing_duration_seconds"]["count"] for kind in ("command", "event")]
        assert durations == [
            counted["runs of commands"],
            counted["handlers succeeded"] + counted["handlers failed"],
        ]
        gauges = {name: gauge.value for name, gauge in metrics.gauges.items() if gauge.value}
        assert gauges == {"registered_handlers": 4}
        stats = await bus.get_stats()
        assert (stats["queue_size"], stats["total_errors"]) == (0, counted["handlers failed"])
        await bus.stop()

    run_to_end(main())


@pytest.mark.usefixtures("quiet")
@given(st.integers(0, 5), st.integers(0, 5))
def test_the_gauge_of_the_queue_says_what_waits(
    run_to_end: Callable[[Coroutine[Any, Any, None]], None], before: int, behind: int
) -> None:
    async def main() -> None:
        bus = MessageBus.isolated()
        gate = asyncio.Event()

        async def wait(_: Seen) -> None:
            await gate.wait()

        bus.register_event_handler(Seen, wait)
        queue = bus.metrics.gauges["queue_size"]
        for _ in range(before):
            await bus.publish(Seen())
        assert queue.value == bus.unfinished == before
        await bus.start()
        await asyncio.sleep(0)
        for _ in range(behind):
            await bus.publish(Seen(), await_processing=False)
        await asyncio.sleep(0)
        assert bus.unfinished == before + behind
        assert queue.value == max(0, before + behind - 1)
        gate.set()
        await bus.stop()
        assert queue.value == bus.unfinished == 0
        assert bus.metrics.counters["events_processed_total"].value == before + behind

    run_to_end(main())
