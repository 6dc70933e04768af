"""Laws 7 to 15: events."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from llmgine.bus import EventFilter, HandlerMiddleware, HandlerPriority, MessageBus, StopReport
from llmgine.errors import BusNotRunningError, ConfigurationError
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import EventHandlerFailedEvent

A, B = SessionID("a"), SessionID("b")


@dataclass
class Counted(Event):
    n: int = 0


class CountedTwice(Counted):
    pass


class Gate:
    """A handler that waits at a gate, and notes what passed."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.passed: list[Any] = []

    async def __call__(self, event: Counted) -> None:
        self.entered.set()
        await self.open.wait()
        self.passed.append(event.n)


# 7: order per session


async def test_events_of_a_session_are_delivered_in_the_order_of_publishing(bus: MessageBus) -> None:
    seen: list[int] = []

    async def note(event: Counted) -> None:
        await asyncio.sleep(0)
        seen.append(event.n)

    bus.register_event_handler(Counted, note)
    await asyncio.gather(*(bus.publish(Counted(n=n, session_id=A), await_processing=n % 3 == 0) for n in range(50)))
    await bus.wait_for_events()

    assert seen == list(range(50))


async def test_a_slow_session_does_not_delay_another(bus: MessageBus) -> None:
    gate = Gate()
    bus.register_event_handler(Counted, gate, A)
    seen: list[int] = []
    bus.register_event_handler(Counted, lambda e: seen.append(e.n), B)

    waiting = asyncio.create_task(bus.publish(Counted(n=1, session_id=A)))
    await gate.entered.wait()
    await bus.publish(Counted(n=2, session_id=B))

    assert seen == [2]
    assert not waiting.done()
    gate.open.set()
    await waiting


async def test_the_bus_scope_is_a_session_like_any_other(bus: MessageBus) -> None:
    gate = Gate()
    bus.register_event_handler(Counted, gate)
    first = asyncio.create_task(bus.publish(Counted(n=1)))
    await gate.entered.wait()
    second = asyncio.create_task(bus.publish(Counted(n=2)))
    gate.open.set()
    await asyncio.gather(first, second)

    assert gate.passed == [1, 2]


# 8: one event, all handlers


async def test_an_event_reaches_the_buses_handlers_and_its_sessions(bus: MessageBus) -> None:
    seen: list[str] = []
    bus.register_event_handler(Counted, lambda _: seen.append("bus"))
    bus.register_event_handler(Counted, lambda _: seen.append("a"), A)
    bus.register_event_handler(Counted, lambda _: seen.append("b"), B)

    await bus.publish(Counted(session_id=A))
    assert seen == ["bus", "a"]

    await bus.publish(Counted())
    assert seen == ["bus", "a", "bus"]


async def test_an_event_without_a_session_belongs_to_the_bus(bus: MessageBus) -> None:
    seen: list[Event] = []
    bus.register_event_handler(Counted, seen.append)
    event = Counted()
    event.session_id = None  # type: ignore[assignment]  # existing applications do
    await bus.publish(event)

    assert seen == [event]


async def test_handlers_of_a_base_class_hear_its_subclasses(bus: MessageBus) -> None:
    seen: list[str] = []
    bus.register_event_handler(Event, lambda _: seen.append("event"))
    bus.register_event_handler(Counted, lambda _: seen.append("counted"))
    bus.register_event_handler(CountedTwice, lambda _: seen.append("twice"))

    await bus.publish(Counted())
    assert sorted(seen) == ["counted", "event"]
    seen.clear()
    await bus.publish(CountedTwice())
    assert sorted(seen) == ["counted", "event", "twice"]


async def test_each_priority_group_is_finished_before_the_next_begins(bus: MessageBus) -> None:
    seen: list[str] = []

    def slow(name: str) -> Any:
        async def handle(_: Counted) -> None:
            seen.append(f"{name} begins")
            await asyncio.sleep(0)
            seen.append(f"{name} ends")

        return handle

    bus.register_event_handler(Counted, slow("low"), priority=HandlerPriority.LOW)
    bus.register_event_handler(Counted, slow("high 1"), priority=HandlerPriority.HIGH)
    bus.register_event_handler(Counted, slow("high 2"), priority=HandlerPriority.HIGH)
    await bus.publish(Counted())

    assert seen == ["high 1 begins", "high 2 begins", "high 1 ends", "high 2 ends", "low begins", "low ends"]


