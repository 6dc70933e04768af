"""Law 8: an event's handlers run in groups by ascending priority, and a group has ended before the next begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import HandlerMiddleware, MessageBus
from llmgine.messages import Event, SessionID


@dataclass
class ThingHappened(Event):
    pass


@dataclass
class ThingSubHappened(ThingHappened):
    event_name = "thing.sub.happened"


@dataclass
class ThingSubTwiceHappened(ThingSubHappened):
    """A second level, with a name made from its own."""


KINDS: list[type[Event]] = [ThingHappened, ThingSubHappened, ThingSubTwiceHappened]
# Which of the kinds each key hears, said by hand.
KEYS: list[tuple[type[Event] | str, str]] = [
    (Event, "123"),
    (ThingHappened, "123"),
    (ThingSubHappened, "23"),
    (ThingSubTwiceHappened, "3"),
    ("*", ""),
    ("**", "123"),
    ("thing.happened", "123"),
    ("thing.*", "123"),
    ("thing.**", "123"),
    ("*.happened", "123"),
    ("thing.sub.happened", "23"),
    ("thing.*.happened", "23"),
    ("*.*.*", "23"),
    ("thing.sub.**", "23"),
    ("thing.sub.twice.happened", "3"),
    ("*.*.*.*", "3"),
    ("other.**", ""),
]
SESSIONS = [SessionID("a"), SessionID("b"), SessionID("BUS")]


@dataclass(frozen=True)
class Handler:
    number: int
    key: int
    session: SessionID
    priority: int
    turns: int
    """How often it suspends; -1: it is a plain function."""
    ends: str

    def hears(self, kind: int, session: SessionID) -> bool:
        return self.session in {"BUS", session} and str(kind + 1) in KEYS[self.key][1]


handlers = st.lists(
    st.builds(
        Handler,
        number=st.just(0),
        key=st.integers(0, len(KEYS) - 1),
        session=st.sampled_from([*SESSIONS, SESSIONS[-1]]),
        priority=st.sampled_from([-5, 0, 10, 50, 50, 100]),
        turns=st.integers(-1, 2),
        ends=st.sampled_from(["well", "well", "raising", "cancelled"]),
    ),
    max_size=12,
)


def numbered(some: list[Handler]) -> list[Handler]:
    return [Handler(n, h.key, h.session, h.priority, h.turns, h.ends) for n, h in enumerate(some)]


def function(handler: Handler, log: list[tuple[str, int]]) -> Any:
    def end() -> None:
        log.append(("ends", handler.number))
        if handler.ends == "raising":
            raise ValueError
        if handler.ends == "cancelled":  # as one does whose own awaited task was cancelled
            raise asyncio.CancelledError

    def plain(event: Event) -> None:
        if not isinstance(event, ThingHappened):  # but what the bus says of a failure
            return
        log.append(("begins", handler.number))
        end()

    async def suspending(event: Event) -> None:
        if not isinstance(event, ThingHappened):
            return
        log.append(("begins", handler.number))
        for _ in range(handler.turns):
            await asyncio.sleep(0)
        end()

    return plain if handler.turns < 0 else suspending


@pytest.mark.usefixtures("quiet")
@given(
    registered=handlers.map(numbered),
    kind=st.integers(0, 2),
    session=st.sampled_from(SESSIONS),
    wait=st.booleans(),
    layered=st.booleans(),
)
def test_groups_run_in_ascending_order_and_one_has_ended_before_the_next_begins(
    *,
    run_to_end: Callable[[Coroutine[Any, Any, None]], None],
    registered: list[Handler],
    kind: int,
    session: SessionID,
    wait: bool,
    layered: bool,
) -> None:
    log: list[tuple[str, int]] = []

    async def main() -> None:
        bus = MessageBus.isolated()
        if layered:
            bus.add_event_middleware(HandlerMiddleware())
        for handler in registered:
            bus.register_event_handler(
                KEYS[handler.key][0], function(handler, log), handler.session, priority=handler.priority
            )
        await bus.start()
        await bus.publish(KINDS[kind](session_id=session), await_processing=wait)
        if wait:
            assert len(log) == 2 * sum(handler.hears(kind, session) for handler in registered)
        await bus.stop()
        assert len(bus.event_handler_errors) == sum(
            handler.hears(kind, session) and handler.ends != "well" for handler in registered
        )

    run_to_end(main())

    expected = sorted((h for h in registered if h.hears(kind, session)), key=lambda handler: handler.priority)
    position = 0
    for _, group in groupby(expected, key=lambda handler: handler.priority):
        members = list(group)
        part = log[position : position + 2 * len(members)]
        position += len(part)
        assert sorted(part) == sorted((what, h.number) for h in members for what in ("begins", "ends"))
        # All of a group have begun before any of them suspends for good, the bus's before the session's.
        begun = [number for what, number in part if what == "begins"]
        scopes = [registered[number].session == "BUS" for number in begun]
        assert scopes == sorted(scopes, reverse=True)
        if all(handler.turns > 0 for handler in members):
            assert [what for what, _ in part[: len(members)]] == ["begins"] * len(members)
    assert position == len(log)
