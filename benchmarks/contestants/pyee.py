"""pyee: an emitter that starts a task for every async listener. An event name of its own stands for a session."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from contestants.contestant import Contestant, left_out
from contestants.counter import counting_handler
from contestants.message import Message

pyee: Any = import_module("pyee.asyncio")

NO_COMMANDS = "no commands"


class Pyee(Contestant):
    module = "pyee.asyncio"
    cannot = left_out(NO_COMMANDS, "execute", "execute-built", "concurrency") | left_out("no log of events", "log")

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:  # noqa: ARG002  # no commands
        self.emitter = pyee.AsyncIOEventEmitter()
        for _ in range(handlers):
            self.emitter.on("pinged", counting_handler())

    async def publish(self, count: int) -> None:
        emitter = self.emitter
        for n in range(count):
            emitter.emit("pinged", Message(n=n))
            await emitter.wait_for_complete()

    async def queue(self, count: int) -> None:
        emitter = self.emitter
        for n in range(count):
            emitter.emit("pinged", Message(n=n))

    async def drain(self) -> None:
        await self.emitter.wait_for_complete()

    async def register_sessions(self, sessions: Sequence[str]) -> None:
        handler = counting_handler()
        for session in sessions:
            self.emitter.on(session, handler)

    async def publish_in(self, sessions: Sequence[str], count: int) -> None:
        emitter = self.emitter
        for n in range(count):
            emitter.emit(sessions[n % len(sessions)], Message(n=n))
            await emitter.wait_for_complete()

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            self.emitter.remove_all_listeners(session)


contestant = Pyee
