"""LLMgine."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from contestants.counter import counter, counting_handler, signalling_handler
from contestants.llmgine import Ping, Pinged
from sqlalchemy.orm import Session

from durable import sqlite
from durable.contestant import Durable
from durable.limit import Base, Order
from llmgine.bus import MessageBus
from llmgine.bus.interfaces import HandlerMiddleware
from llmgine.bus.resilience import (
    CircuitBreakerMiddleware,
    ConcurrencyLimitMiddleware,
    DeadLetterMiddleware,
    DeadLetters,
    ErrorStatistics,
    MemoryDeadLetterStore,
    Policy,
    ResilientMessageBus,
    Retry,
    TimeoutMiddleware,
)
from llmgine.database.outbox import Outbox, OutboxRow
from llmgine.messages import ScheduledEvent

SCHEDULED, LOG, LETTERS = "message_bus_scheduled_events", "message_bus_event_log", "message_bus_dead_letters"


class Later(ScheduledEvent):
    n: int = 0


def broken(command: Ping) -> None:
    raise ValueError(command.n)


async def execute(bus: MessageBus, count: int) -> None:
    for n in range(count):
        await bus.execute(Ping(n=n))


class LLMgine(Durable):
    bus: MessageBus

    def layered(self) -> Mapping[str, Callable[[int], Awaitable[None]]]:
        layers: dict[str, HandlerMiddleware] = {
            "layer": HandlerMiddleware(),
            "retry": Retry(),
            "circuit-breaker": CircuitBreakerMiddleware(),
            "concurrency": ConcurrencyLimitMiddleware(4),
            "timeout": TimeoutMiddleware(30),
            "dead-letters": DeadLetterMiddleware(DeadLetters(MemoryDeadLetterStore())),
            "statistics": ErrorStatistics(),
        }
        buses = {"bare": MessageBus.isolated(), "resilient": ResilientMessageBus.isolated()}
        for name, layer in layers.items():
            buses[name] = MessageBus.isolated()
            buses[name].add_command_middleware(layer)
        for bus in buses.values():
            bus.register_command_handler(Ping, counting_handler())
        return {name: partial(execute, bus) for name, bus in buses.items()}

    async def open_schedule(self, folder: Path) -> None:
        self.bus = self.with_schedule(folder)
        await self.bus.start()

    def with_schedule(self, folder: Path) -> MessageBus:
        self.path = folder / "llmgine.db"
        bus = MessageBus.isolated(database=f"sqlite:///{self.path}")
        bus.register_event_handler(Later, signalling_handler)
        return bus

    async def store(self, count: int, tasks: int) -> None:
        tomorrow = datetime.now(UTC) + timedelta(days=1)

        async def publish(events: int) -> None:
            for _ in range(events):
                await self.bus.publish(Later(scheduled_time=tomorrow))

        await asyncio.gather(*(publish(count // tasks) for _ in range(tasks)))

    def stored(self) -> int:
        return sqlite.count(self.path, SCHEDULED)

    async def fill(self, folder: Path, count: int) -> None:
        await self.open_schedule(folder)
        await self.store(1, 1)
        await self.bus.stop()
        sqlite.copy(self.path, SCHEDULED, count - 1)
        before = self.with_schedule(folder)
        await before.schedule(Later(), after=0)
        await before.stop()
        self.bus = self.with_schedule(folder)

    async def start_filled(self) -> None:
        await self.bus.start()
        await counter.reach(1)

    async def start(self, log: Path | None) -> None:
        if log is None:
            self.bus = MessageBus.isolated()
        else:
            self.path = log / "llmgine.db"
            os.environ["LLMGINE_PERSIST_EVENTS"] = "1"
            self.bus = MessageBus.isolated(database=f"sqlite:///{self.path}")
        self.bus.register_event_handler(Pinged, counting_handler())
        await self.bus.start()

    async def publish(self, count: int) -> None:
        bus = self.bus
        for n in range(count):
            await bus.publish(Pinged(n=n))

    async def close_log(self) -> int:
        await self.bus.stop()
        return sqlite.count(self.path, LOG)

    async def open_letters(self, folder: Path) -> None:
        self.path = folder / "llmgine.db"
        self.bus = MessageBus.isolated(policy=Policy(dead_letters=True), database=f"sqlite:///{self.path}")
        self.bus.register_command_handler(Ping, broken)
        await self.bus.start()

    async def fail(self) -> None:
        await self.bus.execute(Ping(n=0))

    async def close_letters(self) -> int:
        await self.bus.stop()
        return sqlite.count(self.path, LETTERS)

    async def open_outbox(self, folder: Path) -> None:
        self.path = folder / "llmgine.db"
        self.engine = sqlite.engine(self.path)
        Base.metadata.create_all(self.engine)
        self.bus = MessageBus.isolated()
        self.bus.register_event_handler(Pinged, signalling_handler)
        await self.bus.start()
        self.outbox = Outbox(self.bus, self.engine)
        async with self.outbox:
            pass

    def order(self, events: int) -> None:
        with Session(self.engine) as session, session.begin():
            session.add(Order(amount=1))
            for n in range(events):
                self.outbox.publish(session, Pinged(n=n))

    async def relay(self, count: int) -> None:
        async with self.outbox:
            await counter.reach(count)
        assert sqlite.count(self.path, OutboxRow.__tablename__) == 0


contestant = LLMgine
