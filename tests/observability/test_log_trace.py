"""A trace has every step once, below what caused it; and what a log does not say is not made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmgine.cli.trace_rows import rows_of, said_by
from llmgine.observability.log_trace import StepKind, build_trace, causes_of

NOW = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def event(identity: str, cause: str | None = None, seconds: float = 0.0, **fields: Any) -> dict[str, Any]:
    given = {"event_type": "NoteEvent", "event_id": identity, "causation_id": cause, "timestamp": at(seconds)}
    return given | fields


def started(identity: str, cause: str | None = None, seconds: float = 0.0, name: str = "DoCommand") -> dict[str, Any]:
    command = {"command_type": name, "command_id": identity, "causation_id": cause}
    return event(f"{identity}-started", identity, seconds, event_type="CommandStartedEvent", command=command)


def ended(identity: str, seconds: float, error: str | None = None) -> dict[str, Any]:
    result = {"command_id": identity, "success": error is None, "error": error}
    kind = "CommandResultEvent" if error is None else "CommandErrorEvent"
    return event(f"{identity}-ended", identity, seconds, event_type=kind, command_result=result)


def span(identity: str, cause: str, begin: float, end: float | None, name: str) -> dict[str, Any]:
    context = {"trace_id": "t", "span_id": identity, "parent_span_id": None}
    times = {"start_time": at(begin), "end_time": None if end is None else at(end)}
    kind = {"event_type": "TraceEvent", "name": name, "span_context": context, "status": None if end is None else "OK"}
    return event(f"{identity}-{end}", cause, begin if end is None else end, **kind, **times)


@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 10)), max_size=15))
def test_whatever_is_said_to_have_caused_what_each_step_is_there_once(links: list[tuple[int, int | None]]) -> None:
    trace = build_trace(event(str(own), None if cause is None else str(cause)) for own, cause in links)

    walked = [step.id for step in trace.walk()]
    shown = [step.id for row in rows_of(trace) for step in row.steps]
    known = {str(own) for own, _ in links}
    assert len(walked) == len(set(walked))
    assert known <= set(walked) <= known | {str(cause) for _, cause in links}
    assert sorted(shown) == sorted(walked)


def test_a_chain_as_deep_as_it_is_long_is_no_problem() -> None:
    trace = build_trace(event(str(number), str(number - 1) if number else None) for number in range(20_000))

    assert [step.depth for step in trace.walk()] == list(range(20_000))
    assert sum(1 for _ in rows_of(trace)) == 20_000
    assert len(causes_of(trace, "19999")) == 20_000


def test_a_command_is_one_step_however_often_the_log_tells_of_it() -> None:
    log = [
        span("s1", "c", 0.0, None, "Command DoCommand"),
        started("c", None, 0.001),
        event("e", "c", 0.5),
        ended("c", 2.0, "ValueError: no"),
        span("s1", "c", 0.0, 1.9, "Command DoCommand"),
    ]
    trace = build_trace(log)

    (root,) = trace.roots
    assert (root.kind, root.name, root.error, root.seconds) == (StepKind.COMMAND, "DoCommand", "ValueError: no", 1.9)
    assert [step.id for step in root.children] == ["e"]
    assert {trace.steps[name] for name in ("c", "c-started", "c-ended", "s1")} == {root}


def test_without_spans_durations_come_from_start_and_result() -> None:
    (root,) = build_trace([started("c"), ended("c", 1.5)]).roots

    assert (root.seconds, root.is_unfinished) == (1.5, False)


def test_what_has_not_ended_is_unfinished_and_has_no_duration() -> None:
    (root,) = build_trace([started("c")]).roots

    assert (root.seconds, root.is_unfinished) == (None, True)


def test_a_result_without_its_start_has_no_duration() -> None:
    (root,) = build_trace([ended("c", 1.0)]).roots

    assert (root.kind, root.seconds, root.start) == (StepKind.COMMAND, None, None)


def test_what_happens_inside_a_span_is_below_it() -> None:
    inside = f"00-{'1' * 32}-{'a' * 16}-01"
    log = [
        started("c"),
        span("a" * 16, "c", 0.1, None, "import"),
        event("e", "c", 0.2, traceparent=inside),
        span("a" * 16, "c", 0.1, 0.3, "import"),
        event("after", "c", 0.4),
        ended("c", 0.5),
    ]
    trace = build_trace(log)

    (root,) = trace.roots
    importing, after = root.children
    assert (importing.kind, importing.name, importing.seconds) == (StepKind.SPAN, "import", 0.2)
    assert [step.id for step in importing.children] == ["e"]
    assert after.id == "after"
    assert [step.id for step in causes_of(trace, "e")] == ["c", "e"]


def test_a_request_to_a_model_is_a_step_that_says_what_it_took() -> None:
    call = {"event_type": "ModelCallEndedEvent", "provider": "p", "model": "m", "turn": 1, "duration": 0.5}
    call |= {"usage": {"input_tokens": 7, "output_tokens": 3}, "finish_reason": "tool_calls", "error": ""}
    unanswered = call | {"finish_reason": None, "error": "OSError: no network"}
    log = [
        started("c"),
        event("1", "c", 1.0, **call),
        event("2", "c", 2.0, **unanswered),
        event("3", "c", 3.0, **unanswered | {"error": ""}),
        event("4", "c", 4.0, event_type="ModelCallEndedEvent"),
    ]
    (root,) = build_trace(log).roots
    answered, failed, cancelled, odd = root.children
    assert (answered.kind, answered.name, answered.seconds, answered.error) == (StepKind.MODEL, "m", 0.5, None)
    assert said_by(answered) == "7 + 3 tokens, tool_calls"
    assert (failed.error, said_by(failed)) == ("OSError: no network", "")
    assert (cancelled.error, said_by(cancelled)) == (None, "cancelled")
    assert said_by(odd) == ""


def test_retries_and_dead_letters_are_below_their_command_and_only_the_last_is_an_error() -> None:
    command = {"command_type": "DoCommand", "command_id": "c"}
    failed = {"command": command, "error": "OSError: no"}
    log = [
        started("c"),
        event("1", "c", 1.0, event_type="CommandRetriedEvent", attempt=1, delay=0.5, **failed),
        event("2", "c", 2.0, event_type="DeadLetterCommandEvent", attempts=2, **failed),
        ended("c", 2.5, "OSError: no"),
    ]
    trace = build_trace(log)
    (root,) = trace.roots
    retried, letter = root.children
    assert (retried.error, said_by(retried)) == (None, "DoCommand, attempt 1, the next after 500.0 ms: OSError: no")
    assert (letter.error, said_by(letter)) == ("OSError: no", "DoCommand after 2 attempts")
    assert [step.id for step in causes_of(trace, "2")] == ["c", "2"]


def test_a_tool_takes_as_long_as_its_result_says_and_the_next_call_may_have_the_same_id() -> None:
    call = {"event_type": "ToolCallEvent", "engine_id": "m", "tool_call_id": "1", "tool_name": "add"}
    result = call | {"event_type": "ToolExecuteResultEvent", "execution_succeed": True, "duration": 0.25}
    log = [
        event("1", "c", 0.0, **call),
        event("2", "c", 0.9, **result),
        event("3", "c", 1.0, **call),
        event("4", "c", 1.5, **result | {"execution_succeed": False, "tool_result": "Error: no"}),
    ]
    trace = build_trace(log)

    assert [(step.kind, step.seconds, step.error) for step in trace.roots[0].children] == [
        (StepKind.TOOL, 0.25, None),
        (StepKind.TOOL, 0.25, "Error: no"),
    ]


def test_a_cause_that_is_not_in_the_log_is_a_step_that_says_so() -> None:
    trace = build_trace([event("b", "a"), event("c", "b")])

    assert [(step.kind, step.id) for step in causes_of(trace, "c")] == [
        (StepKind.MISSING, "a"),
        (StepKind.EVENT, "b"),
        (StepKind.EVENT, "c"),
    ]


def test_events_of_any_shape_are_steps() -> None:
    odd: list[dict[str, Any]] = [
        {},
        {"event_type": 1, "event_id": 2, "causation_id": 3, "timestamp": 4},
        {"event_type": "CommandStartedEvent", "command": []},
        {"event_type": "CommandErrorEvent", "command_result": {"command_id": 1}},
        {"event_type": "TraceEvent", "span_context": {"span_id": None}},
        {"event_type": "ToolExecuteResultEvent", "duration": "long"},
    ]

    assert len([step for step in build_trace(odd).walk() if step.kind is not StepKind.MISSING]) == len(odd)
