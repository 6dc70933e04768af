"""An hour of an application's traffic, compressed: every event and command is accounted for, and memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmgine.bus import MessageBus
from llmgine.bus.filters import CompositeFilter, RateLimitFilter, SessionFilter
from llmgine.bus.middleware import TimingMiddleware
from llmgine.errors import DeadlockError
from llmgine.messages import Command, CommandResult, Event, SessionID
from llmgine.messages.bus import message_bus
from llmgine.messages.events import CommandResultEvent, EventHandlerFailedEvent

SECONDS = 3600
COMMANDS, EVENTS = 20, 60
"""In each second, whoever sends them."""
WARM_UP = 600
"""Seconds after which every bounded store is full."""
CHECK_EVERY = 300
"""Seconds from one measurement to the next."""
ONE_IN = 100
"""A leak of one small object in so many events is to be found."""

LEFT, RIGHT, SLOW = SessionID("left"), SessionID("right"), SessionID("slow")


@dataclass
class Measure(Command[float]):
    degrees: float = 0.0


class Survey(Command[int]):
    """Measures several times, and publishes."""


class Watch(Command[None]):
    """Publishes some events, for a stream of them."""


class Calibrate(Command[None]):
    """Leaves events pending."""


class Break(Command[None]):
    """Fails, and what it left pending is dropped."""


class Hang(Command[None]):
    """Waits for ever."""


class Unknown(Command[None]):
    """Nobody handles it."""


@dataclass
class SensorReadEvent(Event):
    degrees: float = 0.0


@dataclass
class SensorCalibratedEvent(Event):
    number: int = 0


class SensorFailedEvent(Event):
    pass


@dataclass
class TankFilledEvent(Event):
    onward: SessionID | None = None


class Memory:
    """What the interpreter holds, at some points in time."""

    def __init__(self) -> None:
        self.objects: list[int] = []
        self.blocks: list[int] = []
        self.resident: list[int] = []

    def measure(self) -> None:
        while gc.collect():
            pass
        self.objects.append(len(gc.get_objects()))
        self.blocks.append(sys.getallocatedblocks())
        status = Path("/proc/self/status")
        if status.exists():  # elsewhere than on Linux, this one is left out
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
            self.resident.append(int(line.split()[1]) * 1024)

    def grown(self, figures: list[int]) -> int:
        """Return how much more there is at the end; a peak that passes is no growth."""
        return min(figures[-2:]) - max(figures[:2])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Handlers fail by the thousand here, and pytest would keep every line of it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Station:
    """An application on a bus, with something of everything that a bus does."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.seconds = 0
        self.outcomes: Counter[str] = Counter()
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        metrics = bus.metrics
        metrics.register_counter("readings_total")
        metrics.register_histogram("reading_seconds")
        bus.register_command_handler(Measure, self.measure)
        bus.register_command_handler(Survey, self.survey)
        bus.register_command_handler(Watch, self.watch)
        bus.register_command_handler(Calibrate, self.calibrate)
        bus.register_command_handler(Break, self.break_down)
        bus.register_command_handler(Hang, self.hang)
        bus.register_event_handler("sensor.*", self.count("by name"))
        bus.register_event_handler("sensor.**", self.count("by prefix"), priority=90)
        bus.register_event_handler(SensorFailedEvent, self.fail)
        bus.register_event_handler(EventHandlerFailedEvent, self.count("failures"))
        bus.register_event_handler(CommandResultEvent, self.count("concluded"))
        bus.register_event_handler(TankFilledEvent, self.pass_on, LEFT)
        bus.register_event_handler(TankFilledEvent, self.pass_on, RIGHT)
        bus.register_event_handler(TankFilledEvent, self.stall, SLOW)
        timing = TimingMiddleware()
        bus.add_command_middleware(timing)
        bus.add_event_middleware(timing)
        # Once in a while a session says too much.
        bus.add_event_filter(
            CompositeFilter(
                [
                    SessionFilter(include_sessions={"BUS", LEFT, RIGHT, SLOW}),
                    RateLimitFilter(8.0, per_session=True, per_type=True, clock=lambda: float(self.seconds)),
                ],
                require_all=False,
            )
        )

    def count(self, what: str) -> Any:
        def handle(event: Event) -> None:
            self.outcomes[what] += 1

        return handle

    def measure(self, command: Measure) -> float:
        return command.degrees

    async def survey(self, command: Survey) -> int:
        results = [await self.bus.execute(Measure(degrees=n, session_id=command.session_id)) for n in range(3)]
        await self.bus.publish(SensorReadEvent(session_id=command.session_id))
        await self.bus.publish(SensorReadEvent(), await_processing=False)
        return len(results)

    async def watch(self, command: Watch) -> None:
        for n in range(3):
            await self.bus.publish(SensorReadEvent(degrees=n, session_id=command.session_id))
            await asyncio.sleep(0)

    def calibrate(self, command: Calibrate) -> None:
        self.bus.add_pending_event(SensorCalibratedEvent(session_id=command.session_id))
        self.bus.add_pending_event(SensorCalibratedEvent())

    def break_down(self, command: Break) -> None:
        self.bus.add_pending_event(SensorCalibratedEvent(number=-1))
        msg = "out of order"
        raise OSError(msg)

    async def hang(self, command: Hang) -> None:
        await asyncio.Event().wait()

    def fail(self, event: SensorFailedEvent) -> None:
        msg = "no reading"
        raise ValueError(msg)

    async def pass_on(self, event: TankFilledEvent) -> None:
        await asyncio.sleep(0)
        if event.onward is not None:
            try:
                await self.bus.publish(TankFilledEvent(session_id=event.onward))
            except DeadlockError:
                self.outcomes["deadlocks refused"] += 1

    async def stall(self, event: TankFilledEvent) -> None:
        self.reached.set()
        await self.released.wait()
        self.outcomes["heard although the publisher was cancelled"] += 1

    async def second(self) -> None:
        """One second of traffic: something of everything, and then as much again as is missing from the whole."""
        self.seconds += 1
        await self.visit()
        await self.listen()
        await self.collide()
        await self.give_up()
        bus, metrics = self.bus, self.bus.metrics
        assert not (await bus.execute(Break())).success
        assert not (await bus.execute(Unknown())).success
        for _ in range(2):
            await bus.publish(SensorFailedEvent())
        for half in ("first", "second"):
            metrics.inc_counter("readings_total", labels={"when": f"{half} half of second {self.seconds}"})
        metrics.observe_histogram("reading_seconds", 0.01, labels={"sensor": f"sensor-{self.seconds % 50}"})
        sent, published = metrics.counters["commands_sent_total"], metrics.counters["events_published_total"]
        while sent.value < COMMANDS * self.seconds:
            await bus.execute(Measure(degrees=1.0))
        while published.value < EVENTS * self.seconds:
            await bus.publish(SensorReadEvent(), await_processing=published.value % 3 == 0)
        await bus.wait_for_events()

    async def visit(self) -> None:
        """A session comes, says more than it may, and goes."""
        async with self.bus.session() as session:
            heard: list[Event] = []
            session.register_event_handler(SensorReadEvent, heard.append)
            session.register_event_handler(SensorCalibratedEvent, heard.append)
            session.register_command_handler(Measure, lambda command: -1.0)
            task = session.create_task(asyncio.Event().wait())
            await session.execute_with_session(Survey())
            await session.execute_with_session(Calibrate())
            for _ in range(10):
                await self.bus.publish(SensorReadEvent(session_id=session.session_id))
            self.outcomes["heard in sessions"] += len(heard)
        assert task.cancelled()

    async def listen(self) -> None:
        """One stream is read to its end, one is left early."""
        async for _ in (stream := self.bus.stream(Watch())):
            self.outcomes["streamed"] += 1
        assert stream.result.success
        async with aclosing(aiter(self.bus.stream(Watch()))) as events:  # type: ignore[type-var]
            async for _ in events:
                break

    async def collide(self) -> None:
        """Two handlers wait for each other's sessions."""
        await asyncio.gather(
            self.bus.publish(TankFilledEvent(onward=RIGHT, session_id=LEFT)),
            self.bus.publish(TankFilledEvent(onward=LEFT, session_id=RIGHT)),
        )

    async def give_up(self) -> None:
        """A publisher is cancelled, and so is one behind it; a command runs out of time."""
        self.reached.clear()
        self.released.clear()
        publishers = [asyncio.ensure_future(self.bus.publish(TankFilledEvent(session_id=SLOW))) for _ in range(2)]
        await self.reached.wait()
        for publisher in publishers:
            publisher.cancel()
        await asyncio.wait(publishers)
        self.outcomes["cancelled"] += sum(publisher.cancelled() for publisher in publishers)
        self.released.set()
        result: CommandResult[None] = await self.bus.execute(Hang(), timeout=0.0)
        assert not result.success


