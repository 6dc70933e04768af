"""What the published documents promise of the bus, used the way an application does, one promise a test.

What the laws of the bus say is tested in `tests/bus` and `tests/laws`; here it is names, defaults, shapes and words.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.filters import CompositeFilter, EventTypeFilter, RateLimitFilter
from llmgine.bus.interfaces import EventFilter, HandlerMiddleware, HandlerPriority
from llmgine.bus.metrics import get_metrics_collector, reset_metrics_collector
from llmgine.bus.middleware import LoggingMiddleware, TimingMiddleware, ValidationMiddleware
from llmgine.bus.registry import HandlerRegistry
from llmgine.bus.session import BusSession, SessionEndEvent, SessionEvent, SessionStartEvent
from llmgine.errors import BusNotRunningError, ConfigurationError, LLMgineError, SessionClosedError
from llmgine.llm import SessionID
from llmgine.messages.bus import message_bus
from llmgine.messages.commands import Command, CommandResult
from llmgine.messages.events import (
    CommandErrorEvent,
    CommandResultEvent,
    CommandStartedEvent,
    Event,
    EventHandlerFailedEvent,
)
from llmgine.observability import Metric, MetricEvent, ObservabilityManager, SpanContext, TraceEvent

NORTH, SOUTH = SessionID("north"), SessionID("south")


@dataclass
class IssueInvoice(Command[str]):
    customer: str = "nobody"
    cents: int = 0


class CloseBooks(Command[Any]):
    """Has no decorator and no `__init__`."""


@dataclass
class InvoiceIssued(Event):
    number: str = ""


class SensorRead(Event):
    def __init__(self, degrees: float) -> None:
        super().__init__()
        self.degrees = degrees


class SensorLost(Event):
    def __init__(self, where: str) -> None:
        self.where = where


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a new process does: without an application's bus, and with its metrics at zero."""
    monkeypatch.setattr(MessageBus, "_application", None)
    reset_metrics_collector()


@pytest.fixture
async def app() -> AsyncIterator[MessageBus]:
    """The application's bus, running."""
    bus = MessageBus()
    await bus.start()
    yield bus
    await bus.stop()


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# Observability, switched on by the constructor


async def test_the_log_holds_commands_results_errors_metrics_and_spans_in_their_order(tmp_path: Path) -> None:
    bus = MessageBus(
        log_dir=str(tmp_path / "logs"),
        log_filename="shop.jsonl",
        enable_console_metrics=False,
        enable_console_traces=False,
    )

    def issue(command: IssueInvoice) -> str:
        if command.cents <= 0:
            msg = "nothing to pay"
            raise ValueError(msg)
        return f"{command.customer}-1"

    bus.register_command_handler(IssueInvoice, issue)
    await bus.start()
    good, bad = IssueInvoice(customer="ada", cents=5, session_id=NORTH), IssueInvoice()
    await bus.execute(good)
    await bus.execute(bad)
    await bus.publish(InvoiceIssued(number="ada-1"))
    await bus.publish(MetricEvent(metrics=[Metric(name="invoices", value=1, unit="{invoice}", tags={"of": "ada"})]))
    await bus.stop()
    lines = lines_of(tmp_path / "logs" / "shop.jsonl")

    assert [line["event_type"] for line in lines] == [
        *("TraceEvent", "CommandStartedEvent", "CommandResultEvent", "TraceEvent"),
        *("TraceEvent", "CommandStartedEvent", "CommandErrorEvent", "TraceEvent"),
        "InvoiceIssued",
        "MetricEvent",
    ]
    begun, started, ended, span = lines[:4]
    assert (started["command"]["customer"], started["command"]["cents"]) == ("ada", 5)
    assert started["session_id"] == NORTH
    assert ended["command_result"] | {"success": True, "result": "ada-1", "error": None} == ended["command_result"]
    assert ended["command_result"]["command_id"] == started["command"]["command_id"] == good.command_id
    assert begun["name"] == span["name"] == "Command IssueInvoice"
    assert begun["span_context"] == span["span_context"]
    assert (begun["end_time"], begun["status"], span["status"]) == (None, None, "OK")
    assert datetime.fromisoformat(begun["start_time"]) <= datetime.fromisoformat(span["end_time"])
    failed, failed_span = lines[6:8]
    assert failed["command_result"]["error"] == "ValueError: nothing to pay"
    assert failed["command_result"]["success"] is False
    assert (failed_span["status"], failed_span["attributes"]) == ("ERROR", {"error": "ValueError: nothing to pay"})
    assert lines[8]["number"] == "ada-1"
    assert lines[9]["metrics"] == [{"name": "invoices", "value": 1, "unit": "{invoice}", "tags": {"of": "ada"}}]
    for line in lines:
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        assert line["event_id"]


