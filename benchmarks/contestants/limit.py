"""The limit: no library. A direct await; a dict where there are sessions; an `asyncio.Queue` where there is a queue."""

import asyncio
from collections.abc import Sequence

from contestants.contestant import Contestant
from contestants.counter import Handler, counting_handler, suspending_handler
from contestants.message import Message


class Limit(Contestant):
    """The same work by hand."""

    module = "asyncio"

    async def start(self, *, handlers: int = 1, suspend: bool = False) -> None:
        self.handler = suspending_handler if suspend else counting_handler()
        self.handlers = [counting_handler() for _ in range(handlers)]
        self.sessions: dict[str, Handler] = {}
        self.waiting: asyncio.Queue[Message] = asyncio.Queue()
        self.consumer = asyncio.create_task(self.consume())

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
        if len(self.handlers) == 1:
            await self.execute(count)
            return
        for n in range(count):
            event = Message(n=n)
            for handler in self.handlers:
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
