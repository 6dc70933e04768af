"""Starting a task that runs at once, up to its first suspension: work that never waits costs no turn of the loop.

Python 3.12 has this built in. For 3.11 it is done here by the rules that asyncio's documentation gives to whoever
extends it: the task object exists, and is the current task, from the first step on; it is initialised, with the
remaining coroutine, only if that step did not finish the work. So whatever asks for the current task (a timeout, a task
group, a cancel scope) always sees the task that the work goes on in.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar, cast

__all__ = ["start"]

T = TypeVar("T")

if sys.version_info >= (3, 12):

    def start(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: Context) -> asyncio.Task[T] | T:
        """Begin `work` now, in a task of its own. Return its result if it finished without waiting, else the task."""
        task = asyncio.Task(work, loop=loop, context=context, eager_start=True)
        return task.result() if task.done() else task

else:
    from asyncio.tasks import _enter_task, _leave_task

    def start(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: Context) -> asyncio.Task[T] | T:
        """Begin `work` now, in a task of its own. Return its result if it finished without waiting, else the task."""
        outer = asyncio.current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        task: asyncio.Task[T] = asyncio.Task.__new__(asyncio.Task)
        _enter_task(loop, task)
        try:
            awaited = context.run(work.send, None)
        except StopIteration as finished:
            return cast("T", finished.value)
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        cancellations = task.cancelling()
        asyncio.Task.__init__(task, _rest(work, awaited), loop=loop, context=context)
        for _ in range(cancellations):
            task.cancel()
        return task

    def _rest(work: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
        """Take over a coroutine that waits for `awaited`."""
        while True:
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001  # whatever the task throws in belongs to the work
                thrown = error
            else:
                return (yield from work.__await__())
            try:
                awaited = work.throw(thrown)
            except StopIteration as finished:
                return cast("T", finished.value)
