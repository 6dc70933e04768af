"""The one task that owns a connection: it enters and leaves the SDK's client, and starts it again when it is lost.

Everybody else puts requests into its queue. Each runs in a task of its own, in the context of who asked, so they run at
the same time; who asked may be cancelled, and then the request is, which the server is told. While there is no
connection, requests wait in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from llmgine.bus.resilience.backoff import Jitter, RetryConfig
from llmgine.errors import MCPConnectionError, MCPConnectionLostError
from llmgine.llm.tools.mcp.life import Life, Request, told
from llmgine.llm.tools.mcp.targets import ServerTarget

if TYPE_CHECKING:
    from mcp import Client

    from llmgine.llm.tools.mcp.server_tools import ServerTools

__all__ = ["RESTARTS", "STEADY", "Connection", "State"]

logger = logging.getLogger("llmgine.mcp")

T = TypeVar("T")

RESTARTS = RetryConfig(max_retries=5, initial_delay=0.25, max_delay=30.0, jitter=Jitter.FULL)
"""How often a server that dies is started again before it is given up, and when."""
STEADY = 60.0
"""Seconds that a server has to live for what was before to be forgiven."""


class State(StrEnum):
    """What a connection is doing."""

    CONNECTING = "connecting"
    """For the first time."""
    READY = "ready"
    RESTARTING = "restarting"
    """Requests wait."""
    FAILED = "failed"
    """Given up, after too many deaths. The next request has it tried once more."""
    CLOSED = "closed"


class Connection:
    """A server, as those see it who ask something of it."""

    def __init__(
        self,
        target: ServerTarget,
        server: ServerTools,
        *,
        random: Callable[[float, float], float],
        sleep: Callable[[float], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        """Prepare a connection; `connect` makes it.

        Args:
            target: how the server is reached.
            server: is told what happens, in the task that owns the connection.
            random: returns a number between two, for the delays.
            sleep: waits for some seconds.
            clock: returns seconds, to tell how long the server has lived.
        """
        self.target = target
        self.state = State.CONNECTING
        self.restarts = 0
        self.last_error = ""
        self._server = server
        self._random = random
        self._sleep = sleep
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Request] = deque()
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._life: Life | None = None
        self._pause: asyncio.Future[object] | None = None
        self._connecting = False
        self._over = False
        """Whether the connection has ended, and the owner has yet to leave it."""
        self._first: asyncio.Future[MCPConnectionError | None] = self._loop.create_future()
        """What became of the first attempt to connect."""
        self._owner: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client | None:
        """The SDK's client, for what it knows about the server; None while there is no connection."""
        return None if self._life is None else self._life.client

    def contexts(self) -> list[Context]:
        """Return those of the requests that have been sent and not answered."""
        return [] if self._life is None else self._life.contexts()

    async def connect(self) -> None:
        """Return when the connection is there.

        Raises:
            MCPConnectionError: it cannot be made; everything is cleaned up, and this object is done with.
        """
        self._owner = asyncio.create_task(self._own(), name=f"MCP server {self.target.name}")
        try:
            problem = await asyncio.shield(self._first)
        except asyncio.CancelledError:
            await self.close()
            raise
        if problem is not None:
            await self.close()
            raise problem

    async def close(self) -> None:
        """End the connection. What is under way fails with an MCPConnectionError."""
        self._closing.set()
        self._news.set()
        if self._pause is not None:
            self._pause.cancel()
        if self._owner is not None and not self._owner.done() and asyncio.get_running_loop() is self._loop:
            if self._connecting:
                self._owner.cancel()
            await asyncio.wait([self._owner])

    async def request(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Have something done with the client, and return what comes of it.

        Raises:
            MCPConnectionError: there is no connection, and none can be made.
            MCPConnectionLostError: it has broken off meanwhile.
            MCPRequestError: the server has refused the request.
            MCPError: the answer is unusable.
        """
        if self.state is State.CLOSED or self._closing.is_set() or asyncio.get_running_loop() is not self._loop:
            raise self._closed()
        answer: asyncio.Future[T] = self._loop.create_future()
        request = Request(work, answer, copy_context())
        if self._life is None or self._over or self._queue:
            self._queue.append(request)
            self._news.set()
        else:
            self._life.send(request)
        try:
            return await answer
        except asyncio.CancelledError:
            if request.task is not None:
                request.task.cancel()
            raise

    # The owner

    async def _own(self) -> None:
        try:
            await self._keep_up()
        finally:
            self.state = State.CLOSED
            self._refuse_waiting(self._closed())
            if not self._first.done():
                self._first.set_result(self._closed())

    async def _keep_up(self) -> None:
        deaths, delay = 0, None
        while not self._closing.is_set():
            began = self._clock()
            reason = await self._live()
            if self._closing.is_set():
                return
            said = self.target.said()
            self.last_error = f"{reason} It wrote: {said}" if said else reason
            if not self._first.done():
                self._first.set_result(MCPConnectionError(self.last_error, server=self.target.name))
                return
            if self.state is State.READY and self._clock() - began >= STEADY:
                deaths, delay = 0, None
            deaths += 1
            if deaths > RESTARTS.max_retries:
                await self._give_up(reason)
            else:
                self.state = State.RESTARTING
                delay = RESTARTS.delay(deaths, delay, self._random)
                logger.warning("%s\nIt is started again in %.1f s.", self.last_error, delay)
                self._server.lost(self.last_error, delay)
                self._pause = asyncio.ensure_future(self._sleep(delay))
                await asyncio.wait([self._pause])
            self.restarts += 1

    async def _give_up(self, reason: str) -> None:
        """Return when somebody asks for something once more."""
        self.state = State.FAILED
        logger.error("%s\nIt has failed too often, and is tried again when it is needed.", self.last_error)
        self._server.failed(self.last_error)
        self._refuse_waiting(MCPConnectionError(reason, server=self.target.name))
        while not (self._queue or self._closing.is_set()):
            self._news.clear()
            await self._news.wait()

    async def _live(self) -> str:
        """Connect, and serve requests until the connection ends. Return why it has, or could not be made."""
        target = self.target
        failure: Exception | None = None
        try:
            self._connecting, self._over = True, False
            async with asyncio.timeout(target.connect_timeout) as limit, target.client(self._ended) as client:
                await self._server.connected(client)
                limit.reschedule(None)
                self._connecting = False
                self._life = Life(target.name, client, self._ended, target.explained)
                await self._serve(self._life)
        except Exception as exc:  # noqa: BLE001  # of the SDK, of httpx, of the system: whatever it is, it is over
            failure = exc
        finally:
            reason = f"MCP {target.described} {self._problem(failure)}."
            self._connecting = False
            if self._life is not None:
                lost = MCPConnectionLostError(reason, server=target.name)
                await self._life.end(self._closed() if self._closing.is_set() else lost)
                self._life = None
        return reason

    def _problem(self, failure: Exception | None) -> str:
        if self._life is not None:
            return self.target.lost(self._life.problem or ("" if failure is None else told(failure)))
        if isinstance(failure, TimeoutError) and self._connecting:
            return f"has not answered within {self.target.connect_timeout:g} seconds"
        return "has ended" if failure is None else self.target.not_reached(failure)

    async def _serve(self, life: Life) -> None:
        self.state = State.READY
        keeping = [life.start(work) for work in self._server.ready(life.client)]
        if not self._first.done():
            self._first.set_result(None)
        try:
            while not (self._over or self._closing.is_set()):
                while self._queue:
                    life.send(self._queue.popleft())
                self._news.clear()
                await self._news.wait()
        finally:
            self._over = True
            for task in keeping:  # before the client is left, in which they have things open
                task.cancel()

    def _ended(self) -> None:
        self._over = True
        self._news.set()

    def _refuse_waiting(self, error: MCPConnectionError) -> None:
        while self._queue:
            request = self._queue.popleft()
            if not request.answer.done():
                request.answer.set_exception(error)

    def _closed(self) -> MCPConnectionError:
        text = f"The connection to MCP server '{self.target.name}' has been closed."
        return MCPConnectionError(text, server=self.target.name)