async def test_handlers_of_one_group_run_concurrently(bus: MessageBus) -> None:
    barrier = asyncio.Barrier(3)

    def meet() -> Any:
        async def handle(_: Counted) -> None:
            await barrier.wait()

        return handle

    for _ in range(3):
        bus.register_event_handler(Counted, meet())

    await asyncio.wait_for(bus.publish(Counted()), 5)


async def test_a_failing_handler_silences_no_other(bus: MessageBus) -> None:
    seen: list[str] = []

    def fail(_: Counted) -> None:
        raise ValueError

    bus.register_event_handler(Counted, fail, priority=HandlerPriority.HIGHEST)
    bus.register_event_handler(Counted, fail)
    bus.register_event_handler(Counted, lambda _: seen.append("same group"))
    bus.register_event_handler(Counted, lambda _: seen.append("later group"), priority=HandlerPriority.LOW)
    await bus.publish(Counted())

    assert seen == ["same group", "later group"]
    assert len(bus.event_handler_errors) == 2


# 9: waiting or not


async def test_publish_returns_when_the_handlers_have_finished(bus: MessageBus) -> None:
    gate = Gate()
    bus.register_event_handler(Counted, gate)
    task = asyncio.create_task(bus.publish(Counted(n=1)))
    await gate.entered.wait()
    assert not task.done()

    gate.open.set()
    await task
    assert gate.passed == [1]


async def test_unawaited_events_are_queued_without_yielding(bus: MessageBus) -> None:
    seen: list[int] = []
    bus.register_event_handler(Counted, lambda e: seen.append(e.n))
    for n in range(10):
        await bus.publish(Counted(n=n), await_processing=False)

    assert (await bus.get_stats())["queue_size"] == 10
    assert seen == []

    await bus.wait_for_events()
    assert seen == list(range(10))
    assert (await bus.get_stats())["queue_size"] == 0