async def test_an_hour_of_mixed_traffic_is_accounted_for_and_leaves_memory_flat() -> None:
    """72,000 commands and 216,000 events, as from an application at 20 and 60 a second."""
    bus = MessageBus.isolated()
    bus.set_error_history_limit(100)
    await bus.start()
    station = Station(bus)
    memory = Memory()
    while station.seconds < SECONDS:
        await station.second()
        if station.seconds >= WARM_UP and station.seconds % CHECK_EVERY == 0:
            bus.metrics.snapshot()  # which counts what the histograms have pending
            memory.measure()
    counted = {name: each["value"] for name, each in bus.metrics.snapshot()["counters"].items()}
    stats = await bus.get_stats()
    report = await bus.stop()

    assert counted["commands_sent_total"] == SECONDS * COMMANDS
    assert counted["events_published_total"] == SECONDS * EVENTS
    assert counted["commands_processed_total"] + counted["commands_failed_total"] == counted["commands_sent_total"]
    assert counted["readings_total"] == 2 * SECONDS
    assert station.outcomes["concluded"] == counted["commands_sent_total"]
    assert station.outcomes["failures"] == counted["events_failed_total"] == stats["total_errors"] == 2 * SECONDS
    assert station.outcomes["deadlocks refused"] == SECONDS
    assert (
        station.outcomes["cancelled"] == station.outcomes["heard although the publisher was cancelled"] == 2 * SECONDS
    )
    assert station.outcomes["streamed"] == 3 * SECONDS
    assert station.outcomes["by name"] == station.outcomes["by prefix"]
    assert (stats["queue_size"], stats["total_sessions"]) == (0, 4)
    assert (report.abandoned, bus.unfinished) == (0, 0)
    assert len(bus.event_handler_errors) == 100

    # What is compared are the last two with the first two measurements; between those lies so much:
    events = EVENTS * (SECONDS - WARM_UP - 2 * CHECK_EVERY)
    assert memory.grown(memory.blocks) < events / ONE_IN / 3, memory.blocks
    assert memory.grown(memory.objects) < events / ONE_IN / 3, memory.objects
    assert not memory.resident or memory.grown(memory.resident) < 4 * 2**20, memory.resident


