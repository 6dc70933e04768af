"""lato: an application with injected dependencies; every message passes through a transaction context."""
# mypy: allow-subclassing-any

import asyncio
from importlib import import_module
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counter

lato: Any = import_module("lato")

NO_QUEUE = "no queue: the publisher waits for the handlers"


class Ping(lato.Command):
    n: int


class Pinged(lato.Event):
    n: int


async def handle_ping(command: Ping) -> None:  # noqa: ARG001  # the shape of a handler
    counter.handled += 1


async def suspend_and_handle_ping(command: Ping) -> None:  # noqa: ARG001  # the shape of a handler
    counter.handled += 1
    await asyncio.sleep(0)


def pinged_handler() -> Any:
    async def handle_pinged(event: Pinged) -> None:  # noqa: ARG001  # the shape of a handler
        counter.handled += 1

    return handle_pinged


class Lato(Contestant):
    module = "lato"
    cannot = (
        left_out(NO_QUEUE, "burst", "queued-memory", "idle")
        | left_out("no sessions", "sessions")
        | left_out("no log of events", "log")
    )

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        self.application = lato.Application("bench")
        self.application.handler(Ping)(suspend_and_handle_ping if suspend else handle_ping)
        for _ in range(handlers):
            self.application.handler(Pinged)(pinged_handler())

    async def execute(self, count: int) -> None:
        execute = self.application.execute_async
        for n in range(count):
            await execute(Ping(n=n))

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        execute = self.application.execute_async
        for command in commands:
            await execute(command)

    async def publish(self, count: int) -> None:
        publish = self.application.publish_async
        for n in range(count):
            await publish(Pinged(n=n))


contestant = Lato
