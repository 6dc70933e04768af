"""The application's bus for synchronous code: work goes to the loop that the bus runs on, or to a background thread."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, TypeVar

from llmgine.bus.bus import MessageBus
from llmgine.bus.interfaces import CommandHandler, EventHandler
from llmgine.errors import BlockingCallError, BusNotRunningError
from llmgine.messages import Command, Event

__all__ = ["SynchronousBus", "message_bus"]

R = TypeVar("R")
T = TypeVar("T")

_log = logging.getLogger("llmgine.bus")
_EXIT_TIMEOUT = 5.0
"""Seconds that the bus gets at the end of the program to deliver what it has accepted."""
_GRACE = 2.0
"""Seconds beyond a timeout in which the background thread ends, unless a handler blocks it."""
_GLANCE = 1.0
"""Seconds after which a waiting thread looks whether the loop is still there. A loop that closes tells nobody."""


class SynchronousBus:
    """The application's bus, `MessageBus()`, as synchronous code sees it. There is one: `message_bus`.

    Every method may be called from any thread. Handlers run on the event loop of the bus.
    """

    def __init__(self) -> None:
        self._after_fork()
        if hasattr(os, "register_at_fork"):  # Windows cannot fork
            os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self.close, _EXIT_TIMEOUT)

    def _after_fork(self) -> None:
        self._background: _LoopThread | None = None
        self._starting = Lock()

    def dispatch(self, command: Command[R]) -> R:
        """Execute a command and wait for what its handler returns, and for the events that it left pending.

        Interrupting the wait (Ctrl-C) cancels the command.

        Raises:
            BlockingCallError: called on the thread of the bus's own event loop; use `dispatch_async` there.
            BusNotRunningError: the event loop ended before the command did, or does not run.
            CommandFailedError: the handler reported a failure without raising.
            HandlerNotFoundError: nobody handles the command.
            Exception: what the handler raised.
        """
        advice = f"await message_bus.dispatch_async({type(command).__name__}(…))"
        return self._run(lambda bus: bus.execute(command), advice).unwrap()

    async def dispatch_async(self, command: Command[R]) -> R:
        """Execute a command and return what its handler returns. A bus that does not run is started on this event loop.

        Cancelling the caller cancels the command.

        Raises:
            BusNotRunningError: the event loop of the bus ended before the command did, or does not run.
            CommandFailedError: the handler reported a failure without raising.
            HandlerNotFoundError: nobody handles the command.
            Exception: what the handler raised.
        """
        bus = MessageBus()
        loop = bus.loop or await _start(bus)
        if loop is asyncio.get_running_loop():
            return (await bus.execute(command)).unwrap()
        future = _submit(bus.execute(command), loop)
        work = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait((work,), timeout=_GLANCE))[0]:
                _check_alive(future, loop)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if work.cancelled():
            raise _ended()
        return work.result().unwrap()

    def publish(self, event: Event) -> None:
        """Publish an event and wait until its handlers have finished.

        Raises:
            BlockingCallError: called on the thread of the bus's own event loop.
            BusNotRunningError: the event loop ended before the handlers did, or does not run.
            Exception: what a handler raised, while errors are unsuppressed.
        """
        advice = "message_bus.add_pending_event(event) in a command's handler, or await MessageBus().publish(event)"
        self._run(lambda bus: bus.publish(event), advice)

    def add_pending_event(self, event: Event) -> None:
        """Publish an event when the handler that calls this has succeeded; drop it if the handler fails.

        Raises:
            BusError: called outside of any handler.
        """
        MessageBus().add_pending_event(event)

    def register_command(self, command_type: type[Command[Any]], handler: CommandHandler) -> None:
        """Make `handler` answer commands of a type, and of its subclasses that have no handler of their own.

        Raises:
            HandlerAlreadyRegisteredError: the type has a handler.
        """
        MessageBus().register_command_handler(command_type, handler)

    def subscribe_event(self, event: str | type[Event], handler: EventHandler) -> None:
        """Make `handler` hear events of a class and of its subclasses, or of a dotted name.

        In a name, `*` stands for one part and `**` for any rest: "resource.created", "resource.*", "workflow.**".
        """
        MessageBus().register_event_handler(event, handler)

    def unsubscribe_event(self, event: str | type[Event], handler: EventHandler) -> bool:
        """Undo `subscribe_event`. Return False if there was nothing to undo."""
        return MessageBus().unregister_event_handler(event, handler)

    def close(self, timeout: float = 30.0) -> None:
        """Stop the bus and end its thread, if it runs on the background thread. The next call starts both anew.

        Happens by itself at the end of the program; but then handlers cannot start threads any more.

        Args:
            timeout: seconds after which events that are still being handled are cancelled.

        Raises:
            BlockingCallError: called on the background thread.
        """
        self._refuse_to_block("close it from another thread")
        with self._starting:
            if self._background is not None:
                self._background.end(timeout)
                self._background = None

    def _run(self, work: Callable[[MessageBus], Coroutine[Any, Any, T]], advice: str) -> T:
        self._refuse_to_block(advice)
        bus = MessageBus()
        loop = bus.loop or self._start_in_background(bus)
        future: Future[T] | None = None
        try:
            future = _submit(work(bus), loop)
            return _wait(future, loop)
        except BaseException:
            # A signal: Ctrl-C, or another whose handler raises.
            if future is not None and not (future.done() or loop.is_closed()):
                future.cancel()
            raise

    def _start_in_background(self, bus: MessageBus) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._background is None or self._background.loop.is_closed():
                self._background = _LoopThread()
                if util := sys.modules.get("multiprocessing.util"):  # its forked children end without atexit
                    util.Finalize(None, self.close, (_EXIT_TIMEOUT,), exitpriority=0)
            loop = self._background.loop
            return bus.loop or _wait(asyncio.run_coroutine_threadsafe(_start(bus), loop), loop)

    def _refuse_to_block(self, advice: str) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return
        if here is MessageBus().loop or (self._background is not None and here is self._background.loop):
            msg = f"This thread runs the event loop of the bus, which would wait for itself. Instead: {advice}."
            raise BlockingCallError(msg)


class _LoopThread:
    """A daemon thread with an event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._timeout = 0.0
        self._thread = Thread(target=self._run, name="llmgine-bus", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the program ends, or has too many threads
            self.loop.close()
            raise

    def end(self, timeout: float) -> None:
        """Stop the bus, if it runs here, and then the loop. Wait for both, but not much longer than `timeout`."""
        self._timeout = timeout
        with suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout + _GRACE)
        if self._thread.is_alive():
            _log.warning("The bus did not stop within %g s, because a handler blocks its event loop", timeout)

    def _run(self) -> None:
        # A handler that ends the program does so in the thread that waits for it.
        with suppress(SystemExit, KeyboardInterrupt), asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._ended.wait()
        bus = MessageBus()
        if bus.loop is self.loop:
            await bus.stop(self._timeout)