@pytest.mark.parametrize("metrics", [None, True, False])
@pytest.mark.parametrize("traces", [None, True, False])
async def test_a_bus_with_a_log_writes_metrics_and_traces_to_the_console_unless_told_otherwise(
    metrics: bool | None, traces: bool | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = MessageBus(log_dir=tmp_path, enable_console_metrics=metrics, enable_console_traces=traces)
    await bus.start()
    await bus.publish(MetricEvent(metrics=[Metric(name="degrees", value=21.5)]))
    await bus.execute(CloseBooks())
    await bus.stop()
    shown = capsys.readouterr().err

    assert ("[METRIC] degrees = 21.5" in shown) is (metrics is not False)
    assert ("[TRACE] Command CloseBooks" in shown) is (traces is not False)


async def test_an_application_may_publish_spans_of_its_own(tmp_path: Path) -> None:
    bus = MessageBus(log_dir=tmp_path, log_filename="x.jsonl", enable_console_traces=False)
    await bus.start()
    context = SpanContext(trace_id="calibration", span_id="calibration-1")
    now = datetime.now(UTC).isoformat()
    await bus.publish(TraceEvent(name="Calibrate", span_context=context, start_time=now))
    await bus.publish(TraceEvent(name="Calibrate", span_context=context, end_time=now, status="OK"))
    await bus.stop()

    begun, ended = lines_of(tmp_path / "x.jsonl")
    assert begun["span_context"]["trace_id"] == ended["span_context"]["trace_id"] == "calibration"
    assert (begun["start_time"], begun["end_time"]) == (now, None)
    assert (ended["start_time"], ended["end_time"], ended["status"]) == (None, now, "OK")


async def test_a_manager_given_to_the_constructor_sees_every_event_once_at_once() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.seen: list[Event] = []

        def observe_event(self, event: Event) -> None:
            self.seen.append(event)

    recorder = Recorder()
    bus = MessageBus(observability=recorder)
    await bus.start()
    event = InvoiceIssued()
    bus.register_event_handler(InvoiceIssued, lambda heard: None)
    await bus.publish(event, await_processing=False)
    seen_before_it_was_handled = [*recorder.seen]
    await bus.stop()

    assert seen_before_it_was_handled == recorder.seen == [event]


async def test_a_manager_may_be_attached_later(app: MessageBus, caplog: pytest.LogCaptureFixture) -> None:
    from llmgine.observability.handlers.adapters import create_sync_console_handler

    manager = ObservabilityManager()
    manager.register_handler(create_sync_console_handler())
    app.set_observability_manager(manager)
    with caplog.at_level("INFO"):
        await app.publish(InvoiceIssued(session_id=NORTH))

    assert any("[EVENT] InvoiceIssued" in line and "Session=north" in line for line in caplog.messages)


async def test_a_manager_that_is_attached_to_a_bus_with_a_log_leaves_the_log_alone(tmp_path: Path) -> None:
    class Recorder(ObservabilityManager):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Event] = []

        def observe_event(self, event: Event) -> None:
            self.seen.append(event)

    given, attached = Recorder(), Recorder()
    bus = MessageBus(observability=given, log_dir=tmp_path, log_filename="x.jsonl")
    await bus.start()
    first, second = InvoiceIssued(number="1"), InvoiceIssued(number="2")
    await bus.publish(first)
    bus.set_observability_manager(attached)
    await bus.publish(second)
    await bus.stop()

    assert first in given.seen
    assert attached.seen == [second]
    assert [line["number"] for line in lines_of(tmp_path / "x.jsonl")] == ["1", "2"]


# The one bus of an application


async def test_the_bus_is_the_same_wherever_it_is_asked_for(app: MessageBus) -> None:
    assert MessageBus() is MessageBus() is app
    assert BusSession().bus is app
    assert MessageBus.isolated() is not app


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_size": 4}, ["batch_size=3", "not 4", "first call", "MessageBus.isolated()"]),
        ({"batch_timeout": 0.5}, ["batch_timeout=0.01", "not 0.5"]),
        ({"log_dir": "elsewhere"}, ["log_dir=None", "'elsewhere'"]),
        ({"log_filename": "other.jsonl"}, ["log_filename=None", "'other.jsonl'"]),
        ({"enable_console_metrics": True}, ["enable_console_metrics=None", "not True"]),
        ({"registry": HandlerRegistry()}, ["registry=None", "HandlerRegistry"]),
        ({"observability": ObservabilityManager()}, ["observability=None", "ObservabilityManager"]),
    ],
)
def test_options_that_contradict_the_bus_are_named(given: dict[str, Any], says: list[str]) -> None:
    MessageBus(batch_size=3)

    with pytest.raises(ConfigurationError) as raised:
        MessageBus(**given)

    assert [word for word in says if word not in str(raised.value)] == []


async def test_start_stop_and_reset_may_come_in_any_order() -> None:
    bus = MessageBus()
    await bus.reset()
    await bus.stop()
    await bus.start()
    await bus.start()
    await bus.stop()
    await bus.stop()
    await bus.reset()
    await bus.start()
    heard: list[Event] = []
    bus.register_event_handler(InvoiceIssued, heard.append)
    await bus.publish(InvoiceIssued())
    await bus.stop()

    assert len(heard) == 1


