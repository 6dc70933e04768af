"""Spans and their names: what a `traceparent` says, and which span a command's is below."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import MessageBus, tracing
from llmgine.bus.tracing import CommandSpan, SpanContext, TraceEvent, begin_span
from llmgine.messages import Command, CommandResult, Event, SessionID

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


class Outer(Command[None]):
    pass


class Inner(Command[None]):
    pass


class Happened(Event):
    pass


def begin(command: Command[None]) -> CommandSpan:
    span = begin_span(command)
    assert span is not None
    return span


# traceparent


def test_a_traceparent_names_a_span_of_a_trace() -> None:
    assert SpanContext.parse(GIVEN) == SpanContext(trace_id=TRACE, span_id=SPAN)
    assert SpanContext(TRACE, SPAN, parent_span_id="f" * 16).traceparent == GIVEN


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_the_flags_are_bits_of_which_the_lowest_says_whether_the_span_is_recorded(flags: str, sampled: bool) -> None:
    context = SpanContext.parse(GIVEN[:-2] + flags)

    assert context is not None
    assert context.sampled is sampled
    assert context.traceparent == GIVEN[:-2] + ("01" if sampled else "00")


@pytest.mark.parametrize("more", ["", "-", "-anything\nat all", "-00"])
def test_a_later_version_is_read_by_what_it_has_in_common_with_the_first(more: str) -> None:
    context = SpanContext.parse(f"cc-{TRACE}-{SPAN}-01{more}")

    assert context == SpanContext(TRACE, SPAN)
    assert context.traceparent == GIVEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        GIVEN.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"cc-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-011",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-1]}\u0664-{SPAN}-01",
        f"{GIVEN}\n",
        f" {GIVEN}",
        None,
        GIVEN.encode(),
        7,
    ],
)
def test_what_is_malformed_names_nothing(text: object) -> None:
    assert SpanContext.parse(text) is None


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


@given(st.builds(SpanContext, hexadecimal(32), hexadecimal(16), st.none(), st.booleans()))
def test_every_span_survives_its_traceparent(context: SpanContext) -> None:
    assert SpanContext.parse(context.traceparent) == context


@pytest.mark.parametrize(
    ("trace_id", "span_id"), [("custom", SPAN), (TRACE, "custom"), ("0" * 32, SPAN), (TRACE.upper(), SPAN)]
)
def test_ids_that_w3c_does_not_allow_have_no_traceparent(trace_id: str, span_id: str) -> None:
    assert SpanContext(trace_id, span_id).traceparent is None


# Spans of commands


def test_a_span_is_below_the_one_that_its_command_came_with() -> None:
    command = Outer()
    command.traceparent = GIVEN
    context = begin(command).context

    assert (context.trace_id, context.parent_span_id) == (TRACE, SPAN)
    assert context.span_id != SPAN


@pytest.mark.parametrize("given", [None, "", "nonsense", f"ff-{TRACE}-{SPAN}-01"])
def test_without_a_valid_traceparent_a_trace_begins(given: str | None) -> None:
    """Its id is random, as samplers that look at it need it to be."""
    command, again = Outer(), Outer()
    command.traceparent = again.traceparent = given
    context, other = begin(command).context, begin(again).context

    assert context.parent_span_id is None
    assert SpanContext.parse(context.traceparent) == context
    assert context.trace_id[16:] != other.trace_id[16:]


def test_no_id_is_all_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn:
        numbers: Iterator[int] = iter([0, 0, 3, 0, 5])

        def urandom(self, size: int) -> bytes:
            return next(self.numbers).to_bytes(size)

    monkeypatch.setattr(tracing, "os", Drawn())
    command = Outer(command_id="not hexadecimal")
    context = begin(command).context

    assert (int(context.trace_id, 16), int(context.span_id, 16)) == (3, 5)
    assert (len(context.trace_id), len(context.span_id)) == (32, 16)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_does_not_repeat_its_parents_ids() -> None:
    begin(Outer())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, begin(Outer()).context.span_id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 16).decode()
    os.close(reader)
    os.close(writer)

    assert len(theirs) == 16
    assert theirs != begin(Outer()).context.span_id


@pytest.mark.parametrize("given", [None, GIVEN, "nonsense"])
def test_a_span_is_its_commands_traceparent_until_it_ends(given: str | None) -> None:
    command = Outer()
    command.traceparent = given
    span = begin(command)

    assert command.traceparent == span.context.traceparent
    span.ended(CommandResult(success=True))
    assert command.traceparent == given


def test_a_command_that_is_executed_again_has_a_span_beside_the_first() -> None:
    command = Outer()
    command.traceparent = GIVEN
    first, second = begin(command), None
    first.ended(CommandResult(success=False, error="not yet"))
    second = begin(command)

    assert first.context.span_id != second.context.span_id
    assert first.context.parent_span_id == second.context.parent_span_id == SPAN


def test_what_descends_from_a_span_that_is_not_recorded_is_not_recorded() -> None:
    command = Outer()
    command.traceparent = unrecorded = f"00-{TRACE}-{SPAN}-00"

    assert begin_span(command) is None
    assert command.traceparent == unrecorded


# Their events


@pytest.fixture
def span(monkeypatch: pytest.MonkeyPatch) -> CommandSpan:
    """A span that begins at 10 s and lasts 1.5 ms, while somebody sets the wall clock back."""
    wall, ticks = iter([10 * 10**9, 0]), iter([500, 1_500_500])
    monkeypatch.setattr(tracing, "time_ns", lambda: next(wall))
    monkeypatch.setattr(tracing, "perf_counter_ns", lambda: next(ticks))
    command = Outer(session_id=SessionID("mine"))
    command.traceparent = GIVEN
    return begin(command)


def test_a_span_that_has_begun_has_a_start_and_nothing_more(span: CommandSpan) -> None:
    event = span.started()

    assert (event.name, event.span_context, event.session_id) == ("Command Outer", span.context, "mine")
    assert event.start_time == "1970-01-01T00:00:10.000000+00:00"
    assert (event.end_time, event.status, event.attributes) == (None, None, {})


def test_the_end_of_a_span_says_all_of_it(span: CommandSpan) -> None:
    event = span.ended(CommandResult(success=True))

    assert (event.name, event.span_context, event.session_id) == ("Command Outer", span.context, "mine")
    assert event.start_time == "1970-01-01T00:00:10.000000+00:00"
    assert event.end_time == "1970-01-01T00:00:10.001500+00:00"
    assert (event.status, event.attributes) == ("OK", {})


def test_a_failure_ends_its_span_with_the_error(span: CommandSpan) -> None:
    event = span.ended(CommandResult(success=False, error="ValueError: no"))

    assert (event.status, event.attributes) == ("ERROR", {"error": "ValueError: no"})


def test_times_are_now_in_utc() -> None:
    event = begin(Outer()).ended(CommandResult(success=True))

    assert event.start_time is not None
    assert event.end_time is not None
    start, end = datetime.fromisoformat(event.start_time), datetime.fromisoformat(event.end_time)
    assert start <= end
    assert abs((datetime.now(end.tzinfo) - end).total_seconds()) < 60
    assert end.tzinfo is not None


# On a bus


async def test_what_a_handler_sends_is_below_its_commands_span(bus: MessageBus) -> None:
    inner: list[SpanContext] = []
    published: list[str | None] = []

    async def outer(_: Outer) -> None:
        event = Happened()
        await bus.publish(event, await_processing=False)
        published.append(event.traceparent)
        await bus.execute(Inner())

    async def on_happened(_: Happened) -> None:
        await bus.execute(Inner())

    bus.register_command_handler(Outer, outer)
    bus.register_command_handler(Inner, lambda command: inner.append(begin(command).context))
    bus.register_event_handler(Happened, on_happened)
    command = Outer()
    span = begin(command)
    await bus.execute(command)
    await bus.wait_for_events()

    assert published == [span.context.traceparent]
    assert [context.trace_id for context in inner] == [span.context.trace_id] * 2
    assert [context.parent_span_id for context in inner] == [span.context.span_id] * 2
    assert len({span.context.span_id, *(context.span_id for context in inner)}) == 3


async def test_commands_side_by_side_have_spans_of_their_own(bus: MessageBus) -> None:
    inner: dict[str | None, SpanContext] = {}

    async def outer(command: Outer) -> None:
        await asyncio.sleep(0)
        nested = Inner()
        await bus.execute(nested)
        inner[nested.causation_id] = begin(nested).context

    bus.register_command_handler(Outer, outer)
    bus.register_command_handler(Inner, lambda _: None)
    commands = [Outer() for _ in range(3)]
    spans = {command.command_id: begin(command).context for command in commands}
    await asyncio.gather(*(bus.execute(command) for command in commands))

    assert {cause: context.parent_span_id for cause, context in inner.items()} == {
        command_id: context.span_id for command_id, context in spans.items()
    }


@pytest.mark.parametrize("ended", [False, True])
async def test_a_handler_of_spans_makes_none(bus: MessageBus, ended: bool) -> None:
    made: list[CommandSpan | None] = []

    async def export(_: TraceEvent) -> None:
        await bus.execute(Inner())

    bus.register_event_handler(TraceEvent, export)
    bus.register_command_handler(Inner, lambda command: made.append(begin_span(command)))
    span = begin(Outer())
    await bus.publish(span.ended(CommandResult(success=True)) if ended else span.started())

    assert made == [None]
