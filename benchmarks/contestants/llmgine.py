"""LLMgine, with nothing switched on or off."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contestants.contestant import Contestant
from contestants.counter import counting_handler, suspending_handler
from llmgine.bus import MessageBus
from llmgine.messages import Command, Event, SessionID
from llmgine.observability import ObservabilityManager
from llmgine.observability.handlers import JsonlHandler


@dataclass
class Ping(Command[None]):
    n: int


@dataclass
class Pinged(Event):
    n: int


class LLMgine(Contestant):
    module = "llmgine.bus"

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        self.bus = MessageBus.isolated()
        await self.bus.start()
        self.bus.register_command_handler(Ping, suspending_handler if suspend else counting_handler())
        for _ in range(handlers):
            self.bus.register_event_handler(Pinged, counting_handler())

    async def start_with_log(self, path: Path) -> None:
        await self.start()
        self.observability = ObservabilityManager()
        self.observability.register_handler(JsonlHandler(path.parent, path.name))
        self.bus.set_observability_manager(self.observability)

    async def close_log(self) -> None:
        self.observability.close()

    async def execute(self, count: int) -> None:
        bus = self.bus
        for n in range(count):
            await bus.execute(Ping(n=n))

    def commands(self, count: int) -> list[Ping]:
        return [Ping(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Ping]) -> None:
        bus = self.bus
        for command in commands:
            await bus.execute(command)

    async def publish(self, count: int) -> None:
        bus = self.bus
        for n in range(count):
            await bus.publish(Pinged(n=n))

    async def queue(self, count: int) -> None:
        bus = self.bus
        for n in range(count):
            await bus.publish(Pinged(n=n), await_processing=False)

    async def drain(self) -> None:
        await self.bus.wait_for_events()

    async def register_sessions(self, sessions: Sequence[str]) -> None:
        handler = counting_handler()
        for session in sessions:
            self.bus.register_event_handler(Pinged, handler, session_id=SessionID(session))

    async def publish_in(self, sessions: Sequence[str], count: int) -> None:
        bus = self.bus
        for n in range(count):
            await bus.publish(Pinged(n=n, session_id=SessionID(sessions[n % len(sessions)])))

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            self.bus.unregister_session_handlers(SessionID(session))


contestant = LLMgine