async def test_reset_forgets_handlers_middleware_filters_errors_and_what_was_kept() -> None:
    bus = MessageBus()
    heard: list[Event] = []
    timing = TimingMiddleware()

    def fail(event: SensorRead) -> None:
        raise ValueError(event.degrees)

    await bus.start()
    bus.register_command_handler(CloseBooks, lambda command: "closed")
    bus.register_event_handler(InvoiceIssued, heard.append)
    bus.register_event_handler(SensorRead, fail)
    bus.add_command_middleware(timing)
    bus.add_event_middleware(timing)
    bus.add_event_filter(EventTypeFilter(exclude_types={InvoiceIssued}))
    bus.unsuppress_event_errors()
    bus.set_batch_processing(2, 0.5)
    with pytest.raises(ValueError, match=r"3\.5"):
        await bus.publish(SensorRead(3.5))
    await bus.reset()
    await bus.publish(InvoiceIssued(number="kept, and forgotten by the next reset"))
    await bus.reset()
    await bus.start()
    bus.register_event_handler(InvoiceIssued, heard.append)
    await bus.publish(InvoiceIssued(number="after"))
    result = await bus.execute(CloseBooks())
    stats = await bus.get_stats()
    await bus.stop()

    assert [cast("InvoiceIssued", event).number for event in heard] == ["after"]
    assert result.error == "No handler registered for command CloseBooks"
    assert bus.event_handler_errors == []
    assert (await timing.get_stats()).keys() == {"event_SensorRead"}
    assert (stats["batch_size"], stats["batch_timeout"], stats["error_suppression"]) == (10, 0.01, True)
    assert (stats["total_errors"], stats["total_event_handlers"]) == (0, 1)


# Sessions


@pytest.mark.parametrize("way", ["of the bus", "of its own", "by hand", "by the protocol"])
async def test_a_session_is_announced_and_takes_its_handlers_with_it(app: MessageBus, way: str) -> None:
    told: list[SessionEvent] = []
    heard: list[str] = []
    app.register_event_handler(SessionStartEvent, told.append)
    app.register_event_handler(SessionEndEvent, told.append)

    async def use(session: BusSession) -> None:
        session.register_event_handler(InvoiceIssued, lambda event: heard.append(event.number))
        session.register_command_handler(CloseBooks, lambda command: "closed")
        await app.publish(InvoiceIssued(number="inside", session_id=session.session_id))
        await app.publish(InvoiceIssued(number="elsewhere", session_id=SOUTH))
        assert (await session.execute_with_session(CloseBooks())).result == "closed"

    if way == "of the bus":
        async with app.session("north") as session:
            await use(session)
    elif way == "of its own":
        async with BusSession("north") as session:
            await use(session)
    elif way == "by hand":
        session = app.create_session("north")
        await session.start()
        await use(session)
        await session.end()
    else:
        session = BusSession(id="north")
        assert await session.__aenter__() is session
        await use(session)
        await session.__aexit__(None, None, None)
    await app.publish(InvoiceIssued(number="afterwards", session_id=NORTH))

    assert [(type(event), event.session_id) for event in told] == [(SessionStartEvent, NORTH), (SessionEndEvent, NORTH)]
    assert cast("SessionEndEvent", told[1]).error is None
    assert heard == ["inside"]
    assert not (await app.execute(CloseBooks(session_id=NORTH))).success


async def test_a_session_without_an_id_gets_a_new_one(app: MessageBus) -> None:
    ids = {app.create_session().session_id, app.session().session_id, BusSession().session_id}

    assert len(ids) == 3
    assert all(isinstance(each, str) for each in ids)


async def test_handlers_that_were_registered_for_a_sessions_id_go_when_it_ends(app: MessageBus) -> None:
    heard: list[str] = []
    app.register_event_handler(InvoiceIssued, lambda event: heard.append(event.number), session_id=NORTH)
    async with app.session("north"):
        await app.publish(InvoiceIssued(number="1", session_id=NORTH))
    await app.publish(InvoiceIssued(number="2", session_id=NORTH))

    assert heard == ["1"]


async def test_registering_in_a_session_can_be_chained(app: MessageBus) -> None:
    async with app.session() as session:
        done = session.register_event_handler(InvoiceIssued, lambda event: None).register_command_handler(
            CloseBooks, lambda command: None
        )

        assert done is session
    with pytest.raises(RuntimeError, match="not active"):
        session.register_event_handler(InvoiceIssued, lambda event: None)


