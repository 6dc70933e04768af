"""diator: a mediator for requests, and an emitter that awaits the handlers of a domain event one after another."""
# mypy: allow-subclassing-any

import asyncio
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any

from contestants.container import Container
from contestants.contestant import Contestant, left_out
from contestants.counter import counter

events: Any = import_module("diator.events")
mediator: Any = import_module("diator.mediator")
requests: Any = import_module("diator.requests")

NO_QUEUE = "no queue: the publisher waits for the handlers"


@dataclass(frozen=True, kw_only=True)
class Ping(requests.Request):
    n: int


@dataclass(frozen=True, kw_only=True)
class Pinged(events.DomainEvent):
    """A domain event carries nothing of its own; this one has what the limit's message has."""

    n: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    timestamp: str = field(default_factory=lambda: datetime.now().isoformat())  # noqa: DTZ005  # as the limit does


class PingHandler:
    events: tuple[()] = ()

    async def handle(self, request: Ping) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1


class SuspendingPingHandler(PingHandler):
    async def handle(self, request: Ping) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1
        await asyncio.sleep(0)


class PingedHandler:
    async def handle(self, event: Pinged) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1


class Diator(Contestant):
    module = "diator.mediator"
    cannot = (
        left_out(NO_QUEUE, "burst", "queued-memory", "idle")
        | left_out("no sessions", "sessions")
        | left_out("no log of events", "log")
    )

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        container = Container()
        request_map, event_map = requests.RequestMap(), events.EventMap()
        request_map.bind(Ping, SuspendingPingHandler if suspend else PingHandler)
        for n in range(handlers):
            event_map.bind(Pinged, type(f"PingedHandler{n}", (PingedHandler,), {}))
        for handler in (request_map.get(Ping), *event_map.get(Pinged)):
            container.handlers[handler] = handler()
        self.emitter = events.EventEmitter(event_map=event_map, container=container)
        self.mediator = mediator.Mediator(request_map=request_map, container=container, event_emitter=self.emitter)

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
        emit = self.emitter.emit
        for n in range(count):
            await emit(Pinged(n=n))


contestant = Diator
