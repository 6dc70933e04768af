"""abxbus, the successor of bubus: an event bus on pydantic models; a command is an event with one handler."""
# mypy: allow-subclassing-any

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counting_handler, suspending_handler

abxbus: Any = import_module("abxbus")
logging.getLogger("abxbus").setLevel(logging.ERROR)


class Ping(abxbus.BaseEvent):
    n: int


class Pinged(abxbus.BaseEvent):
    n: int


class Abxbus(Contestant):
    module = "abxbus"
    cannot = left_out("no sessions", "sessions")

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        # Keeps events in flight and no others: the cheapest of its histories.
        self.bus = abxbus.EventBus(max_history_size=0, warn_on_duplicate_handler_names=False)
        self.bus.on(Ping, suspending_handler if suspend else counting_handler())
        for _ in range(handlers):
            self.bus.on(Pinged, counting_handler())

    async def start_with_log(self, path: Path) -> None:
        wal = import_module("abxbus.middlewares").WALEventBusMiddleware(path)
        self.bus = abxbus.EventBus(max_history_size=0, middlewares=[wal])
        self.bus.on(Pinged, counting_handler())

    async def close_log(self) -> None:
        await self.bus.wait_until_idle()

    async def execute(self, count: int) -> None:
        emit = self.bus.emit
        for n in range(count):
            await (await emit(Ping(n=n)).now()).event_result()

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        emit = self.bus.emit
        for command in commands:
            await (await emit(command).now()).event_result()

    async def publish(self, count: int) -> None:
        emit = self.bus.emit
        for n in range(count):
            await emit(Pinged(n=n)).now()

    async def queue(self, count: int) -> None:
        emit = self.bus.emit
        for n in range(count):
            emit(Pinged(n=n))

    async def drain(self) -> None:
        await self.bus.wait_until_idle()


contestant = Abxbus
