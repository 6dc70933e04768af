"""Running an event's handlers at once, up to their first suspension: one that never waits costs no turn of the loop.

Each runs in a task, so that whatever asks for the current task (a timeout, a task group, a cancel scope) sees the one
that the handler goes on in. But a task costs more than most handlers do. So the task object is there from the first
step on, and becomes a real task only when its handler suspends, or when somebody asks it for what only a real one has.
Handlers of one group that never wait take turns in one task object.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import types
from collections.abc import Callable, Generator, Sequence
from contextvars import Context, copy_context
from time import perf_counter
from typing import Any, Final, TypeAlias, cast

from llmgine.bus.handler_check import name_of
from llmgine.bus.histogram import BATCH
from llmgine.bus.interfaces import EventHandler
from llmgine.bus.metrics import MetricsCollector
from llmgine.bus.pending import PendingEvents
from llmgine.messages import Event

__all__ = ["Failure", "HandlerTask", "Handlers"]

Failure: TypeAlias = BaseException | None

_log = logging.getLogger("llmgine.bus")


class _CurrentTasks:
    """The current task of each loop, for versions of Python that do not keep them in a dict: 3.14 and later."""

    def get(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
        return asyncio.current_task(loop)

    def __setitem__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None) -> None:
        vars(asyncio.tasks)["_swap_current_task"](loop, task)

    def __delitem__(self, loop: asyncio.AbstractEventLoop) -> None:
        self[loop] = None


_current_tasks: Any = _CurrentTasks() if sys.version_info >= (3, 14) else vars(asyncio.tasks)["_current_tasks"]


class _Finished:
    """What a driver yields when its handler has ended."""

    __slots__ = ("failure",)

    def __init__(self, failure: Failure) -> None:
        self.failure: Final = failure


_SUCCEEDED = _Finished(None)
_COROUTINE: Any = types.CoroutineType
_SPARE_DRIVERS = 64


class HandlerTask(asyncio.Task[Failure]):
    """A task that is set up late. Its result is what the handler failed with, or None."""

    __slots__ = ("_driver", "_own_context", "_step")
    is_handler = True

    _own_context: Context | None
    """None once it is set up."""
    _driver: Generator[Any, Any, None]
    _step: Any
    """What the driver yielded last."""

    def set_up(self) -> None:
        """Become a real task, if this is none yet."""
        if self._own_context is not None:
            cancellations = self.cancelling()
            super().__init__(self._go_on(), loop=asyncio.get_running_loop(), context=self._own_context)
            self._own_context = None
            for _ in range(cancellations):
                self.cancel()

    async def _go_on(self) -> Failure:
        return await self._take_over()

    @types.coroutine
    def _take_over(self) -> Generator[Any, Any, Failure]:
        """Resume the driver where it waits."""
        driver, step = self._driver, self._step
        while type(step) is not _Finished:
            try:
                value = yield step
            except BaseException as error:  # noqa: BLE001  # whatever the task throws in belongs to the handler
                step = driver.throw(error)
            else:
                step = driver.send(value)
        return step.failure


def _set_up_first(name: str) -> Any:
    method = getattr(asyncio.Task, name)

    def call(self: HandlerTask, *args: Any, **kwargs: Any) -> Any:
        self.set_up()
        return method(self, *args, **kwargs)

    return call


# What the interpreter answers for a task that is not set up with an error, or by ending the process.
for _name in (
    *("get_coro", "get_context", "get_loop", "get_name", "set_name", "get_stack", "print_stack", "__repr__"),
    *("add_done_callback", "remove_done_callback"),
):
    if hasattr(asyncio.Task, _name):  # `get_context` is new in 3.12
        setattr(HandlerTask, _name, _set_up_first(_name))


class Handlers:
    """Runs groups of handlers on one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        metrics: MetricsCollector,
        pending: PendingEvents,
        ended: Callable[[Event, EventHandler, Failure], None],
    ) -> None:
        """Take what handlers need.

        Args:
            loop: where they run.
            metrics: where they are counted.
            pending: what they leave pending.
            ended: told of each handler that failed or left events pending, with what it raised or None.
        """
        self._loop = loop
        self._metrics = metrics
        self._pending = pending
        self._ended = ended
        self._drivers: list[Generator[Any, Any, None]] = []
        self.abandoning = False
        """Whether handlers are being cancelled by the bus, which is no failure of theirs."""

    def run(
        self, event: Event, group: Sequence[tuple[EventHandler, EventHandler]]
    ) -> list[Failure | HandlerTask] | None:
        """Begin every handler of a group, each in a copy of the current context.

        Returns:
            None if all have ended well; else, of those that have not, what they raised or the task that they go on in.
        """
        loop = self._loop
        drivers = self._drivers
        outcomes: list[Failure | HandlerTask] | None = None
        outer = _current_tasks.get(loop)
        task = _current_tasks[loop] = HandlerTask.__new__(HandlerTask)
        try:
            driver = drivers.pop() if drivers else self._make_driver()
            for handler in group:
                task._own_context = context = copy_context()
                step = context.run(driver.send, (handler, event))
                if step is _SUCCEEDED and task._own_context is context:
                    continue
                task._driver, task._step = driver, step
                if type(step) is not _Finished:
                    task.set_up()
                    driver = drivers.pop() if drivers else self._make_driver()
                if step is not _SUCCEEDED:
                    outcome = step.failure if type(step) is _Finished else task
                    outcomes = [outcome] if outcomes is None else [*outcomes, outcome]
                task = _current_tasks[loop] = HandlerTask.__new__(HandlerTask)
            if len(drivers) < _SPARE_DRIVERS:
                drivers.append(driver)
        finally:
            if outer is None:
                del _current_tasks[loop]
            else:
                _current_tasks[loop] = outer
        return outcomes

    def _make_driver(self) -> Generator[Any, Any, None]:
        driver = cast("Generator[Any, Any, None]", self._drive())
        next(driver)
        return driver

    @types.coroutine
    def _drive(self) -> Generator[Any, Any, None]:
        """Run one handler after another; yield what they wait for, and when one has ended, how."""
        metrics, pending = self._metrics, self._pending
        processed = metrics.counters["events_processed_total"]
        histogram = metrics.histograms["event_processing_duration_seconds"]
        durations = histogram.pending
        begun = 0.0
        finished = _SUCCEEDED
        while True:
            (registered, handler), event = yield finished
            finished = _SUCCEEDED
            if metrics.timing:
                begun = perf_counter()
            try:
                outcome = handler(event)
                if type(outcome) is _COROUTINE:
                    yield from outcome
                elif hasattr(type(outcome), "__await__"):
                    yield from outcome.__await__()
                processed.unlocked += 1
                if pending:
                    self._ended(event, registered, None)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    if not self.abandoning:
                        _log.warning("%s was cancelled while it handled %s", name_of(registered), type(event).__name__)
                    raise
                finished = self._failed(event, registered, error)
            except Exception as error:  # noqa: BLE001  # the boundary: one handler's failure must not silence another
                finished = self._failed(event, registered, error)
            if begun:
                durations.append(perf_counter() - begun)
                begun = 0.0
                if len(durations) >= BATCH:
                    metrics.flush(histogram)
            del registered, handler, event
            outcome = None  # an idle driver keeps nothing alive

    def _failed(self, event: Event, handler: EventHandler, error: BaseException) -> _Finished:
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # the driver's frame, which goes on
        self._ended(event, handler, error)
        return _Finished(error)
