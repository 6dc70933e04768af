"""Handlers by function, for code that need not know their classes; and asynchronous handlers for a manager."""

from __future__ import annotations

import asyncio
import logging
from asyncio import AbstractEventLoop
from collections import deque
from contextvars import Context
from inspect import isawaitable
from os import PathLike
from threading import Condition
from time import monotonic
from typing import Any

from llmgine.messages import Event
from llmgine.observability.handlers.asynchronous import ObservabilityEventHandler
from llmgine.observability.handlers.console_sync import SyncConsoleEventHandler
from llmgine.observability.handlers.file_sync import SyncFileEventHandler
from llmgine.observability.queued import CLOSE_TIMEOUT, QueuedHandler

__all__ = ["AsyncHandlerAdapter", "create_sync_console_handler", "create_sync_file_handler"]

_log = logging.getLogger("llmgine.observability")


def create_sync_console_handler() -> SyncConsoleEventHandler:
    """Return a handler that logs a line about every event."""
    return SyncConsoleEventHandler()


def create_sync_file_handler(
    log_dir: str | PathLike[str] = "logs", filename: str | None = None
) -> SyncFileEventHandler:
    """Return a handler that writes every event to a file in `log_dir`; see `SyncFileEventHandler`."""
    return SyncFileEventHandler(log_dir, filename)


class _Backlog:
    """What one event loop has yet to handle."""

    __slots__ = ("busy", "events", "task")

    def __init__(self, event: Event) -> None:
        self.events = deque([event])
        self.busy: Event | None = None
        """The event that is being handled."""
        self.task: asyncio.Task[None] | None = None


