"""python-cqrs: mediators for requests and events, here without the logging middleware that its bootstrap adds."""
# mypy: allow-subclassing-any

import asyncio
import uuid
from dataclasses import field
from datetime import datetime
from importlib import import_module
from typing import Any

from contestants.container import Container
from contestants.contestant import Contestant, left_out
from contestants.counter import counter

cqrs: Any = import_module("cqrs")
events: Any = import_module("cqrs.events")

NO_QUEUE = "no queue: the publisher waits for the handlers"


def new_id() -> str:
    return str(uuid.uuid4())


def now() -> str:
    return datetime.now().isoformat()  # noqa: DTZ005  # as the limit does


class Ping(cqrs.Request):
    n: int
    id: str = field(default_factory=new_id)
    timestamp: str = field(default_factory=now)


class Pinged(cqrs.DomainEvent):
    n: int
    id: str = field(default_factory=new_id)
    timestamp: str = field(default_factory=now)


class PingHandler(cqrs.RequestHandler):
    async def handle(self, request: Ping) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1


class SuspendingPingHandler(cqrs.RequestHandler):
    async def handle(self, request: Ping) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1
        await asyncio.sleep(0)


class PingedHandler(cqrs.EventHandler):
    async def handle(self, event: Pinged) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1


class PythonCQRS(Contestant):
    module = "cqrs"
    cannot = (
        left_out(NO_QUEUE, "burst", "queued-memory", "idle")
        | left_out("no sessions", "sessions")
        | left_out("no log of events", "log")
    )

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        container = Container()
        request_map, event_map = cqrs.RequestMap(), events.EventMap()
        ping_handler = SuspendingPingHandler if suspend else PingHandler
        pinged_handlers = [type(f"PingedHandler{n}", (PingedHandler,), {}) for n in range(handlers)]
        request_map.bind(Ping, ping_handler)
        for handler in pinged_handlers:
            event_map.bind(Pinged, handler)
        for handler in (ping_handler, *pinged_handlers):
            container.handlers[handler] = handler()
        self.mediator = cqrs.RequestMediator(request_map=request_map, container=container)
        self.event_mediator = cqrs.EventMediator(event_map=event_map, container=container)

    async def execute(self, count: int) -> None:
        send = self.mediator.send
        for n in range(count):
            await send(Ping(n=n))

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        send = self.mediator.send
        for command in commands:
            await send(command)

    async def publish(self, count: int) -> None:
        send = self.event_mediator.send
        for n in range(count):
            await send(Pinged(n=n))


contestant = PythonCQRS
