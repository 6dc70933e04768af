"""Middleware that comes with the bus: every knob, through a bus that runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus import HandlerMiddleware, MessageBus
from llmgine.bus.middleware import (
    LoggingMiddleware,
    RateLimitMiddleware,
    RetryMiddleware,
    TimingMiddleware,
    ValidationMiddleware,
    check_middleware,
)
from llmgine.errors import ConfigurationError, HandlerNotFoundError, RateLimitedError, ToolValidationError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.events import CommandResultEvent, CommandStartedEvent


class Add(Command[Any]):
    pass


class Other(Command[Any]):
    pass


class Added(Event):
    pass


@dataclass
class Clock:
    """A clock, and the sleep that belongs to it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def failing(times: int, *, error: Callable[[], Exception] | None = None) -> tuple[Callable[[Any], Any], list[int]]:
    """A handler that fails so many times, by raising or else by its result; and how often it has been called."""
    calls: list[int] = []

    async def handle(_: Any) -> CommandResult[Any]:
        calls.append(len(calls))
        if len(calls) > times:
            return CommandResult(success=True, result=len(calls))
        if error is not None:
            raise error()
        return CommandResult(success=False, error=f"failure {len(calls)}")

    return handle, calls


# Logging


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[int, str]]]:
    caplog.set_level(logging.DEBUG)
    name = "llmgine.bus.middleware"
    return lambda: [(level, text) for logger, level, text in caplog.record_tuples if logger == name]


async def test_commands_are_logged_when_they_begin_and_when_they_have_ended(bus: MessageBus, lines: Any) -> None:
    bus.add_command_middleware(LoggingMiddleware())
    bus.register_command_handler(Add, lambda _: 3)

    assert (await bus.execute(Add())).result == 3

    (first, begin), (second, end) = lines()
    assert first == second == logging.INFO
    assert begin.startswith("Executing command Add")
    assert end.startswith("Command Add completed in")


async def test_events_are_logged_once_for_each_handler(bus: MessageBus, lines: Any) -> None:
    def one(_: Event) -> None: ...
    def two(_: Event) -> None: ...

    bus.add_event_middleware(LoggingMiddleware(log_level=logging.DEBUG))
    bus.register_event_handler(Added, one, priority=1)
    bus.register_event_handler(Added, two, priority=2)

    await bus.publish(Added())

    texts = [text for level, text in lines() if level == logging.DEBUG]
    assert [text.split()[:3] for text in texts] == [["Processing", "event", "Added"], ["Event", "Added", "with"]] * 2
    assert "one completed in" in texts[1]
    assert "two completed in" in texts[3]


async def test_failures_are_logged_as_errors_and_go_on(bus: MessageBus, lines: Any) -> None:
    layer = LoggingMiddleware(logging.DEBUG)
    bus.add_command_middleware(layer)
    bus.add_event_middleware(layer)
    handle, _ = failing(1, error=lambda: ValueError("no"))
    bus.register_command_handler(Add, handle)
    bus.register_command_handler(Other, failing(9)[0])
    bus.register_event_handler(Added, failing(9, error=lambda: KeyError("k"))[0])
    bus.unsuppress_event_errors()

    assert (await bus.execute(Add())).error == "ValueError: no"
    assert (await bus.execute(Other())).error == "failure 1"
    with pytest.raises(KeyError):
        await bus.publish(Added())

    raised, returned, event = [text for level, text in lines() if level == logging.ERROR]
    assert raised.startswith("Command Add failed after")
    assert raised.endswith("ValueError: no")
    assert returned.startswith("Command Other failed after")
    assert returned.endswith("failure 1")
    assert event.startswith("Event Added with")
    assert event.endswith("KeyError: 'k'")


