"""Statistics count everything once, and need no more memory for a larger log."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.observability.log_stats import LogStats, Price, Table, TypeStats

NOW = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def command(
    identity: str, begin: float, end: float, error: str | None = None, session: str = "s"
) -> list[dict[str, Any]]:
    result = {"command_id": identity, "success": error is None, "error": error}
    kind = "CommandResultEvent" if error is None else "CommandErrorEvent"
    started = {"command_type": "DoCommand", "command_id": identity}
    return [
        {"event_type": "CommandStartedEvent", "timestamp": at(begin), "session_id": session, "command": started},
        {"event_type": kind, "timestamp": at(end), "session_id": session, "command_result": result},
    ]


def answer(model: str, tokens: int = 1_000_000) -> dict[str, Any]:
    usage = {"input_tokens": tokens, "output_tokens": tokens}
    about = {"event_type": "LLMResponseEvent", "timestamp": at(0), "session_id": "s", "duration": 1.0}
    return about | {"provider": "p", "model": model, "usage": usage}


def requests(prompt: str, *tokens: tuple[int, int], answered: bool = True, told: bool = True) -> list[dict[str, Any]]:
    """A prompt's events: of its requests if they are told of, as they are not in an older log; and of its answer."""
    about = {"engine_id": "e", "causation_id": prompt, "session_id": "s", "timestamp": at(0), "duration": 1.0}
    about |= {"provider": "p", "model": "a"}
    events: list[dict[str, Any]] = []
    for read, written in tokens if told else ():
        usage = {"input_tokens": read, "output_tokens": written}
        events.append(about | {"event_type": "ModelCallEndedEvent", "usage": usage, "finish_reason": "stop"})
    if answered:
        usage = {"input_tokens": sum(read for read, _ in tokens), "output_tokens": sum(each for _, each in tokens)}
        events.append(about | {"event_type": "LLMResponseEvent", "usage": usage, "turns": len(tokens)})
    return events


def stats_of(*events: dict[str, Any], **options: Any) -> LogStats:
    stats = LogStats(**options)
    for event in events:
        stats.add(event)
    stats.finish()
    return stats


@given(st.lists(st.integers(0, 30)), st.integers(2, 10))
def test_nothing_that_was_counted_is_lost_when_rows_are_given_up(keys: list[int], capacity: int) -> None:
    table = Table(TypeStats, capacity)
    for key in keys:
        table[str(key)].count += 1

    assert len(table.rows) <= capacity
    assert sum(row.count for row in table.rows.values()) + table.given_up_count == len(keys)
    assert table.rest(1)[1] + sum(row.count for _, row in table.top(1)) == len(keys)


def test_rows_are_exact_as_long_as_there_is_room() -> None:
    keys = ["a", "b", "a", "c", "a", "b"]
    table = Table(TypeStats, 3)
    for key in keys:
        table[key].count += 1

    assert {name: row.count for name, row in table.rows.items()} == Counter(keys)
    assert [name for name, _ in table.top(2)] == ["a", "b"]
    assert table.given_up == 0


def test_commands_are_measured_from_start_to_result() -> None:
    events = [each for number in range(100) for each in command(str(number), number, number + 0.1 * (1 + number % 2))]
    row = stats_of(*events, *command("x", 0, 5, "ValueError: no")).commands.rows["DoCommand"]

    percentiles = row.durations.snapshot()["percentiles"]
    assert (row.count, row.failed) == (101, 1)
    assert percentiles["p50"] == pytest.approx(0.2, rel=0.06) or percentiles["p50"] == pytest.approx(0.1, rel=0.06)
    assert percentiles["p99"] == pytest.approx(0.2, rel=0.06)


def test_where_only_spans_were_logged_they_give_the_durations() -> None:
    span = {"event_type": "TraceEvent", "name": "Command DoCommand", "status": "OK", "timestamp": at(1)}
    begun = span | {"start_time": at(0), "end_time": None}
    ended = span | {"start_time": at(0), "end_time": at(1)}

    alone = stats_of(begun, ended)
    both = stats_of(*command("c", 0, 1), *command("not sampled", 0, 1), begun, ended)

    assert [(name, row.count) for name, row in alone.commands.rows.items()] == [("DoCommand", 1)]
    assert both.commands.rows["DoCommand"].count == 2