class AsyncHandlerAdapter(QueuedHandler):
    """Runs an asynchronous handler for a manager, whose handlers are synchronous.

    Where an event loop runs, events are handled on it, one after another, by a task that is there while there are any.
    Where none runs they are handled by a thread. What a loop does not come to, because it ends, the thread handles; an
    event whose handling the end of the loop cut short is handled again. Otherwise this is a `QueuedHandler`: bounded,
    and never in the way.
    """

    def __init__(self, handler: ObservabilityEventHandler, maxsize: int = 10_000) -> None:
        """Adapt a handler.

        Args:
            handler: is also closed if it has a `close`: on the loop that handled its latest events while that runs.
            maxsize: how many events may wait, on loops and for the thread together; at least 1.

        Raises:
            ConfigurationError: `maxsize` is below 1.
        """
        super().__init__(handler, maxsize)

    def _begin(self) -> None:
        super()._begin()
        self._settled = Condition(self._lock)
        self._backlogs: dict[AbstractEventLoop, _Backlog] = {}
        self._home: AbstractEventLoop | None = None
        """The loop that handles events, if one does."""
        self._closes_late = False
        """Whether the handler is to be closed when the loop has come to an end with its event."""
        self._runner: asyncio.Runner | None = None

    def handle(self, event: Event) -> None:
        """Have an event handled, or drop it. Never waits."""
        loop = asyncio._get_running_loop()
        if loop is None:
            super().handle(event)
            return
        with self._lock:
            reason = self._refusal()
            if reason is None:
                self._accepted += 1
                backlog = self._backlogs.get(loop)
                if backlog is not None:
                    backlog.events.append(event)
                    return
                self._home = loop
                backlog = self._backlogs[loop] = _Backlog(event)
                # Not by `create_task`, for an eager one would begin right here; and not in the publisher's context.
                backlog.task = asyncio.Task(self._drain(loop, backlog), loop=loop, context=Context())
                backlog.task.add_done_callback(lambda _: self._hand_over(loop, backlog))
                return
        self._drop(reason)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> int:
        """Handle what waits, then close the handler. Events that come later are dropped.

        The handler is closed on the loop that handles its events, if that runs in another thread. Called on that loop,
        this blocks it, and leaves the event that is being handled there to it: `await manager.aclose()` does neither.

        Args:
            timeout: seconds, after which what still waits is dropped.

        Returns:
            How many events were not handled to their end.
        """
        return super().close(timeout)

    def _finish(self, timeout: float, *, closes_handler: bool, abandons: bool = True) -> int:
        deadline = monotonic() + timeout
        here = asyncio._get_running_loop()
        with self._lock:
            first, self._closed = not self._closed, True
            if abandons:
                self._settled.wait_for(
                    lambda: not any(loop is not here and _runs(loop) for loop in self._backlogs), timeout
                )
            for loop, backlog in list(self._backlogs.items()):
                self._hand_over(loop, backlog, busy=not _runs(loop))
                if first and loop is here and backlog.busy is not None:
                    self._closes_late, closes_handler = closes_handler, False
            home = self._home
        at_home = first and closes_handler and home is not None and home is not here and _runs(home)
        unfinished = super()._finish(
            max(0.0, deadline - monotonic()), closes_handler=closes_handler and not at_home, abandons=abandons
        )
        if at_home and home is not None:
            self._close_on(home, max(0.0, deadline - monotonic()))
        return unfinished

    async def _drain(self, loop: AbstractEventLoop, backlog: _Backlog) -> None:
        """Handle on a loop what it has to handle."""
        sink = self._sink
        while True:
            with self._lock:
                if not backlog.events:
                    self._backlogs.pop(loop, None)
                    self._settled.notify_all()
                    return
                event = backlog.busy = backlog.events.popleft()
            if not (sink.muted and sink.skips()):
                try:
                    await self.handler.handle(event)
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    sink.failed(event, error)
                except Exception as error:  # noqa: BLE001  # the boundary: a log that fails must not end its task
                    sink.failed(event, error)
                else:
                    if sink.streak:
                        sink.worked()
            with self._lock:
                if backlog.busy is not event:  # the loop stood still, and the event was handed over
                    return
                backlog.busy = None
            self._note_done()

    def _hand_over(self, loop: AbstractEventLoop, backlog: _Backlog, *, busy: bool = True) -> None:
        """Give the thread what a loop will not come to; with `busy`, also what it was handling."""
        with self._lock:
            events = list(backlog.events)
            backlog.events.clear()
            if busy:
                if self._backlogs.get(loop) is backlog:
                    del self._backlogs[loop]
                if backlog.busy is not None:
                    events.insert(0, backlog.busy)
                    backlog.busy = None
            for event in events:
                self._queue.put(event)
            if self._sealed and busy and (events or self._closes_late):
                self._closes_handler, self._closes_late = self._closes_late, False
                self._queue.put(None)
                self._start()
            elif events and self._thread is None:
                self._start()
            self._settled.notify_all()

    def _close_on(self, loop: AbstractEventLoop, timeout: float) -> None:
        closing = asyncio.run_coroutine_threadsafe(_close(self.handler), loop)
        try:
            closing.result(timeout)
        except TimeoutError:
            _log.warning("%s was not closed in time", self._sink.name)
        except Exception:  # noqa: BLE001  # the boundary: other handlers are to be closed as well
            _log.exception("%s could not be closed", self._sink.name)

    def _show(self, event: Event) -> None:
        if self._sink.muted and self._sink.skips():
            return
        if self._runner is None:
            self._runner = asyncio.Runner()
        self._runner.run(self.handler.handle(event))
        if self._sink.streak:
            self._sink.worked()

    def _end(self) -> None:
        with self._runner or asyncio.Runner() as runner:
            self._runner = None
            if self._closes_handler:
                runner.run(_close(self.handler))


async def _close(handler: Any) -> None:
    close = getattr(handler, "close", None)
    outcome = None if close is None else close()
    if isawaitable(outcome):
        await outcome


def _runs(loop: AbstractEventLoop) -> bool:
    return loop.is_running() and not loop.is_closed()
