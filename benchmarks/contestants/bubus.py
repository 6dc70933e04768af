"""bubus: an event bus on pydantic models; a command is an event with one handler, whose result the caller takes."""
# mypy: allow-subclassing-any

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counting_handler, suspending_handler

bubus: Any = import_module("bubus")
logging.getLogger("bubus").setLevel(logging.ERROR)


class Ping(bubus.BaseEvent):
    n: int


class Pinged(bubus.BaseEvent):
    n: int


class Bubus(Contestant):
    module = "bubus"
    cannot = left_out("no sessions", "sessions") | left_out(
        "no more than 100 events at a time, unless its history is never cut", "concurrency"
    )

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        self.bus = bubus.EventBus()
        self.bus.on(Ping, suspending_handler if suspend else counting_handler())
        for n in range(handlers):
            handler: Any = counting_handler()
            handler.__name__ = f"handle{n}"
            self.bus.on(Pinged, handler)

    async def start_with_log(self, path: Path) -> None:
        await self.start()
        self.bus.wal_path = path

    async def close_log(self) -> None:
        await self.bus.wait_until_idle()

    async def execute(self, count: int) -> None:
        dispatch = self.bus.dispatch
        for n in range(count):
            await dispatch(Ping(n=n)).event_result(raise_if_none=False)

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        dispatch = self.bus.dispatch
        for command in commands:
            await dispatch(command).event_result(raise_if_none=False)

    async def publish(self, count: int) -> None:
        dispatch = self.bus.dispatch
        for n in range(count):
            await dispatch(Pinged(n=n))

    async def queue(self, count: int) -> None:
        self.bus.max_history_size = None  # otherwise it refuses the 101st
        dispatch = self.bus.dispatch
        for n in range(count):
            dispatch(Pinged(n=n))

    async def drain(self) -> None:
        await self.bus.wait_until_idle()


contestant = Bubus
