"""Filters: what each knob lets pass, through a bus that runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from llmgine.bus import EventFilter, MessageBus
from llmgine.bus.filters import (
    CompositeFilter,
    DebugFilter,
    EventTypeFilter,
    MetadataFilter,
    PatternFilter,
    RateLimitFilter,
    SessionFilter,
    check_filter,
)
from llmgine.errors import ConfigurationError
from llmgine.messages import Event, SessionID

A, B, BUS = SessionID("a"), SessionID("b"), SessionID("BUS")


class ToolCalled(Event):
    pass


class ToolCalledAgain(ToolCalled):
    pass


class Answered(Event):
    pass


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def passing(bus: MessageBus, event_filter: EventFilter, events: Sequence[Event]) -> list[Event]:
    """Which of these events are heard through the filter."""
    heard: list[Event] = []
    bus.add_event_filter(event_filter)
    bus.register_event_handler(Event, heard.append)
    for event in events:
        await bus.publish(event)
    return heard


EVENTS = [ToolCalled(session_id=A), ToolCalledAgain(session_id=B), Answered()]


@pytest.mark.parametrize(
    ("event_filter", "heard"),
    [
        (SessionFilter(), [0, 1, 2]),
        (SessionFilter(include_sessions={A, B}), [0, 1]),
        (SessionFilter({BUS}), [2]),
        (SessionFilter(exclude_sessions={A}), [1, 2]),
        (SessionFilter({A, B}, {"c"}), [0, 1]),
        (SessionFilter(exclude_sessions=set()), [0, 1, 2]),
        (EventTypeFilter(), [0, 1, 2]),
        (EventTypeFilter(include_types={ToolCalled, Answered}), [0, 2]),
        (EventTypeFilter(exclude_types={ToolCalled}), [1, 2]),
        (EventTypeFilter([ToolCalledAgain], [Answered]), [1]),
        (PatternFilter(), [0, 1, 2]),
        (PatternFilter(include_patterns=["tool"]), [0, 1]),
        (PatternFilter(include_patterns=["^called", "ered$"]), [2]),
        (PatternFilter(exclude_patterns=["again$", "^a"]), [0]),
        (PatternFilter(["tool"], ["Again"]), [0]),
        (PatternFilter(["tool"], None, True), []),
        (PatternFilter(["Tool"], ["again"], case_sensitive=True), [0, 1]),
    ],
)
async def test_sessions_types_and_names_pass_as_included_and_not_excluded(
    bus: MessageBus, event_filter: EventFilter, heard: list[int]
) -> None:
    assert await passing(bus, event_filter, EVENTS) == [EVENTS[i] for i in heard]


@pytest.mark.parametrize(
    ("event_filter", "heard"),
    [
        (MetadataFilter(), [0, 1, 2]),
        (MetadataFilter(required_keys={"user"}), [0, 1]),
        (MetadataFilter({"user", "kind"}), [1]),
        (MetadataFilter(required_values={"user": None}), [0]),
        (MetadataFilter(required_values={"user": "ann", "kind": ["x"]}), [1]),
        (MetadataFilter({"kind"}, {"user": "bob"}), []),
    ],
)
async def test_metadata_must_have_the_keys_and_equal_values(
    bus: MessageBus, event_filter: EventFilter, heard: list[int]
) -> None:
    events = [Event(metadata={"user": None}), Event(metadata={"user": "ann", "kind": ["x"]}), Event()]

    assert await passing(bus, event_filter, events) == [events[i] for i in heard]


async def test_what_a_filter_is_made_of_cannot_be_changed_from_outside(bus: MessageBus) -> None:
    sessions, required = {A}, {"user": "ann"}
    by_session, by_metadata = SessionFilter(sessions), MetadataFilter(required_values=required)
    sessions.add(B)
    required["user"] = "bob"

    assert not by_session.should_handle(Event(), B)
    assert by_metadata.should_handle(Event(metadata={"user": "ann"}), BUS)


async def test_composed_filters_pass_when_all_do_or_when_one_does(bus: MessageBus) -> None:
    parts = [EventTypeFilter({ToolCalled, ToolCalledAgain}), SessionFilter({A, BUS})]
    both, either = CompositeFilter(parts), CompositeFilter(parts, require_all=False)

    assert [both.should_handle(event, event.session_id) for event in EVENTS] == [True, False, False]
    assert [either.should_handle(event, event.session_id) for event in EVENTS] == [True, True, True]
    assert not CompositeFilter(parts, False).should_handle(Answered(), B)
    assert await passing(bus, both, EVENTS) == EVENTS[:1]
    assert (await bus.get_stats())["filtered"] == {"CompositeFilter": 2}


class Asked(EventFilter):
    def __init__(self, answer: bool, asked: list[bool]) -> None:
        self.answer, self.asked = answer, asked

    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        self.asked.append(self.answer)
        return self.answer


@pytest.mark.parametrize(("require_all", "asked"), [(True, [True, False]), (False, [True])])
def test_composed_filters_are_asked_in_order_and_no_further_than_needed(require_all: bool, asked: list[bool]) -> None:
    log: list[bool] = []
    parts = [Asked(True, log), Asked(False, log), Asked(True, log)]

    assert CompositeFilter(parts, require_all).should_handle(Event(), BUS) is not require_all
    assert log == asked


async def test_a_rate_limit_counts_only_what_the_filters_before_it_let_pass(bus: MessageBus) -> None:
    only_answers = EventTypeFilter({Answered})
    limited = CompositeFilter([only_answers, RateLimitFilter(1, clock=Clock())])
    events: list[Event] = [ToolCalled(), ToolCalled(), Answered(), Answered()]

    assert await passing(bus, limited, events) == [events[2]]


async def test_the_debug_filter_lets_everything_pass_and_writes_while_it_is_enabled(bus: MessageBus) -> None:
    lines: list[str] = []
    debug = DebugFilter(lines.append)
    assert await passing(bus, debug, EVENTS) == EVENTS
    debug.enabled = False
    await bus.publish(ToolCalled())

    assert len(lines) == 3
    assert "ToolCalled" in lines[0]
    assert "session a" in lines[0]
    assert "session BUS" in lines[2]
    assert DebugFilter(lines.append, False).should_handle(Event(), BUS)
    assert len(lines) == 3


def test_the_debug_filter_writes_to_the_log_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="llmgine.bus.filters"):
        DebugFilter().should_handle(ToolCalled(), A)

    assert "ToolCalled" in caplog.text
    assert "session a" in caplog.text


async def test_a_rate_limit_lets_a_burst_pass_and_then_what_flows_in(bus: MessageBus) -> None:
    clock = Clock(5.0)
    heard = await passing(bus, RateLimitFilter(2, clock=clock), [Event() for _ in range(3)])
    assert len(heard) == 2

    clock.now += 0.6
    await bus.publish(Event())
    await bus.publish(Event())
    assert len(heard) == 3


def test_less_than_one_a_second_still_lets_something_through() -> None:
    clock = Clock()
    limit = RateLimitFilter(max_per_second=0.5, clock=clock)
    answers: list[bool] = []
    for clock.now in range(6):
        answers.append(limit.should_handle(Event(), BUS))

    assert answers == [True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("per_session", "per_type", "passed"),
    [
        (True, False, [True, True, False, False]),
        (False, True, [True, False, True, False]),
        (True, True, [True, True, True, False]),
        (False, False, [True, False, False, False]),
    ],
)
def test_a_rate_limit_counts_per_session_per_type_both_or_all(
    per_session: bool, per_type: bool, passed: list[bool]
) -> None:
    limit = RateLimitFilter(1, per_session, per_type, clock=Clock())
    events: list[tuple[Event, SessionID]] = [(ToolCalled(), A), (ToolCalled(), B), (Answered(), A), (ToolCalled(), A)]

    assert [limit.should_handle(*event) for event in events] == passed


def test_a_rate_limit_counts_per_session_unless_told_otherwise() -> None:
    limit = RateLimitFilter(1, clock=Clock())

    assert [limit.should_handle(e, s) for e, s in [(Event(), A), (Event(), B), (Answered(), A)]] == [True, True, False]


def test_sessions_that_are_over_leave_nothing_behind() -> None:
    clock = Clock()
    limit = RateLimitFilter(1, per_type=True, clock=clock)
    for n in range(10_000):
        clock.now += 0.01
        limit.should_handle(Event(), SessionID(str(n)))

    assert len(limit._buckets) <= 201


# Nonsense is refused at construction, in words


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SessionFilter({"a", "b"}, {"b"}), "both name 'b'"),
        (lambda: SessionFilter(set()), "nothing would ever pass"),
        (lambda: SessionFilter("abc"), "include_sessions must be a collection of session ids; got 'abc'"),
        (lambda: SessionFilter(exclude_sessions="abc"), "exclude_sessions must be a collection"),
        (lambda: SessionFilter({1}), "1 is none"),  # type: ignore[arg-type]
        (lambda: EventTypeFilter({Answered}, {Answered}), "both name Answered"),
        (lambda: EventTypeFilter([]), "include_types is empty"),
        (lambda: EventTypeFilter(Answered), "include_types must be a collection of event classes"),  # type: ignore[arg-type]
        (lambda: EventTypeFilter({"Answered"}), "'Answered' is none"),  # type: ignore[arg-type]
        (lambda: PatternFilter(["Tool", "(oops"]), r"'\(oops' is not a regular expression"),
        (lambda: PatternFilter(exclude_patterns=["a{99999999999}"]), "is not a regular expression"),
        (lambda: PatternFilter(["x"], ["x"]), "both name 'x'"),
        (lambda: PatternFilter("Tool.*"), "include_patterns must be a collection of regular expressions"),
        (lambda: MetadataFilter("user"), "required_keys must be a collection of names"),
        (lambda: MetadataFilter(required_values=["user"]), "required_values must map names to values"),  # type: ignore[arg-type]
        (lambda: CompositeFilter([]), "at least one filter"),
        (lambda: CompositeFilter(SessionFilter()), "filters must be a collection"),  # type: ignore[arg-type]
        (lambda: CompositeFilter([SessionFilter(), print]), "print> is not a filter"),  # type: ignore[list-item]
        (lambda: DebugFilter(7), "logger_func must be a plain function"),  # type: ignore[arg-type]
        (lambda: DebugFilter(later), "logger_func must be a plain function"),
        (lambda: RateLimitFilter(0), "positive, finite number.*got 0"),
        (lambda: RateLimitFilter(-1), "max_per_second must be"),
        (lambda: RateLimitFilter(float("inf")), "max_per_second must be"),
        (lambda: RateLimitFilter(float("nan")), "max_per_second must be"),
        (lambda: RateLimitFilter("2"), "max_per_second must be"),  # type: ignore[arg-type]
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


async def later(*_: object) -> bool:
    return False


class Awaited:
    async def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return False


class Yielding:
    def should_handle(self, event: Event, session_id: SessionID) -> Any:
        yield False


class AsyncCallable:
    async def __call__(self, event: Event, session_id: SessionID) -> bool:
        return False


class Delegating:
    def __init__(self, decide: Any) -> None:
        self.should_handle = decide


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (None, "None is not a filter"),
        (object(), "should_handle"),
        (print, "is not a filter"),
        (later, "is not a filter"),
        (SessionFilter, r"SessionFilter is a class.*Make one: SessionFilter\(\.\.\.\)"),
        (Awaited(), "would have to be awaited.*plain def"),
        (Delegating(later), "would have to be awaited"),
        (Delegating(AsyncCallable()), "would have to be awaited"),
        (Yielding(), "would have to be awaited"),
        (Delegating(True), "is not a filter"),
    ],
)
def test_what_cannot_filter_is_refused_in_words(candidate: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_filter(candidate)


@pytest.mark.parametrize("candidate", [SessionFilter(), Asked(True, []), Delegating(lambda event, session_id: True)])
def test_whatever_can_filter_is_accepted(candidate: object) -> None:
    check_filter(candidate)