async def test_an_error_in_a_session_is_in_its_end_event_and_goes_on(app: MessageBus) -> None:
    ends: list[SessionEndEvent] = []
    app.register_event_handler(SessionEndEvent, ends.append)

    async def fail() -> None:
        async with BusSession("north") as session:
            session.register_command_handler(CloseBooks, lambda command: None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        await fail()

    assert [end.error for end in ends] == [raised.value]
    assert not (await app.execute(CloseBooks(session_id=NORTH))).success


async def test_executing_in_a_session_sends_its_id_and_leaves_the_command_alone(app: MessageBus) -> None:
    arrived: list[Command[Any]] = []
    app.register_command_handler(IssueInvoice, arrived.append)
    command = IssueInvoice(customer="ada")
    async with app.session("north") as session:
        result = await session.execute_with_session(command)

    assert (arrived[0].session_id, command.session_id) == (NORTH, "BUS")
    assert arrived[0].command_id == result.command_id == command.command_id
    assert cast("IssueInvoice", arrived[0]).customer == "ada"


# Registering


async def test_lower_priorities_run_first_and_are_done_first(app: MessageBus) -> None:
    ran: list[str] = []

    def handler(name: str) -> Callable[[Event], Any]:
        async def handle(event: Event) -> None:
            await asyncio.sleep(0)
            ran.append(name)

        return handle

    for name in ("LOW", "HIGHEST", "LOWEST", "HIGH", "NORMAL"):
        app.register_event_handler(InvoiceIssued, handler(name), priority=HandlerPriority[name])
    app.register_event_handler(InvoiceIssued, handler("20"), SessionID("BUS"), 20)
    await app.publish(InvoiceIssued())

    assert ran == ["HIGHEST", "HIGH", "20", "NORMAL", "LOW", "LOWEST"]
    assert [priority.value for priority in HandlerPriority] == [0, 10, 50, 90, 100]


class Clerk:
    """Handles in all the ways in which an object can."""

    def __init__(self, seen: list[object]) -> None:
        self.seen = seen

    def method(self, message: Any) -> str:
        self.seen.append(message)
        return "done"

    async def async_method(self, message: Any) -> str:
        await asyncio.sleep(0)
        return self.method(message)

    def with_more(self, ledger: str, message: Any) -> str:
        return self.method(message)

    async def async_with_more(self, ledger: str, message: Any) -> str:
        return self.with_more(ledger, message)

    @staticmethod
    def static(seen: list[object], message: Any) -> str:
        seen.append(message)
        return "done"


class CallableClerk(Clerk):
    def __call__(self, message: Any) -> str:
        return self.method(message)


class AsyncCallableClerk(Clerk):
    async def __call__(self, message: Any) -> str:
        return await self.async_method(message)


HANDLERS: dict[str, Callable[[list[object]], Callable[[Any], Any]]] = {
    "method": lambda seen: Clerk(seen).method,
    "async method": lambda seen: Clerk(seen).async_method,
    "partial": lambda seen: partial(Clerk(seen).with_more, "ledger"),
    "async partial": lambda seen: partial(Clerk(seen).async_with_more, "ledger"),
    "partial of a static method": lambda seen: partial(Clerk.static, seen),
    "object": CallableClerk,
    "async object": AsyncCallableClerk,
    "lambda": lambda seen: lambda message: Clerk(seen).method(message),
    "lambda that returns a coroutine": lambda seen: lambda message: Clerk(seen).async_method(message),
}


@pytest.mark.parametrize("make", HANDLERS.values(), ids=HANDLERS)
@pytest.mark.parametrize("register", ["register_{}_handler", "register_async_{}_handler"])
async def test_every_registration_takes_every_kind_of_callable(
    app: MessageBus, make: Callable[[list[object]], Callable[[Any], Any]], register: str
) -> None:
    commands: list[object] = []
    events: list[object] = []
    getattr(app, register.format("command"))(IssueInvoice, make(commands))
    getattr(app, register.format("event"))(InvoiceIssued, make(events))
    command, event = IssueInvoice(), InvoiceIssued()
    result = await app.execute(command)
    await app.publish(event)

    assert (result.success, result.result) == (True, "done")
    assert commands == [command]
    assert events == [event]


async def test_a_second_handler_for_a_command_in_one_scope_is_a_value_error(app: MessageBus) -> None:
    app.register_command_handler(CloseBooks, lambda command: "bus")
    app.register_command_handler(CloseBooks, lambda command: "north", session_id=NORTH)

    with pytest.raises(ValueError, match="CloseBooks is already registered in scope BUS"):
        app.register_command_handler(CloseBooks, lambda command: "again")
    assert (await app.execute(CloseBooks(session_id=NORTH))).result == "north"
    assert (await app.execute(CloseBooks(session_id=SOUTH))).result == "bus"


async def test_a_sessions_handlers_can_be_unregistered_by_its_id(app: MessageBus) -> None:
    app.register_command_handler(CloseBooks, lambda command: "bus")
    app.register_command_handler(CloseBooks, lambda command: "north", session_id=NORTH)
    app.unregister_session_handlers(NORTH)
    app.unregister_session_handlers(SessionID("BUS"))

    assert (await app.execute(CloseBooks(session_id=NORTH))).result == "bus"


# Executing


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("returned", [None, 7, "text", {"a": 1}, False])
async def test_a_plain_value_is_a_successful_result(app: MessageBus, returned: object, asynchronous: bool) -> None:
    async def answer(command: IssueInvoice) -> object:
        return returned

    app.register_command_handler(IssueInvoice, answer if asynchronous else lambda command: returned)
    command = IssueInvoice()
    result = await app.execute(command)

    assert (result.success, result.result, result.error) == (True, returned, None)
    assert result.command_id == command.command_id


@pytest.mark.parametrize("success", [True, False])
async def test_a_result_without_an_id_gets_the_commands(app: MessageBus, success: bool) -> None:
    app.register_command_handler(
        IssueInvoice, lambda command: CommandResult(success=success, result="x", error=None if success else "no paper")
    )
    command = IssueInvoice()
    result = await app.execute(command)

    assert (result.success, result.error) == (success, None if success else "no paper")
    assert result.command_id == command.command_id


async def test_what_a_handler_raises_is_a_failed_result_and_never_an_exception(app: MessageBus) -> None:
    def fail(command: IssueInvoice) -> None:
        raise OverflowError(command.customer)

    app.register_command_handler(IssueInvoice, fail)
    result = await app.execute(command := IssueInvoice(customer="ada"))

    assert (result.success, result.error, result.command_id) == (False, "OverflowError: ada", command.command_id)
    assert "in fail" in result.metadata["traceback"]
    with pytest.raises(OverflowError) as raised:
        result.unwrap()
    assert raised.value is result.exception


async def test_a_command_nobody_handles_is_a_failed_result(app: MessageBus) -> None:
    command = CloseBooks()
    result = await app.execute(command)

    assert (result.success, result.error) == (False, "No handler registered for command CloseBooks")
    assert result.command_id == command.command_id


async def test_commands_are_announced_and_concluded_to_whoever_listens(app: MessageBus) -> None:
    told: list[Event] = []
    app.register_event_handler(CommandStartedEvent, told.append)
    app.register_event_handler(CommandResultEvent, told.append)
    app.register_command_handler(IssueInvoice, lambda command: 1 // command.cents)
    good, bad = IssueInvoice(cents=1), IssueInvoice(cents=0)
    await app.execute(good)
    await app.execute(bad)
    await app.wait_for_events()

    assert [type(event) for event in told] == [
        *(CommandStartedEvent, CommandResultEvent),
        *(CommandStartedEvent, CommandErrorEvent),
    ]
    assert cast("CommandStartedEvent", told[0]).command is good
    concluded = cast("CommandErrorEvent", told[3]).command_result
    assert concluded is not None
    assert concluded.command_id == bad.command_id


# Messages


async def test_a_command_class_needs_no_decorator_and_stays_assignable(app: MessageBus) -> None:
    app.register_command_handler(CloseBooks, lambda command: command.session_id)
    command = CloseBooks(session_id=NORTH)
    first = await app.execute(command)
    command.session_id = SessionID("")
    command.metadata["year"] = 2025

    assert (first.result, command.session_id, command.metadata) == (NORTH, "", {"year": 2025})
    assert (await app.execute(command)).result == ""
    assert command.id == command.command_id


async def test_an_event_may_have_its_own_init_with_or_without_the_bases(app: MessageBus) -> None:
    heard: list[Event] = []
    app.register_event_handler(Event, heard.append)
    read, lost = SensorRead(21.5), SensorLost("roof")
    await app.publish(read)
    await app.publish(lost)

    assert heard == [read, lost]
    assert (read.degrees, lost.where) == (21.5, "roof")
    for event in (read, lost):
        assert event.event_id == event.id
        assert (event.session_id, event.metadata) == ("BUS", {})
        assert datetime.fromisoformat(event.timestamp).utcoffset() is not None
    assert read.event_id != lost.event_id


async def test_fields_of_an_event_are_not_validated(app: MessageBus) -> None:
    heard: list[Event] = []
    app.register_event_handler(InvoiceIssued, heard.append)
    odd = InvoiceIssued(session_id=cast("SessionID", None), timestamp=cast("str", datetime(2025, 1, 2, tzinfo=UTC)))
    await app.publish(odd)
    dummy = CommandResultEvent(command_result=cast("Any", object()))

    assert heard == [odd]
    assert odd.to_dict()["timestamp"] == "2025-01-02T00:00:00+00:00"
    assert InvoiceIssued.from_dict(odd.to_dict()).event_id == odd.event_id
    assert dummy == dummy  # noqa: PLR0124  # published: an event equals itself


# Publishing


async def test_not_waiting_queues_without_giving_anyone_a_turn(app: MessageBus) -> None:
    heard: list[Event] = []
    app.register_event_handler(InvoiceIssued, heard.append)
    for _ in range(10):
        await app.publish(InvoiceIssued(), await_processing=False)

    assert heard == []
    assert (await app.get_metrics())["gauges"]["queue_size"]["value"] >= 10
    await app.wait_for_events()
    assert len(heard) == 10
    assert (await app.get_metrics())["gauges"]["queue_size"]["value"] == 0


async def test_what_is_published_before_start_is_delivered_in_the_first_turn_after_it() -> None:
    bus = MessageBus()
    heard: list[str] = []
    bus.register_event_handler(InvoiceIssued, lambda event: heard.append(event.number))
    await bus.publish(InvoiceIssued(number="1"))
    await bus.publish(InvoiceIssued(number="2"), await_processing=False)
    before = [*heard]
    await bus.start()
    await asyncio.sleep(0)
    in_the_first_turn = [*heard]
    await bus.stop()

    assert (before, in_the_first_turn) == ([], ["1", "2"])


async def test_failures_are_kept_from_publishers_until_unsuppressed_and_counted_once(app: MessageBus) -> None:
    error = RuntimeError("the printer is out of paper")
    heard: list[Event] = []
    reported: list[EventHandlerFailedEvent] = []

    def fail(event: InvoiceIssued) -> None:
        raise error

    app.register_event_handler(InvoiceIssued, fail, priority=HandlerPriority.HIGH)
    app.register_event_handler(InvoiceIssued, heard.append)
    app.register_event_handler(EventHandlerFailedEvent, reported.append)
    event = InvoiceIssued()
    await app.publish(event)
    app.unsuppress_event_errors()
    with pytest.raises(RuntimeError) as raised:
        await app.publish(event)
    app.suppress_event_errors()
    await app.publish(event)
    await app.wait_for_events()

    assert raised.value is error
    assert app.event_handler_errors == [error, error, error]
    assert heard == [event, event, event]
    assert len(reported) == 3
    assert (reported[0].event, reported[0].exception) == (event, error)
    assert reported[0].handler is not None
    assert reported[0].handler.endswith("fail")


async def test_the_history_of_errors_has_a_limit_and_the_count_has_none(app: MessageBus) -> None:
    def fail(event: SensorRead) -> None:
        raise ValueError(event.degrees)

    app.register_event_handler(SensorRead, fail)
    for degrees in range(5):
        await app.publish(SensorRead(degrees))
    app.set_error_history_limit(3)
    kept = [str(error) for error in app.event_handler_errors]
    await app.publish(SensorRead(5))

    assert kept == ["2", "3", "4"]
    assert [str(error) for error in app.event_handler_errors] == ["3", "4", "5"]
    assert (await app.get_stats())["total_errors"] == 6


# Filters and middleware, as they are put together


async def test_a_type_filter_and_a_rate_limit_for_each_session(app: MessageBus) -> None:
    heard: list[Event] = []
    now = [0.0]
    app.add_event_filter(
        CompositeFilter(
            [
                EventTypeFilter(include_types={InvoiceIssued}),
                RateLimitFilter(max_per_second=2, per_session=True, clock=lambda: now[0]),
            ]
        )
    )
    app.register_event_handler(Event, heard.append)
    for session in (NORTH, SOUTH):
        for number in range(3):
            await app.publish(InvoiceIssued(number=str(number), session_id=session))
        await app.publish(SensorRead(1.0))
    now[0] = 0.6
    await app.publish(InvoiceIssued(number="later", session_id=NORTH))

    assert [(event.session_id, cast("InvoiceIssued", event).number) for event in heard] == [
        *((NORTH, "0"), (NORTH, "1"), (SOUTH, "0"), (SOUTH, "1")),
        (NORTH, "later"),
    ]
    assert (await app.get_stats())["filtered"] == {"CompositeFilter": 4}


async def test_a_filter_of_ones_own_is_asked_with_the_session(app: MessageBus) -> None:
    asked: list[tuple[Event, str]] = []

    class Deaf(EventFilter):
        def should_handle(self, event: Event, session_id: SessionID) -> bool:
            asked.append((event, session_id))
            return False

    app.add_event_filter(Deaf())
    app.register_event_handler(InvoiceIssued, lambda event: pytest.fail("it was turned away"))
    app.register_event_handler(InvoiceIssued, lambda event: pytest.fail("it was turned away"), NORTH)
    event = InvoiceIssued(session_id=NORTH)
    await app.publish(event)

    assert asked == [(event, NORTH)]


async def test_logging_and_validation_around_commands_and_events(
    app: MessageBus, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[object] = []
    app.add_command_middleware(LoggingMiddleware())
    app.add_command_middleware(ValidationMiddleware(validate_session_id=True))
    app.add_event_middleware(LoggingMiddleware())
    app.register_command_handler(CloseBooks, called.append)
    app.register_event_handler(InvoiceIssued, called.append)
    with caplog.at_level("INFO"):
        refused = await app.execute(CloseBooks(session_id=SessionID("")))
        await app.execute(CloseBooks())
        await app.publish(InvoiceIssued())

    assert (refused.success, refused.error) == (False, "Command missing session_id")
    assert len(called) == 2
    for words in ("Executing command CloseBooks", "CloseBooks completed in", "Processing event InvoiceIssued"):
        assert any(words in line for line in caplog.messages)


async def test_a_layer_of_ones_own_may_answer_change_or_pass_on(app: MessageBus) -> None:
    class Discount(HandlerMiddleware):
        async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> CommandResult[Any]:
            if command.cents < 0:
                return CommandResult(success=False, error="less than nothing")
            result: CommandResult[Any] = await next_middleware(command, handler)
            result.metadata["discount"] = True
            return result

        async def process_event(self, event: Any, handler: Any, next_middleware: Any) -> None:
            await next_middleware(InvoiceIssued(number=event.number.upper()), handler)

    heard: list[str] = []
    app.add_command_middleware(Discount())
    app.add_event_middleware(Discount())
    app.register_command_handler(IssueInvoice, lambda command: f"{command.cents} cents")
    app.register_event_handler(InvoiceIssued, lambda event: heard.append(event.number))
    refused, passed = await app.execute(IssueInvoice(cents=-1)), await app.execute(IssueInvoice(cents=2))
    await app.publish(InvoiceIssued(number="a1"))

    assert (refused.success, refused.error) == (False, "less than nothing")
    assert (passed.result, passed.metadata) == ("2 cents", {"discount": True})
    assert heard == ["A1"]


# Figures


async def test_the_statistics_have_these_names_and_defaults(app: MessageBus) -> None:
    assert await app.get_stats() == {
        "running": True,
        "queue_size": 0,
        "batch_size": 10,
        "batch_timeout": 0.01,
        "error_suppression": True,
        "total_errors": 0,
        "filtered": {},
        "total_sessions": 1,
        "total_command_handlers": 0,
        "total_event_handlers": 0,
        "bus_command_handlers": 0,
        "bus_event_handlers": 0,
    }
    app.set_batch_processing(32, 0.25)
    app.unsuppress_event_errors()
    app.register_event_handler(InvoiceIssued, lambda event: None, NORTH)
    app.register_command_handler(CloseBooks, lambda command: None)
    stats = await app.get_stats()

    assert (stats["batch_size"], stats["batch_timeout"], stats["error_suppression"]) == (32, 0.25, False)
    assert (stats["total_sessions"], stats["total_event_handlers"], stats["bus_event_handlers"]) == (2, 1, 0)
    assert (stats["total_command_handlers"], stats["bus_command_handlers"]) == (1, 1)


async def test_the_metrics_have_these_names_and_count_handlers_calls_and_commands(app: MessageBus) -> None:
    def fail(event: InvoiceIssued) -> None:
        raise ValueError

    app.register_event_handler(InvoiceIssued, lambda event: None)
    app.register_event_handler(InvoiceIssued, lambda event: None)
    app.register_event_handler(InvoiceIssued, fail)
    app.register_command_handler(IssueInvoice, lambda command: 1 // command.cents)
    await app.publish(InvoiceIssued())
    await app.publish(SensorLost("nobody listens"))
    await app.execute(IssueInvoice(cents=1))
    await app.execute(IssueInvoice(cents=1))
    await app.execute(IssueInvoice(cents=0))
    metrics = await app.get_metrics()

    assert {name: each["value"] for name, each in metrics["counters"].items()} == {
        "events_published_total": 2,
        "events_processed_total": 2,
        "events_failed_total": 1,
        "commands_sent_total": 3,
        "commands_processed_total": 2,
        "commands_failed_total": 1,
    }
    assert {name: each["count"] for name, each in metrics["histograms"].items()} == {
        "event_processing_duration_seconds": 3,
        "command_processing_duration_seconds": 3,
    }
    for each in metrics["histograms"].values():
        assert each.keys() == {"description", "count", "sum", "percentiles", "buckets"}
        assert each["percentiles"].keys() == {"p50", "p95", "p99"}
        assert 0 < each["percentiles"]["p50"] <= each["percentiles"]["p99"] <= each["sum"]
    assert {name: each["value"] for name, each in metrics["gauges"].items()} == {
        "queue_size": 0,
        "backpressure_active": 0,
        "circuit_breaker_state": 0,
        "dead_letter_queue_size": 0,
        "active_sessions": 0,
        "registered_handlers": 4,
    }
    assert all(each["description"] for kind in metrics.values() for each in kind.values())


async def test_percentiles_of_what_never_ran_are_none(app: MessageBus) -> None:
    for each in (await app.get_metrics())["histograms"].values():
        assert each["percentiles"] == {"p50": None, "p95": None, "p99": None}


async def test_sessions_that_are_open_are_counted(app: MessageBus) -> None:
    async def active() -> float:
        return cast("float", (await app.get_metrics())["gauges"]["active_sessions"]["value"])

    async with app.session(), app.session():
        inside = await active()

    assert (inside, await active()) == (2, 0)


async def test_the_collector_is_the_applications_and_is_zeroed_in_place(app: MessageBus) -> None:
    collector = get_metrics_collector()
    app.register_event_handler(InvoiceIssued, lambda event: None)
    await app.publish(InvoiceIssued())
    isolated = MessageBus.isolated()
    await isolated.start()
    await isolated.publish(InvoiceIssued())
    await isolated.stop()
    before = collector.counters["events_published_total"].value
    reset_metrics_collector()

    assert (before, collector.counters["events_published_total"].value) == (1, 0)
    assert app.metrics is collector
    assert await collector.get_metrics() == await app.get_metrics()


# Misuse is answered in words


def _hears_sensors(event: SensorRead) -> None: ...


async def _asked_later(event: Event, session_id: str) -> bool:
    return True


class _Lets(EventFilter):
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return True


class _Undecorated(Event):
    degrees: float
    unit: str


class _UndecoratedCommand(Command[None]):
    degrees: float


Misuse = Callable[[Any], Any]


async def _attempt(use: Misuse, target: object) -> None:
    begun = use(target)
    if inspect.isawaitable(begun):
        await begun


MISUSE: dict[str, tuple[Misuse, list[str]]] = {
    "a handler of something that is no message class": (
        lambda bus: bus.register_event_handler(dict, lambda event: None),
        ["subclass of Event", "dict"],
    ),
    "a handler of nothing": (
        lambda bus: bus.register_command_handler(None, lambda command: None),
        ["subclass of Command", "None"],
    ),
    "an event handler of a command class": (
        lambda bus: bus.register_event_handler(IssueInvoice, lambda event: None),
        ["subclass of Event", "IssueInvoice"],
    ),
    "a command handler of an event class": (
        lambda bus: bus.register_command_handler(InvoiceIssued, lambda command: None),
        ["subclass of Command", "InvoiceIssued"],
    ),
    "a handler that is annotated with another class": (
        lambda bus: bus.register_event_handler(InvoiceIssued, _hears_sensors),
        ["_hears_sensors takes SensorRead", "cannot handle InvoiceIssued", "Register it for what it takes"],
    ),
    "a handler that takes nothing": (
        lambda bus: bus.register_event_handler(InvoiceIssued, lambda: None),
        ["InvoiceIssued", "one argument, the message"],
    ),
    "a handler that is a class": (
        lambda bus: bus.register_event_handler(InvoiceIssued, CallableClerk),
        ["CallableClerk", "register an instance"],
    ),
    "a handler that is no callable": (
        lambda bus: bus.register_command_handler(IssueInvoice, "issue"),
        ["IssueInvoice", "'issue'", "not callable", "must be a callable that takes the message"],
    ),
    "a coroutine function as a filter": (
        lambda bus: bus.add_event_filter(_asked_later),
        ["_asked_later", "not a filter", "should_handle(event, session_id)", "True or False"],
    ),
    "a lambda as a filter": (
        lambda bus: bus.add_event_filter(lambda event, session_id: True),
        ["<lambda>", "not a filter", "should_handle(event, session_id)"],
    ),
    "a class as a filter": (
        lambda bus: bus.add_event_filter(_Lets),
        ["_Lets is a class", "should_handle", "Make one: _Lets("],
    ),
    "a function as middleware": (
        lambda bus: bus.add_command_middleware(_asked_later),
        ["_asked_later", "process_command", "subclass HandlerMiddleware"],
    ),
    "an event class that lacks its decorator": (
        lambda bus: bus.register_event_handler(_Undecorated, lambda event: None),
        ["_Undecorated declares degrees, unit", "@dataclass", "__init__"],
    ),
    "an event of a class that lacks its decorator": (
        lambda bus: bus.publish(_Undecorated()),
        ["_Undecorated declares degrees, unit", "@dataclass", "__init__"],
    ),
    "a command of a class that lacks its decorator": (
        lambda bus: bus.execute(_UndecoratedCommand()),
        ["_UndecoratedCommand declares degrees", "@dataclass", "__init__"],
    ),
    "a pattern that is no name": (
        lambda bus: bus.register_event_handler("invoice..issued", lambda event: None),
        ["'invoice..issued'", "no name", "'*'", "'**'"],
    ),
    "a queue from outside": (
        lambda bus: MessageBus.isolated(event_queue=asyncio.Queue()),
        ["no queue from outside", "Leave event_queue out"],
    ),
    "a batch of nothing": (lambda bus: bus.set_batch_processing(0, 0.1), ["batch_size", "at least 1", "got 0"]),
}


@pytest.mark.parametrize(("use", "says"), MISUSE.values(), ids=MISUSE)
async def test_misuse_is_refused_at_once_in_words(app: MessageBus, use: Misuse, says: list[str]) -> None:
    app.register_command_handler(CloseBooks, lambda command: None)

    with pytest.raises(ConfigurationError) as raised:
        await _attempt(use, app)

    assert [word for word in says if word not in str(raised.value)] == []


WRONG_KIND: dict[str, tuple[Misuse, list[str]]] = {
    "a command that is published": (lambda bus: bus.publish(CloseBooks()), ["CloseBooks", "Event"]),
    "an event that is executed": (lambda bus: bus.execute(InvoiceIssued()), ["InvoiceIssued", "Command"]),
    "a text that is published": (lambda bus: bus.publish("text"), ["str", "Event"]),
    "a text that is executed": (lambda bus: bus.execute("text"), ["str", "Command"]),
}


@pytest.mark.parametrize(("use", "says"), WRONG_KIND.values(), ids=WRONG_KIND)
async def test_a_message_of_the_wrong_kind_is_refused(app: MessageBus, use: Misuse, says: list[str]) -> None:
    app.register_command_handler(CloseBooks, lambda command: None)
    app.register_event_handler(InvoiceIssued, lambda event: None)

    with pytest.raises(ConfigurationError) as raised:
        await _attempt(use, app)

    assert [word for word in says if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("use", "instead"),
    [(lambda bus: bus.publish(CloseBooks()), "execute"), (lambda bus: bus.execute(InvoiceIssued()), "publish")],
)
async def test_a_message_of_the_wrong_kind_is_told_where_it_belongs(app: MessageBus, use: Misuse, instead: str) -> None:
    with pytest.raises(ConfigurationError, match=instead):
        await _attempt(use, app)


async def test_publishing_after_stop_says_what_to_do(app: MessageBus) -> None:
    await app.stop()

    with pytest.raises(BusNotRunningError) as raised:
        await app.publish(InvoiceIssued())

    for words in ("has been stopped", "InvoiceIssued was not published", "Start it again"):
        assert words in str(raised.value)


USES: dict[str, Misuse] = {
    "an event handler": lambda session: session.register_event_handler(InvoiceIssued, lambda event: None),
    "a command handler": lambda session: session.register_command_handler(CloseBooks, lambda command: None),
    "a command": lambda session: session.execute_with_session(CloseBooks()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_session_after_its_end_says_what_to_do(app: MessageBus, use: Misuse) -> None:
    async with app.session("north") as session:
        pass

    with pytest.raises(SessionClosedError) as raised:
        await _attempt(use, session)

    for words in ("Session north is not active", "async with", "start() and end()"):
        assert words in str(raised.value)


def test_every_misuse_can_be_caught_as_one_kind_of_error() -> None:
    for kind in (ConfigurationError, BusNotRunningError, SessionClosedError):
        assert issubclass(kind, LLMgineError)


# From synchronous code


def test_an_application_without_async_dispatches_and_subscribes_by_name() -> None:
    heard: list[str] = []

    def issue(command: IssueInvoice) -> str:
        number = f"{command.customer}-1"
        message_bus.add_pending_event(InvoiceIssued(number=number))
        if not command.cents:
            msg = f"{command.customer} owes nothing"
            raise ValueError(msg)
        return number

    message_bus.register_command(IssueInvoice, issue)
    message_bus.subscribe_event("invoice.issued", lambda event: heard.append(f"exactly {event.number}"))
    message_bus.subscribe_event("invoice.*", lambda event: heard.append(f"any {event.number}"))
    try:
        number = message_bus.dispatch(IssueInvoice(customer="ada", cents=1))
        with pytest.raises(ValueError, match="bob owes nothing"):
            message_bus.dispatch(IssueInvoice(customer="bob"))
    finally:
        message_bus.close()

    assert number == "ada-1"
    assert heard == ["exactly ada-1", "any ada-1"]


async def test_dispatching_inside_the_bus_names_the_asynchronous_way(app: MessageBus) -> None:
    app.register_command_handler(CloseBooks, lambda command: "closed")

    with pytest.raises(RuntimeError, match="dispatch_async"):
        message_bus.dispatch(CloseBooks())
    assert await message_bus.dispatch_async(CloseBooks()) == "closed"
