"""mediatr: one process-wide mediator for requests, which may be of any class."""

import asyncio
from importlib import import_module
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counter
from contestants.message import Message

mediatr: Any = import_module("mediatr")

NO_EVENTS = "no events"


class Ping(Message):
    pass


async def handle(request: Ping) -> None:  # noqa: ARG001  # the shape of a handler
    counter.handled += 1


async def suspend_and_handle(request: Ping) -> None:  # noqa: ARG001  # the shape of a handler
    counter.handled += 1
    await asyncio.sleep(0)


class Mediatr(Contestant):
    module = "mediatr"
    cannot = left_out(
        NO_EVENTS, "publish", "fan-out", "burst", "queued-memory", "growth", "idle", "sessions"
    ) | left_out("no log of events", "log")

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:  # noqa: ARG002  # no events
        mediatr.Mediator.register_handler(suspend_and_handle if suspend else handle)
        self.mediator = mediatr.Mediator()

    async def execute(self, count: int) -> None:
        send = self.mediator.send_async
        for n in range(count):
            await send(Ping(n=n))

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        send = self.mediator.send_async
        for command in commands:
            await send(command)


contestant = Mediatr