async def _start(bus: MessageBus) -> asyncio.AbstractEventLoop:
    """Start a bus here, unless another thread was faster. Return the loop that it runs on."""
    try:
        await bus.start()
    except BusNotRunningError:
        if bus.loop is None:
            raise
    return bus.loop or asyncio.get_running_loop()


def _submit(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    with suppress(RuntimeError):  # it was closed meanwhile
        if loop.is_running():
            return asyncio.run_coroutine_threadsafe(work, loop)
    work.close()
    msg = "The bus was started on an event loop that does not run now. Run that loop, or stop the bus on it."
    raise BusNotRunningError(msg)


def _wait(future: Future[T], loop: asyncio.AbstractEventLoop) -> T:
    while True:
        try:
            future.exception(_GLANCE)  # raises no errors of the work itself, whose own may be a TimeoutError
        except CancelledError:
            raise _ended() from None
        except TimeoutError:
            _check_alive(future, loop)
        else:
            return future.result()


def _check_alive(future: Future[Any], loop: asyncio.AbstractEventLoop) -> None:
    if loop.is_closed() and not future.done():
        raise _ended() from None


def _ended() -> BusNotRunningError:
    return BusNotRunningError("The event loop of the bus ended before the work was done.")


message_bus = SynchronousBus()
"""The application's bus, for synchronous code."""
