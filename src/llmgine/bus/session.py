"""A session scopes handlers and tasks to one conversation, from its start event to its end event."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llmgine.bus import causality
from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerPriority
from llmgine.errors import QueueFullError, SessionClosedError
from llmgine.messages import Command, CommandResult, Event, SessionID, new_id

if TYPE_CHECKING:
    from types import TracebackType

    from llmgine.bus.bus import MessageBus

__all__ = ["BusSession", "SessionEndEvent", "SessionEvent", "SessionStartEvent"]

R = TypeVar("R")
T = TypeVar("T")


@dataclass
class SessionEvent(Event):
    """Something happened to a session; `session_id` says to which."""


@dataclass
class SessionStartEvent(SessionEvent):
    """A session has begun."""


@dataclass
class SessionEndEvent(SessionEvent):
    """A session has ended. Its handlers still hear this, as their last event."""

    error: BaseException | None = None
    """What ended it, if it did not end by itself."""


class BusSession:
    """One session on a bus, as an async context manager. Without a bus it belongs to the application's."""

    def __init__(self, id: str | None = None, bus: MessageBus | None = None) -> None:  # noqa: A002  # published name
        if bus is None:
            from llmgine.bus.bus import MessageBus

            bus = MessageBus()
        self.bus = bus
        self.session_id = SessionID(id or new_id())
        self._active = False
        self._ended = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._announced = asyncio.Event()
        """Set when its tasks have ended, and its end is being published."""

    async def start(self) -> Self:
        """Begin the session and publish its `SessionStartEvent`.

        Raises:
            SessionClosedError: it has ended; a session begins once.
        """
        if self._ended:
            msg = f"Session {self.session_id} has ended, and a session begins once. Make another: bus.create_session()."
            raise SessionClosedError(msg)
        if self._active:
            return self
        self._active = True
        self.bus._active_sessions += 1
        started = SessionStartEvent(session_id=self.session_id)
        inherited = causality.traceparent()
        try:
            with suppress(QueueFullError):  # a session may begin also where there is too much to do
                await self.bus.publish(started)
            if started.traceparent not in {None, inherited}:  # somebody traces the session
                self.bus._session_traces[self.session_id] = started.traceparent
        except BaseException as error:
            self._begin_end(error)  # nobody will end what was not begun
            raise
        return self

    async def end(self, error: BaseException | None = None) -> None:
        """Cancel the session's tasks, publish its `SessionEndEvent`, and remove its handlers."""
        if self._active:
            ending = self._begin_end(error)
            try:
                await asyncio.wait((ending,))  # which goes on if this is cancelled
            except asyncio.CancelledError:
                await self._announced.wait()
                raise
            ending.result()

    def _begin_end(self, error: BaseException | None) -> asyncio.Task[None]:
        self._active, self._ended = False, True
        self.bus._active_sessions -= 1
        self.bus._session_traces.pop(self.session_id, None)
        others = self._tasks - {asyncio.current_task()}  # which may end the session that it belongs to
        for task in others:
            task.cancel()
        self._ending = asyncio.create_task(self._finish(error, others))
        return self._ending

    async def _finish(self, error: BaseException | None, tasks: set[asyncio.Task[Any]]) -> None:
        try:
            if tasks:
                await asyncio.wait(tasks)
            self._announced.set()
            with suppress(QueueFullError):
                await self.bus.publish(SessionEndEvent(session_id=self.session_id, error=error))
        finally:
            self.bus.unregister_session_handlers(self.session_id)

    def register_command_handler(self, command_type: type[Command[Any]], handler: CommandHandler) -> Self:
        """Make `handler` answer this session's commands of a type.

        Raises:
            HandlerAlreadyRegisteredError: the type has a handler in this session.
            SessionClosedError: the session has not begun, or has ended.
        """
        self._check()
        self.bus.register_command_handler(command_type, handler, self.session_id)
        return self

    def register_event_handler(
        self, event_type: type[Event], handler: EventHandler, priority: int = HandlerPriority.NORMAL
    ) -> Self:
        """Make `handler` hear this session's events of a type.

        Raises:
            SessionClosedError: the session has not begun, or has ended.
        """
        self._check()
        self.bus.register_event_handler(event_type, handler, self.session_id, priority)
        return self

    async def execute_with_session(self, command: Command[R]) -> CommandResult[R]:
        """Execute a copy of the command that carries this session's id.

        Raises:
            SessionClosedError: the session has not begun, or has ended.
        """
        self._check()
        mine = copy(command)
        mine.session_id = self.session_id
        return await self.bus.execute(mine)

    def create_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work beside the session; what has not finished when the session ends is cancelled.

        Raises:
            SessionClosedError: the session has not begun, or has ended.
        """
        try:
            self._check()
        except SessionClosedError:
            work.close()
            raise
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end(error)

    def _check(self) -> None:
        if not self._active:
            msg = f"Session {self.session_id} is not active: use it inside `async with`, or between start() and end()."
            raise SessionClosedError(msg)