async def test_cancelling_is_logged_and_is_no_error(bus: MessageBus, lines: Any) -> None:
    bus.add_command_middleware(LoggingMiddleware())
    entered = asyncio.Event()

    async def hang(_: Add) -> None:
        entered.set()
        await asyncio.Event().wait()

    bus.register_command_handler(Add, hang)
    task = asyncio.create_task(bus.execute(Add()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    level, text = lines()[-1]
    assert level == logging.INFO
    assert "was cancelled after" in text


async def test_what_is_below_the_level_of_the_log_leaves_only_the_failures(bus: MessageBus, caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    bus.add_command_middleware(LoggingMiddleware())
    bus.register_command_handler(Add, failing(1)[0])
    await bus.execute(Add())
    await bus.execute(Add())

    assert ["failed" in record.message for record in caplog.records] == [True]


class Answer(HandlerMiddleware):
    """Answers in the handler's place, with a plain value."""

    async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any:
        return 42


@pytest.mark.parametrize("outer", [LoggingMiddleware(), TimingMiddleware(), RetryMiddleware(), ValidationMiddleware()])
async def test_a_layer_inside_may_answer_with_a_plain_value(bus: MessageBus, outer: HandlerMiddleware) -> None:
    bus.add_command_middleware(outer)
    bus.add_command_middleware(Answer())
    bus.register_command_handler(Add, lambda _: 0)

    assert (await bus.execute(Add())).result == 42


# Timing


async def test_durations_are_counted_by_type_whether_they_end_well_or_not(bus: MessageBus) -> None:
    clock = Clock()
    timing = TimingMiddleware(clock=clock)
    bus.add_command_middleware(timing)
    bus.add_event_middleware(timing)
    durations = iter([0.25, 0.75, 0.5, 0.125])

    def handle(_: Any) -> None:
        clock.now += (duration := next(durations))
        if duration == 0.75:
            raise ValueError

    bus.register_command_handler(Add, handle)
    bus.register_command_handler(Other, handle)
    bus.register_event_handler(Added, handle)
    assert await timing.get_stats() == {}
    assert [(await bus.execute(Add())).success for _ in range(3)] == [True, False, True]
    await bus.publish(Added())

    assert await timing.get_stats() == {
        "command_Add": {"count": 3, "avg_ms": 500.0, "min_ms": 250.0, "max_ms": 750.0},
        "event_Added": {"count": 1, "avg_ms": 125.0, "min_ms": 125.0, "max_ms": 125.0},
    }


async def test_one_object_may_serve_several_buses(bus: MessageBus) -> None:
    timing = TimingMiddleware()
    other = MessageBus.isolated()
    await other.start()
    for each in (bus, other):
        each.add_command_middleware(timing)
        each.register_command_handler(Add, lambda _: None)
        await each.execute(Add())
    await other.stop()

    assert (await timing.get_stats())["command_Add"]["count"] == 2


# Retry


async def retried(
    bus: MessageBus, handler: Callable[[Any], Any], timeout: float | None = None, **knobs: Any
) -> tuple[CommandResult[Any], list[float]]:
    """What came of a command under RetryMiddleware, and how long it slept between attempts."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    bus.add_command_middleware(RetryMiddleware(**knobs, sleep=sleep))
    bus.register_command_handler(Add, handler)
    return await bus.execute(Add(), timeout=timeout), slept


@pytest.mark.parametrize("error", [None, lambda: ValueError("no")])
async def test_a_failure_is_retried_with_growing_delays_until_it_succeeds(bus: MessageBus, error: Any) -> None:
    handle, calls = failing(3, error=error)
    result, slept = await retried(bus, handle)

    assert (result.success, result.result, len(calls)) == (True, 4, 4)
    assert slept == [0.1, 0.2, 0.4]


async def test_the_last_exception_is_what_remains(bus: MessageBus) -> None:
    numbers = iter(range(9))
    handle, calls = failing(9, error=lambda: ValueError(next(numbers)))
    result, slept = await retried(bus, handle, max_retries=2, retry_delay=1)

    assert (result.success, result.error, len(calls)) == (False, "ValueError: 2", 3)
    assert slept == [1, 2]


async def test_the_last_result_is_what_remains(bus: MessageBus) -> None:
    handle, _ = failing(9)
    result, slept = await retried(bus, handle, max_retries=2, retry_delay=0.5, exponential_backoff=False)

    assert (result.success, result.error) == (False, "failure 3")
    assert slept == [0.5, 0.5]


async def test_without_retries_there_is_one_attempt(bus: MessageBus) -> None:
    handle, calls = failing(9)
    _, slept = await retried(bus, handle, max_retries=0)

    assert (len(calls), slept) == (1, [])


async def test_delays_grow_without_overflowing() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    handle, calls = failing(10**6)
    await RetryMiddleware(2000, sleep=sleep).process_command(Add(), handle, lambda c, h: h(c))

    assert len(calls) == 2001
    assert slept == sorted(slept)


class ValidationError(ValueError):
    """Like pydantic's, which the bus must not import."""


class FieldError(ValidationError):
    pass


@pytest.mark.parametrize(
    "error", [ConfigurationError, ToolValidationError, HandlerNotFoundError, ValidationError, FieldError]
)
async def test_what_would_fail_the_same_way_is_not_tried_again(bus: MessageBus, error: type[Exception]) -> None:
    handle, calls = failing(9, error=lambda: error("x"))
    result, slept = await retried(bus, handle)

    assert (result.error, len(calls), slept) == (f"{error.__name__}: x", 1, [])


async def test_what_validation_refuses_is_not_tried_again(bus: MessageBus) -> None:
    handle, calls = failing(0)
    bus.add_command_middleware(RetryMiddleware(sleep=Clock().sleep))
    validated: list[Any] = []

    class Counting(ValidationMiddleware):
        async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any:
            validated.append(command)
            return await super().process_command(command, handler, next_middleware)

    bus.add_command_middleware(Counting())
    bus.register_command_handler(Add, handle)

    assert not (await bus.execute(Add(session_id=SessionID("")))).success
    assert (len(validated), calls) == (1, [])


async def test_a_missing_handler_is_not_tried_again(bus: MessageBus) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    bus.add_command_middleware(RetryMiddleware(sleep=sleep))

    assert (await bus.execute(Add())).error == "No handler registered for command Add"
    assert slept == []


async def test_a_cancelled_command_is_not_tried_again(bus: MessageBus) -> None:
    calls: list[Any] = []

    async def cancelled(command: Any) -> None:
        calls.append(command)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await retried(bus, cancelled)
    assert len(calls) == 1


async def test_cancelling_while_it_waits_ends_the_command(bus: MessageBus) -> None:
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    handle, calls = failing(9)
    bus.add_command_middleware(RetryMiddleware(sleep=sleep))
    bus.register_command_handler(Add, handle)
    task = asyncio.create_task(bus.execute(Add()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert len(calls) == 1


@pytest.mark.parametrize(
    ("retry_after", "slept"),
    [(5, [5, 5]), (0.15, [0.15, 0.2]), (0.01, [0.1, 0.2]), (None, [0.1, 0.2]), (float("nan"), [0.1, 0.2])],
)
async def test_it_waits_as_long_as_the_error_asks(bus: MessageBus, retry_after: Any, slept: list[float]) -> None:
    handle, _ = failing(2, error=lambda: RateLimitedError("busy", retry_after=retry_after))
    result, waits = await retried(bus, handle)

    assert result.success
    assert waits == slept


async def test_an_error_that_asks_for_eternity_is_not_retried(bus: MessageBus) -> None:
    handle, calls = failing(2, error=lambda: RateLimitedError("busy", retry_after=float("inf")))
    _, slept = await retried(bus, handle)

    assert (len(calls), slept) == (1, [])


async def test_a_retry_after_that_is_no_number_is_ignored(bus: MessageBus) -> None:
    class Odd(Exception):  # noqa: N818
        retry_after = "tomorrow"

    handle, _ = failing(1, error=Odd)
    _, slept = await retried(bus, handle)

    assert slept == [0.1]


@pytest.mark.parametrize("error", [None, lambda: ValueError("no")])
async def test_it_does_not_wait_past_the_deadline_of_the_command(bus: MessageBus, error: Any) -> None:
    handle, calls = failing(9, error=error)
    result, slept = await retried(bus, handle, timeout=1000, max_retries=5, retry_delay=300)

    assert slept == [300, 600]  # the fake sleep takes no time, so that 600 still fits; 1200 would not
    assert len(calls) == 3
    assert result.error in {"failure 3", "ValueError: no"}


async def test_a_nested_command_keeps_to_the_deadline_of_the_outer_one(bus: MessageBus) -> None:
    handle, calls = failing(9)
    bus.add_command_middleware(RetryMiddleware(retry_delay=60, sleep=Clock().sleep))
    bus.register_command_handler(Add, handle)
    bus.register_command_handler(Other, lambda _: bus.execute(Add()))

    await bus.execute(Other(), timeout=30)

    assert len(calls) == 1


async def test_a_command_is_announced_once_whatever_the_retries(bus: MessageBus) -> None:
    announced: list[type] = []
    for kind in (CommandStartedEvent, CommandResultEvent):
        bus.register_event_handler(kind, lambda event: announced.append(type(event)))
    handle, calls = failing(2)
    await retried(bus, handle)
    await bus.wait_for_events()

    assert len(calls) == 3
    assert announced == [CommandStartedEvent, CommandResultEvent]


async def test_a_failing_event_handler_is_not_called_again(bus: MessageBus) -> None:
    handle, calls = failing(9, error=lambda: ValueError("no"))
    bus.add_event_middleware(RetryMiddleware(sleep=Clock().sleep))
    bus.register_event_handler(Added, handle)
    await bus.publish(Added())

    assert len(calls) == 1


# Validation


@pytest.mark.parametrize("session_id", ["", None])
async def test_a_command_without_a_session_is_refused(bus: MessageBus, session_id: Any) -> None:
    handle, calls = failing(0)
    bus.add_command_middleware(ValidationMiddleware())
    bus.register_command_handler(Add, handle)
    command = Add()
    command.session_id = session_id

    result = await bus.execute(command)

    assert (result.success, result.error) == (False, "Command missing session_id")
    assert result.command_id == command.command_id
    assert calls == []
    assert (await bus.execute(Add())).success
    assert (await bus.execute(Add(session_id=SessionID("x")))).success


async def test_the_check_of_the_session_can_be_left_out(bus: MessageBus) -> None:
    bus.add_command_middleware(ValidationMiddleware(validate_session_id=False))
    bus.register_command_handler(Add, lambda _: 1)

    assert (await bus.execute(Add(session_id=SessionID("")))).result == 1


# Rate limit


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop on which nobody waits: where nothing else is to do, its time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            assert timeout is not None, "everybody waits, and nothing would ever happen"
            ready = select(0)
            if not ready:
                self.now += timeout
            return ready

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def simulate(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(run())


async def limited(
    rate: float, calls: list[tuple[float, type[Command[Any]], float | None]]
) -> dict[int, tuple[float, type]]:
    """Execute commands under RateLimitMiddleware.

    Args:
        rate: per second.
        calls: when each is executed, what it is, and how long after that it is cancelled.

    Returns:
        By the number of the call, in the order in which they started: when its handler started, and for what.
    """
    loop = asyncio.get_running_loop()
    started: dict[int, tuple[float, type]] = {}

    async def handle(command: Command[Any]) -> None:
        started[command.metadata["n"]] = (loop.time(), type(command))
        await asyncio.sleep(3.3)  # longer than the interval, so that handlers overlap

    bus = MessageBus.isolated()
    bus.add_command_middleware(RateLimitMiddleware(rate, clock=loop.time))
    bus.register_command_handler(Command, handle)
    await bus.start()

    tasks: list[asyncio.Future[Any]] = []
    for n, (at, kind, patience) in sorted(enumerate(calls), key=lambda each: each[1][0]):
        await asyncio.sleep(at - loop.time())
        task = asyncio.ensure_future(bus.execute(kind(metadata={"n": n})))
        tasks.append(task)
        if patience is not None:
            loop.call_at(at + patience, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    await bus.stop()
    return started


# Callers come on the tenth of a second and lose patience between two, so that no two things happen at once.
callers = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda n: n / 10),
        st.sampled_from([Add, Other]),
        st.none() | st.integers(0, 30).map(lambda n: n / 10 + 0.05),
    ),
    max_size=12,
)


@given(st.sampled_from([0.5, 0.9, 3.0, 7.0]), callers)
def test_commands_of_a_type_start_in_order_apart_and_no_later_than_they_must(
    rate: float, calls: list[tuple[float, type[Command[Any]], float | None]]
) -> None:
    started: dict[int, tuple[float, type]] = {}

    async def run() -> None:
        started.update(await limited(rate, calls))

    simulate(run)

    for kind in (Add, Other):
        free = 0.0
        expected: list[tuple[int, float]] = []
        for n, (at, whose, patience) in sorted(enumerate(calls), key=lambda each: each[1][0]):
            start = max(at, free)
            if whose is kind and (patience is None or start < at + patience):
                expected.append((n, start))
                free = start + 1 / rate
        actual = [(n, at) for n, (at, whose) in started.items() if whose is kind]
        assert [n for n, _ in actual] == [n for n, _ in expected]
        assert [at for _, at in actual] == pytest.approx([at for _, at in expected])
        times = [at for _, at in actual]
        assert all(later - earlier >= 1 / rate - 1e-9 for earlier, later in pairwise(times))


def test_six_calls_at_five_a_second_take_a_second() -> None:
    started: dict[int, tuple[float, type]] = {}

    async def run() -> None:
        started.update(await limited(5, [(0, Add, None)] * 6))

    simulate(run)

    assert [at for at, _ in started.values()] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


async def test_a_free_turn_costs_no_waiting_and_a_taken_one_does(bus: MessageBus) -> None:
    clock = Clock()
    bus.add_command_middleware(RateLimitMiddleware(clock=clock, sleep=clock.sleep))
    bus.register_command_handler(Add, lambda _: clock.now)

    assert [(await bus.execute(Add())).result for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    clock.now = 10.0
    assert [(await bus.execute(Add())).result for _ in range(2)] == pytest.approx([10, 10.1])


async def test_a_timer_that_fires_early_lets_nobody_start_early(bus: MessageBus) -> None:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds / 2 if seconds > 1 / 64 else seconds)

    bus.add_command_middleware(RateLimitMiddleware(2, clock=clock, sleep=sleep))
    bus.register_command_handler(Add, lambda _: clock.now)

    assert [(await bus.execute(Add())).result for _ in range(3)] == [0, 0.5, 1]


async def test_a_waiting_command_is_cut_off_at_its_deadline_and_takes_no_turn(bus: MessageBus) -> None:
    handled: list[Any] = []
    bus.add_command_middleware(RateLimitMiddleware(0.001))
    bus.register_command_handler(Add, handled.append)

    await bus.execute(Add())
    result = await bus.execute(Add(), timeout=0.001)

    assert "did not finish within" in (result.error or "")
    assert len(handled) == 1


async def test_events_are_not_held_up(bus: MessageBus) -> None:
    clock = Clock()
    bus.add_event_middleware(RateLimitMiddleware(1, clock=clock, sleep=clock.sleep))
    heard: list[Event] = []
    bus.register_event_handler(Added, heard.append)
    for _ in range(3):
        await bus.publish(Added())

    assert (len(heard), clock.now) == (3, 0.0)


def test_callers_may_wait_on_one_event_loop_after_another() -> None:
    loops = 0
    layer = RateLimitMiddleware(100)

    async def run() -> None:
        nonlocal loops
        await asyncio.gather(*(layer.process_command(Add(), done, next_layer) for _ in range(3)))
        loops += 1

    async def done(command: Any) -> CommandResult[Any]:
        return CommandResult(success=True)

    async def next_layer(command: Any, handler: Any) -> CommandResult[Any]:
        result: CommandResult[Any] = await handler(command)
        return result

    asyncio.run(run())
    asyncio.run(run())

    assert loops == 2
    assert not layer._turns._queues


# Nonsense is refused at construction, in words


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LoggingMiddleware("INFO"), "log_level must be a level of the logging module.*got 'INFO'"),  # type: ignore[arg-type]
        (lambda: RetryMiddleware(-1), "max_retries must be a whole number, 0 or more; got -1"),
        (lambda: RetryMiddleware(1.5), "max_retries must be a whole number"),  # type: ignore[arg-type]
        (lambda: RetryMiddleware(retry_delay=-0.1), "retry_delay must be a number of seconds"),
        (lambda: RetryMiddleware(retry_delay=float("nan")), "retry_delay must be"),
        (lambda: RetryMiddleware(retry_delay=float("inf")), "retry_delay must be"),
        (lambda: RateLimitMiddleware(0), "max_per_second must be a positive, finite number"),
        (lambda: RateLimitMiddleware(float("inf")), "max_per_second must be"),
    ],
)
def test_middleware_that_makes_no_sense_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


class HalfALayer:
    async def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any: ...


class YieldingLayer(HandlerMiddleware):
    async def process_event(self, event: Any, handler: Any, next_middleware: Any) -> Any:
        yield await next_middleware(event, handler)


class PlainYieldingLayer(HandlerMiddleware):
    def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any:
        yield next_middleware(command, handler)


class PlainLayer:
    """Not async itself, but what it returns can be awaited."""

    def process_command(self, command: Any, handler: Any, next_middleware: Any) -> Any:
        return next_middleware(command, handler)

    process_event = process_command


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (None, "None has no method process_command"),
        (print, "has no method process_command"),
        (HalfALayer(), "has no method process_event.*subclass HandlerMiddleware"),
        (TimingMiddleware, r"TimingMiddleware is a class.*Make one: TimingMiddleware\(\.\.\.\)"),
        (YieldingLayer(), "process_event of .* yields"),
        (PlainYieldingLayer(), "process_command of .* yields"),
    ],
)
def test_what_cannot_wrap_handlers_is_refused_in_words(candidate: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_middleware(candidate)


@pytest.mark.parametrize("candidate", [HandlerMiddleware(), TimingMiddleware(), PlainLayer()])
def test_whatever_can_wrap_handlers_is_accepted(candidate: object) -> None:
    check_middleware(candidate)
