"""A command seen as the stream of events that it causes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from llmgine.bus.causality import current, stamp
from llmgine.errors import BusError
from llmgine.messages import Command, CommandResult, Event

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["EventStream"]

R = TypeVar("R")


class EventStream(Generic[R]):
    """Runs a command when iterated; yields the events of its chain in the order in which they are published.

    Leaving the loop early cancels the command; `async with` around the loop makes that happen at the end of the block,
    whatever the interpreter's garbage collector does. Awaiting the stream runs the command to its end and returns its
    result. Events that the consumer has not taken yet are kept in memory.
    """

    def __init__(
        self,
        command: Command[R],
        execute: Callable[[Command[R]], Awaitable[CommandResult[R]]],
        listening: Callable[[Command[Any], Callable[[Event], None]], AbstractContextManager[None]],
    ) -> None:
        self._command = command
        self._execute = execute
        self._listening = listening
        self._events: deque[Event] = deque()
        self._readers: list[asyncio.Future[None]] = []
        """Those that wait for the next event."""
        self._task: asyncio.Task[CommandResult[R]] | None = None

    @property
    def result(self) -> CommandResult[R]:
        """The command's result, once the command has ended.

        Raises:
            BusError: it has not ended; `await` the stream to wait for it.
        """
        if self._task is None or not self._task.done():
            msg = f"{type(self._command).__name__} has not ended. Iterate over the stream to its end, or await it."
            raise BusError(msg)
        if self._task.cancelled():
            name = type(self._command).__name__
            return CommandResult(
                success=False,
                command_id=self._command.command_id,
                session_id=self._command.session_id,
                error=f"CancelledError: the stream of {name} was left before it had ended",
            )
        return self._task.result()

    async def aclose(self) -> None:
        """Cancel the command if it still runs, and wait until it has ended."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def __aiter__(self) -> AsyncIterator[Event]:
        task = self._begin()
        loop = asyncio.get_running_loop()
        events = self._events
        try:
            while True:
                while events:
                    yield events.popleft()
                if task.done():
                    return
                news: asyncio.Future[None] = loop.create_future()
                self._readers.append(news)
                await news
        finally:
            await self.aclose()

    def __await__(self) -> Generator[Any, Any, CommandResult[R]]:
        return self._finish().__await__()

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _finish(self) -> CommandResult[R]:
        try:
            await asyncio.wait((self._begin(),))
        finally:
            await self.aclose()
        return self.result

    def _begin(self) -> asyncio.Task[CommandResult[R]]:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(lambda _: self._wake())
        return self._task

    async def _run(self) -> CommandResult[R]:
        chain = current.get()
        if chain is not None:
            stamp(self._command, chain)  # before it is known which chain is listened to
        with self._listening(self._command, self._put):
            return await self._execute(self._command)

    def _put(self, event: Event) -> None:
        self._events.append(event)
        if self._readers:
            self._wake()

    def _wake(self) -> None:
        for news in self._readers:
            if not news.done():
                news.set_result(None)
        self._readers.clear()
