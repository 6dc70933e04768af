"""The limit: no library. A direct await; a dict where there are sessions; an `asyncio.Queue` where there is a queue."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from contestants.contestant import Contestant
from contestants.counter import Handler, counting_handler, suspending_handler
from contestants.message import Message


class Limit(Contestant):
    """The same work by hand."""

    module = "asyncio"
    log: BinaryIO | None = None

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        self.handler = suspending_handler if suspend else counting_handler()
        self.handlers = [counting_handler() for _ in range(handlers)]
        self.sessions: dict[str, Handler] = {}
        self.waiting: asyncio.Queue[Message] = asyncio.Queue()
        self.consumer = asyncio.create_task(self.consume())

    async def start_with_log(self, path: Path) -> None:
        await self.start()
        self.log = path.open("ab", buffering=65_536)  # closed below

    async def close_log(self) -> None:
        assert self.log is not None
        self.log.close()

    async def consume(self) -> None:
        handler = self.handler
        while True:
            await handler(await self.waiting.get())
            self.waiting.task_done()

    async def execute(self, count: int) -> None:
        handler = self.handler
        for n in range(count):
            await handler(Message(n=n))

    def commands(self, count: int) -> list[Message]:
        return [Message(n=n) for n in range(count)]

    async def execute_built(self, commands: list[Message]) -> None:
        handler = self.handler
        for command in commands:
            await handler(command)

    async def publish(self, count: int) -> None:
        if self.log is not None:
            await self.publish_and_log(count, self.log)
            return
        if len(self.handlers) == 1:
            await self.execute(count)
            return
        for n in range(count):
            event = Message(n=n)
            for handler in self.handlers:
                await handler(event)

    async def publish_and_log(self, count: int, log: BinaryIO) -> None:
        handler = self.handler
        for n in range(count):
            event = Message(n=n)
            line: dict[str, Any] = {  # what LLMgine writes
                "event_type": "Message",
                "event_id": event.id,
                "timestamp": event.timestamp,
                "metadata": {},
                "correlation_id": event.id,
                "causation_id": None,
                "session_id": "BUS",
                "n": event.n,
            }
            log.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            await handler(event)

    async def queue(self, count: int) -> None:
        for n in range(count):
            self.waiting.put_nowait(Message(n=n))

    async def drain(self) -> None:
        await self.waiting.join()

    async def register_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            self.sessions[session] = self.handler

    async def publish_in(self, sessions: Sequence[str], count: int) -> None:
        for n in range(count):
            await self.sessions[sessions[n % len(sessions)]](Message(n=n))

    async def end_sessions(self, sessions: Sequence[str]) -> None:
        for session in sessions:
            del self.sessions[session]


contestant = Limit