THREADS, ROUNDS, EACH = 4, 6, 150


def test_threads_that_come_and_go_leave_memory_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,600 commands and as many events of 24 threads, four at a time, through the synchronous face."""
    monkeypatch.setattr(MessageBus, "_application", None)
    heard: Counter[str] = Counter()
    raised: list[BaseException] = []
    memory = Memory()

    def calibrate(command: Calibrate) -> None:
        message_bus.add_pending_event(SensorCalibratedEvent())

    def count(event: Event) -> None:
        heard[event.event_name] += 1

    def work() -> None:
        for number in range(EACH):
            try:
                if number % 3 == 0:
                    message_bus.dispatch(Calibrate())
                elif number % 3 == 1:
                    message_bus.dispatch(Break())
                else:
                    message_bus.dispatch(Measure(degrees=number))
            except OSError as error:
                heard[str(error)] += 1
            except BaseException as error:
                raised.append(error)
                raise
            message_bus.publish(SensorReadEvent(session_id=SessionID(f"thread {number}")))

    def break_down(command: Break) -> None:
        msg = "out of order"
        raise OSError(msg)

    message_bus.register_command(Calibrate, calibrate)
    message_bus.register_command(Break, break_down)
    message_bus.register_command(Measure, lambda command: command.degrees)
    message_bus.subscribe_event("sensor.*", count)
    try:
        for _ in range(ROUNDS):
            threads = [threading.Thread(target=work) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            MessageBus().metrics.snapshot()
            memory.measure()
    finally:
        message_bus.close()

    calls = THREADS * ROUNDS * EACH
    assert raised == []
    assert heard == {"sensor.read": calls, "sensor.calibrated": calls // 3, "out of order": calls // 3}
    calls_between = THREADS * EACH * (ROUNDS - 3)
    assert memory.grown(memory.blocks) < calls_between / 10, memory.blocks
    assert memory.grown(memory.objects) < calls_between / 10, memory.objects
