"""autogen-core: agents on one queue. An agent's key stands for a session; the handlers tell the publisher to go on."""
# mypy: allow-subclassing-any, allow-untyped-decorators

import asyncio
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counter
from contestants.message import Message

os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"
core: Any = import_module("autogen_core")


class Ping(Message):
    pass


class Pinged(Message):
    pass


class Answering(core.RoutedAgent):
    @core.rpc
    async def handle(self, message: Ping, ctx: core.MessageContext) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1


class SuspendingAnswering(core.RoutedAgent):
    @core.rpc
    async def handle(self, message: Ping, ctx: core.MessageContext) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1
        await asyncio.sleep(0)


class Listening(core.RoutedAgent):
    @core.event
    async def handle(self, message: Pinged, ctx: core.MessageContext) -> None:  # noqa: ARG002  # the shape of a handler
        counter.handled += 1
        if counter.handled == counter.expected:
            counter.reached.set()


class AutogenCore(Contestant):
    module = "autogen_core"
    cannot = left_out("no end of a single agent", "session-end") | left_out("no log of events", "log")

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        self.runtime = core.SingleThreadedAgentRuntime()
        self.handlers = handlers
        answering = SuspendingAnswering if suspend else Answering
        await answering.register(self.runtime, "answering", lambda: answering("answering"))
        for n in range(handlers):
            await Listening.register(self.runtime, f"listening{n}", lambda: Listening("listening"))
            await self.runtime.add_subscription(core.TypeSubscription("pinged", f"listening{n}"))
        await Listening.register(self.runtime, "session", lambda: Listening("session"))
        await self.runtime.add_subscription(core.TypeSubscription("in-session", "session"))
        self.recipient = core.AgentId("answering", "default")
        self.topic = core.TopicId("pinged", "default")
        self.runtime.start()

    async def execute(self, count: int) -> None:
        send = self.runtime.send_message
        for n in range(count):
            await send(Ping(n=n), self.recipient)

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        send = self.runtime.send_message
        for command in commands:
            await send(command, self.recipient)

    async def publish(self, count: int) -> None:
        publish = self.runtime.publish_message
        for n in range(count):
            handled = counter.handled
            await publish(Pinged(n=n), self.topic)
            await counter.reach(handled + self.handlers)

    async def queue(self, count: int) -> None:
        publish = self.runtime.publish_message
        self.queued_until = counter.handled + count * self.handlers
        for n in range(count):
            await publish(Pinged(n=n), self.topic)

    async def drain(self) -> None:
        await counter.reach(self.queued_until)

    async def register_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            await self.runtime.get("session", session, lazy=False)

    async def publish_in(self, sessions: Sequence[str], count: int) -> None:
        publish = self.runtime.publish_message
        for n in range(count):
            handled = counter.handled
            await publish(Pinged(n=n), core.TopicId("in-session", sessions[n % len(sessions)]))
            await counter.reach(handled + 1)


contestant = AutogenCore