async def test_a_long_queue_leaves_other_tasks_their_turn(bus: MessageBus) -> None:
    seen: list[int] = []
    bus.register_event_handler(Counted, lambda e: seen.append(e.n))
    for n in range(1000):
        await bus.publish(Counted(n=n), await_processing=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert 0 < len(seen) <= 20


# 11: cancelling the publisher


@pytest.mark.parametrize("busy", [False, True])
async def test_cancelling_a_waiting_publisher_does_not_cut_the_event_short(bus: MessageBus, busy: bool) -> None:
    gate = Gate()
    bus.register_event_handler(Counted, gate)
    if busy:
        await bus.publish(Counted(n=0), await_processing=False)
    publisher = asyncio.create_task(bus.publish(Counted(n=1)))
    await gate.entered.wait()
    await asyncio.sleep(0)
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    gate.open.set()
    await bus.wait_for_events()

    assert gate.passed == ([0, 1] if busy else [1])


async def test_a_handlers_timeout_counts_for_the_handler_alone(bus: MessageBus) -> None:
    outcomes: list[str] = []

    async def handle(_: Counted) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            outcomes.append("timed out")

    bus.register_event_handler(Counted, handle)
    await bus.publish(Counted())
    outcomes.append("published")

    assert outcomes == ["timed out", "published"]


async def test_a_handler_runs_in_one_task_from_beginning_to_end(bus: MessageBus) -> None:
    tasks: list[asyncio.Task[Any] | None] = [asyncio.current_task()]

    async def handle(_: Counted) -> None:
        tasks.append(asyncio.current_task())
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        tasks.append(asyncio.current_task())

    bus.register_event_handler(Counted, handle)
    await bus.publish(Counted())
    tasks.append(asyncio.current_task())

    caller, before, after, again = tasks
    assert caller is again
    assert before is after
    assert before is not caller


async def test_a_handler_that_cancels_itself_fails_alone(bus: MessageBus) -> None:
    seen: list[int] = []

    async def give_up(_: Counted) -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    bus.register_event_handler(Counted, give_up)
    bus.register_event_handler(Counted, lambda e: seen.append(e.n))
    await bus.publish(Counted(n=1))
    await bus.publish(Counted(n=2), await_processing=False)
    await bus.wait_for_events()

    assert seen == [1, 2]
    assert len(bus.event_handler_errors) == 2


# 12: failures


async def test_a_failure_is_an_event_a_count_and_a_history(bus: MessageBus) -> None:
    failures: list[EventHandlerFailedEvent] = []
    bus.register_event_handler(EventHandlerFailedEvent, failures.append)
    error = ValueError("no")

    def fail(_: Counted) -> None:
        raise error

    bus.register_event_handler(Counted, fail)
    event = Counted(session_id=A)
    await bus.publish(event)
    await bus.wait_for_events()

    (failure,) = failures
    assert failure.event is event
    assert failure.exception is error
    assert failure.session_id == A
    assert failure.handler is not None
    assert failure.handler.endswith("fail")
    assert bus.event_handler_errors == [error]
    assert (await bus.get_stats())["total_errors"] == 1


async def test_a_failure_of_a_failures_handler_makes_no_storm(bus: MessageBus) -> None:
    def fail(_: Event) -> None:
        raise ValueError

    bus.register_event_handler(Event, fail)
    await bus.publish(Counted())
    await bus.wait_for_events()

    assert (await bus.get_stats())["total_errors"] == 2


async def test_the_history_is_bounded(bus: MessageBus) -> None:
    def fail(event: Counted) -> None:
        raise ValueError(event.n)

    bus.register_event_handler(Counted, fail)
    bus.set_error_history_limit(3)
    for n in range(5):
        await bus.publish(Counted(n=n))

    assert [error.args for error in bus.event_handler_errors] == [(2,), (3,), (4,)]
    assert (await bus.get_stats())["total_errors"] == 5


async def test_unsuppressed_errors_reach_the_publisher_of_that_event(bus: MessageBus) -> None:
    def fail(event: Counted) -> None:
        if event.n:
            raise ValueError(event.n)

    bus.register_event_handler(Counted, fail)
    await bus.publish(Counted(n=1))

    bus.unsuppress_event_errors()
    await bus.publish(Counted(n=2), await_processing=False)
    await bus.publish(Counted(n=0))
    with pytest.raises(ValueError, match="3"):
        await bus.publish(Counted(n=3))

    bus.suppress_event_errors()
    await bus.publish(Counted(n=4))


# 13, 14: waiting, starting, stopping


async def test_waiting_for_events_waits_for_what_handlers_publish(bus: MessageBus) -> None:
    seen: list[int] = []

    async def count_down(event: Counted) -> None:
        seen.append(event.n)
        if event.n:
            await bus.publish(Counted(n=event.n - 1, session_id=B if event.n % 2 else A), await_processing=False)

    bus.register_event_handler(Counted, count_down)
    await bus.publish(Counted(n=20), await_processing=False)
    await bus.wait_for_events()

    assert seen == list(range(20, -1, -1))


async def test_events_published_before_start_are_delivered_after_it() -> None:
    bus = MessageBus.isolated()
    seen: list[int] = []
    bus.register_event_handler(Counted, lambda e: seen.append(e.n))
    bus.add_event_filter(OnlyEven())
    for n in range(4):
        await bus.publish(Counted(n=n))
    assert seen == []

    await bus.start()
    await bus.wait_for_events()
    assert seen == [0, 2]
    await bus.stop()


async def test_starting_and_stopping_twice_is_harmless() -> None:
    bus = MessageBus.isolated()
    assert await bus.stop() == StopReport()
    await bus.start()
    await bus.start()
    assert await bus.stop() == StopReport()
    assert await bus.stop() == StopReport()


async def test_stop_delivers_what_it_accepted() -> None:
    bus = MessageBus.isolated()
    await bus.start()
    seen: list[int] = []
    bus.register_event_handler(Counted, lambda e: seen.append(e.n))
    for n in range(5):
        await bus.publish(Counted(n=n), await_processing=False)

    assert await bus.stop() == StopReport(delivered=5)
    assert seen == list(range(5))


async def test_stop_reports_what_its_deadline_cut_off() -> None:
    bus = MessageBus.isolated()
    await bus.start()
    gate = Gate()
    bus.register_event_handler(Counted, gate)
    waiting = asyncio.create_task(bus.publish(Counted(n=0)))
    await gate.entered.wait()
    queued = asyncio.create_task(bus.publish(Counted(n=1)))
    await asyncio.sleep(0)
    await bus.publish(Counted(n=2), await_processing=False)

    assert await bus.stop(timeout=0.01) == StopReport(abandoned=3)
    for publisher in (waiting, queued):
        with pytest.raises(BusNotRunningError, match="deadline"):
            await publisher
    assert gate.passed == []


async def test_what_handlers_publish_meanwhile_is_in_the_report_of_stop() -> None:
    bus = MessageBus.isolated()
    await bus.start()

    async def count_down(event: Counted) -> None:
        if event.n:
            next_session = event.session_id if event.n % 3 else (B if event.session_id == A else A)
            next_event = Counted(n=event.n - 1, session_id=next_session)
            await asyncio.sleep(0)
            await bus.publish(next_event, await_processing=bool(event.n % 2))

    bus.register_event_handler(Counted, count_down)
    await bus.publish(Counted(n=9, session_id=A), await_processing=False)

    assert await bus.stop() == StopReport(delivered=10)


async def test_publishing_after_stop_is_refused_until_started_again(bus: MessageBus) -> None:
    await bus.stop()
    with pytest.raises(BusNotRunningError, match="has been stopped"):
        await bus.publish(Counted())

    await bus.start()
    await bus.publish(Counted())


async def test_while_it_stops_only_handlers_may_publish() -> None:
    bus = MessageBus.isolated()
    await bus.start()
    gate = Gate()
    seen: list[Event] = []

    async def pass_on(event: Counted) -> None:
        await gate(event)
        await bus.publish(CountedTwice(n=2, session_id=B))

    bus.register_event_handler(Counted, pass_on, A)
    bus.register_event_handler(CountedTwice, seen.append)
    await bus.publish(Counted(n=1, session_id=A), await_processing=False)
    await gate.entered.wait()
    stopping = asyncio.create_task(bus.stop())
    await asyncio.sleep(0)
    with pytest.raises(BusNotRunningError):
        await bus.publish(Counted())
    gate.open.set()
    await stopping

    assert len(seen) == 1


async def test_reset_forgets_everything_but_who_observes(bus: MessageBus) -> None:
    bus.register_event_handler(Counted, print)
    bus.register_command_handler(Command, print)
    bus.add_event_filter(OnlyEven())
    bus.add_event_middleware(HandlerMiddleware())
    observed: list[Event] = []
    bus.add_observer(observed.append)
    await bus.reset()
    await bus.publish(Counted())
    await bus.reset()

    stats = await bus.get_stats()
    assert (stats["running"], stats["queue_size"]) == (False, 0)
    assert stats["total_command_handlers"] == stats["total_event_handlers"] == 0

    await bus.start()
    await bus.publish(Counted(n=1))
    assert len(observed) == 1


def test_a_bus_outlives_the_loop_it_ran_on() -> None:
    bus = MessageBus.isolated()
    seen: list[int] = []

    async def note(event: Counted) -> None:
        await asyncio.sleep(0)
        seen.append(event.n)

    bus.register_event_handler(Counted, note)

    async def run(n: int) -> None:
        await bus.start()
        await bus.publish(Counted(n=n))

    asyncio.run(run(1))
    asyncio.run(run(2))
    assert seen == [1, 2]


async def test_a_bus_is_not_used_from_another_thread(bus: MessageBus) -> None:
    def elsewhere() -> None:
        asyncio.run(bus.publish(Counted()))

    with pytest.raises(BusNotRunningError, match="another thread"):
        await asyncio.to_thread(elsewhere)


# 15: filters, middleware, observers


class OnlyEven(EventFilter):
    def should_handle(self, event: Event, session_id: SessionID) -> bool:
        return isinstance(event, Counted) and event.n % 2 == 0


async def test_what_a_filter_turns_away_is_counted_and_reaches_nobody(bus: MessageBus) -> None:
    seen: list[int] = []
    bus.register_event_handler(Counted, lambda e: seen.append(e.n))
    bus.add_event_filter(OnlyEven())
    for n in range(5):
        await bus.publish(Counted(n=n), await_processing=n < 3)
    await bus.wait_for_events()

    assert seen == [0, 2, 4]
    assert (await bus.get_stats())["filtered"] == {"OnlyEven": 2}


async def test_a_broken_filter_loses_no_event(bus: MessageBus, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(EventFilter):
        def should_handle(self, event: Event, session_id: SessionID) -> bool:
            raise ValueError

    seen: list[Event] = []
    bus.register_event_handler(Counted, seen.append)
    bus.add_event_filter(Broken())
    with caplog.at_level(logging.ERROR):
        await bus.publish(Counted())

    assert len(seen) == 1
    assert "Broken failed on Counted" in caplog.text


class Layer(HandlerMiddleware):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any:
        return await self._around(command, handler, next_middleware)

    async def process_event(self, event: Any, handler: Any, next_middleware: Any) -> Any:
        return await self._around(event, handler, next_middleware)

    async def _around(self, message: Any, handler: Any, next_middleware: Any) -> Any:
        self.log.append(f"{self.name} in")
        try:
            return await next_middleware(message, handler)
        finally:
            self.log.append(f"{self.name} out")


@dataclass
class Go(Command[str]):
    pass


async def test_middleware_is_an_onion_the_first_added_outermost(bus: MessageBus) -> None:
    log: list[str] = []
    bus.register_event_handler(Counted, lambda _: log.append("handler"))
    bus.register_command_handler(Go, lambda _: log.append("handler"))
    await bus.publish(Counted())
    await bus.execute(Go())
    assert log == ["handler"] * 2

    log.clear()
    for name in ("outer", "inner"):
        bus.add_event_middleware(Layer(name, log))
        bus.add_command_middleware(Layer(name, log))
    await bus.publish(Counted())
    assert log == ["outer in", "inner in", "handler", "inner out", "outer out"]

    log.clear()
    assert (await bus.execute(Go())).success
    assert log == ["outer in", "inner in", "handler", "inner out", "outer out"]


async def test_a_handler_registered_later_is_heard(bus: MessageBus) -> None:
    seen: list[str] = []
    bus.register_event_handler(Counted, lambda _: seen.append("first"))
    await bus.publish(Counted(session_id=A))
    bus.register_event_handler(Counted, lambda _: seen.append("bus"))
    bus.register_event_handler(Counted, lambda _: seen.append("session"), A)
    seen.clear()
    await bus.publish(Counted(session_id=A))

    assert seen == ["first", "bus", "session"]


async def test_an_observer_sees_every_event_once_and_cannot_fail_it(
    bus: MessageBus, caplog: pytest.LogCaptureFixture
) -> None:
    observed: list[Event] = []

    def broken(_: Event) -> None:
        raise ValueError

    bus.add_observer(broken)
    bus.add_observer(observed.append)
    seen: list[Event] = []
    bus.register_event_handler(Counted, seen.append)
    with caplog.at_level(logging.ERROR):
        await bus.publish(Counted())
        await bus.publish(Counted(), await_processing=False)
        await bus.wait_for_events()

    assert observed == seen
    assert len(seen) == 2


async def test_on_registers(bus: MessageBus) -> None:
    seen: list[str] = []

    @bus.on(Counted, priority=HandlerPriority.LOW)
    async def later(event: Counted) -> None:
        seen.append("later")

    @bus.on(Counted, session_id=A)
    async def sooner(event: Counted) -> None:
        seen.append("sooner")

    await bus.publish(Counted(session_id=A))
    assert seen == ["sooner", "later"]


@pytest.mark.parametrize(("size", "seconds"), [(0, 0.01), (10, -1)])
async def test_senseless_batches_are_refused(bus: MessageBus, size: int, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"batch_(size|timeout) must be"):
        bus.set_batch_processing(size, seconds)
