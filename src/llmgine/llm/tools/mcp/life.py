"""A connection from its beginning to its end, and the requests that are under way on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmgine.errors import MCPConnectionError, MCPConnectionLostError, MCPError, MCPRequestError
from llmgine.llm.tools.mcp.http_refusals import NO_SESSION, REFUSED

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["Life", "Request", "told"]

_CLOSED = "Connection closed"
"""What the SDK says of a connection that has ended."""
_BROKEN_OFF = "SSE stream"
"""How begins what it says of a request over HTTP that has broken off, be it alone or with the server."""
_PING = 5.0
"""Seconds in which a server must say that it still knows the session."""


@dataclass(slots=True, eq=False)
class Request:
    """What somebody wants done with the client."""

    work: Callable[[Client], Awaitable[Any]]
    answer: asyncio.Future[Any]
    context: Context
    """Of who asks: what the work runs in."""
    task: asyncio.Task[None] | None = None
    """What does it, since it has been sent."""


class Life:
    """Tasks that last no longer than the connection. Its owner begins and ends it."""

    def __init__(self, server: str, client: Client, ended: Callable[[], None], explained: Callable[[str], str]) -> None:
        """Begin.

        Args:
            server: its name.
            client: has been entered.
            ended: is called when a request finds out that the connection has ended.
            explained: says better what the SDK says of a failure.
        """
        self.client = client
        self.problem = ""
        """Why it has ended, if a request has found that out."""
        self._server = server
        self._ended = ended
        self._explained = explained
        self._requests: set[Request] = set()
        """Sent and not answered."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def contexts(self) -> list[Context]:
        """Return those of the requests that have been sent and not answered."""
        return [request.context for request in self._requests]

    def start(self, work: Coroutine[Any, Any, None], context: Context | None = None) -> asyncio.Task[None]:
        """Run something until it ends or the connection does."""
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def send(self, request: Request) -> None:
        """Have a request done, unless who asked has been cancelled."""
        self._requests.add(request)
        request.task = asyncio.get_running_loop().create_task(self._answer(request), context=request.context)
        self._tasks.add(request.task)
        request.task.add_done_callback(partial(self._answered, request))

    def _answered(self, request: Request, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if request.answer.done():
            self._requests.discard(request)

    async def end(self, error: MCPConnectionError) -> None:
        """Return when nothing runs any more. What has no answer fails."""
        for request in self._requests:
            if not request.answer.done():
                request.answer.set_exception(error)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _answer(self, request: Request) -> None:
        """Do what was asked. Where the connection breaks off, the answer is left to the owner, who knows why."""
        answer = request.answer
        if answer.done():
            return
        try:
            value = await request.work(self.client)
        except Exception as exc:  # noqa: BLE001  # of the SDK, of pydantic: for who asked to see
            error = await self._error(exc)
            if error is None:
                self.problem = "" if str(exc) == _CLOSED else str(exc)
                self._ended()
            elif not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(value)

    async def _error(self, exc: Exception) -> MCPError | None:
        """Return what who asked is told; None if the connection has ended."""
        from mcp import MCPError as Refused

        name = self._server
        if isinstance(exc, MCPError):
            return exc
        if not isinstance(exc, Refused):
            error = MCPError(f"MCP server '{name}' has not answered as it should: {told(exc)}.", server=name)
        elif await self._is_end(exc.code, exc.message):
            return None
        elif exc.message.startswith(_BROKEN_OFF):
            error = MCPConnectionLostError(f"MCP server '{name}' has broken off: {exc.message}", server=name)
        else:
            error = MCPRequestError(
                f"MCP server '{name}' refuses: {self._explained(exc.message)}", code=exc.code, server=name
            )
        error.__cause__ = exc
        return error

    async def _is_end(self, code: int, message: str) -> bool:
        """Return whether an error means that the connection has ended, or the session, where there is one."""
        from mcp import MCPError as Refused
        from mcp_types import CONNECTION_CLOSED
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        if message == _CLOSED:
            return code == CONNECTION_CLOSED
        has_session = self.client.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
        if not (has_session and message.startswith((_BROKEN_OFF, NO_SESSION, REFUSED))):
            return False
        try:
            async with asyncio.timeout(_PING):
                await self.client.session.send_ping()
        except (Refused, TimeoutError):
            return True
        return False


def told(exc: BaseException) -> str:
    """Return what an exception says, without a full stop."""
    while isinstance(exc, BaseExceptionGroup) and exc.exceptions:
        exc = exc.exceptions[0]
    return str(exc).rstrip(".") or type(exc).__name__