def test_errors_are_told_apart_by_type_and_message() -> None:
    failed = {"event_type": "EventHandlerFailedEvent", "timestamp": at(3), "handler": "shop.pack", "exception": "E: no"}
    stats = stats_of(*command("1", 0, 1, "E: no"), *command("2", 1, 2, "E: no"), *command("3", 2, 3, "E: yes"), failed)

    assert [(row.event_type, row.message, row.count) for _, row in stats.errors.top(9)] == [
        ("CommandErrorEvent", "DoCommand: E: no", 2),
        ("CommandErrorEvent", "DoCommand: E: yes", 1),
        ("EventHandlerFailedEvent", "shop.pack: E: no", 1),
    ]
    assert stats.errors_total == 4


def test_what_answers_cost_is_known_only_where_their_price_is() -> None:
    prices = {"p:a": Price(1.0, 2.0), "b": Price(0.5, 0.5)}
    stats = stats_of(answer("a"), answer("a"), answer("b"), answer("c"), prices=prices, by_session=True)

    assert {name: row.cost for name, row in stats.models.rows.items()} == {"p:a": 6.0, "p:b": 1.0, "p:c": None}
    assert stats.sessions is not None
    row = stats.sessions.rows["s"]
    assert (row.cost, row.unpriced, row.input_tokens) == (7.0, 1, 4_000_000)


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=4),
            st.booleans(),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_each_token_is_counted_once_whether_or_not_the_log_tells_of_each_request(
    prompts: list[tuple[list[tuple[int, int]], bool, bool]], random: Any
) -> None:
    waiting = [
        requests(str(number), *tokens, answered=answered, told=told)
        for number, (tokens, answered, told) in enumerate(prompts)
    ]
    mixed: list[dict[str, Any]] = []
    while any(waiting):
        mixed.append(random.choice([events for events in waiting if events]).pop(0))
    stats = stats_of(*mixed, prices={"a": Price(1e6, 1e6)}, by_session=True)

    counted = [tokens for tokens, answered, told in prompts if answered or told]
    read = sum(each for tokens in counted for each, _ in tokens)
    written = sum(each for tokens in counted for _, each in tokens)
    assert stats.sessions is not None
    if counted:
        row, session = stats.models.rows["p:a"], stats.sessions.rows["s"]
        assert (row.input_tokens, row.output_tokens, row.cost) == (read, written, read + written)
        assert (session.input_tokens, session.output_tokens, session.cost) == (read, written, read + written)
        assert row.requests == sum(map(len, counted))
        assert row.count == sum(answered for _, answered, _ in prompts)


def test_requests_that_were_not_answered_are_counted_apart() -> None:
    failed, cancelled, answered = requests("1", (0, 0), (0, 0), (5, 2), answered=False)
    failed |= {"finish_reason": None, "error": "TimeoutError: slow"}
    cancelled |= {"finish_reason": None, "error": ""}
    stats = stats_of(failed, cancelled, answered)

    row = stats.models.rows["p:a"]
    assert (row.count, row.requests, row.failed, row.input_tokens) == (0, 3, 2, 5)
    assert stats.errors_total == 0, "the prompt's own end tells of it"


def test_events_of_any_shape_are_counted() -> None:
    odd: list[dict[str, Any]] = [
        {},
        {"event_type": 1, "timestamp": 2, "session_id": 3},
        {"event_type": "CommandStartedEvent", "command": []},
        {"event_type": "CommandErrorEvent", "command_result": None},
        {"event_type": "TraceEvent", "name": "n", "end_time": "never", "start_time": 1, "status": "OK"},
        {"event_type": "LLMResponseEvent", "usage": {"input_tokens": "many"}},
        {"event_type": "ModelCallEndedEvent", "provider": "p", "model": "m", "finish_reason": None, "usage": []},
        {"event_type": "ToolExecuteResultEvent", "duration": None},
        {"event_type": "ToolExecuteResultEvent", "tool_name": "t", "duration": 1e300, "execution_succeed": True},
    ]

    assert stats_of(*odd, by_session=True).events == len(odd)
