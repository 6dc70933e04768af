"""Running something until a deadline, at next to no cost where it never waits."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar, cast

from llmgine.errors import CommandTimeoutError
from llmgine.messages import Command

__all__ = ["within"]

T = TypeVar("T")

_COROUTINE: Any = types.CoroutineType


async def within(deadline: float, work: Awaitable[T], command: Command[Any], timeout: float | None = None) -> T:
    """Await `work`, in the caller's task, and cancel it when the deadline passes.

    Work that never waits is never cut short: nothing could.

    Args:
        deadline: seconds of the loop's clock.
        work: what is done for the command. A coroutine is taken to where it waits for the first time before anything is
            set up, since most never get there.
        command: is named in the error.
        timeout: the seconds that were given, for the error; None if its caller's time ran out.

    Raises:
        CommandTimeoutError: the deadline has passed.
    """
    if type(work) is _COROUTINE:
        coroutine = cast("types.CoroutineType[Any, Any, T]", work)
        try:
            step = coroutine.send(None)
        except StopIteration as stop:
            return cast("T", stop.value)
        work = _resume(coroutine, step)
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        given = "the time its caller had left" if timeout is None else f"{timeout:g} s"
        msg = f"{type(command).__name__} did not finish within {given}"
        raise CommandTimeoutError(msg, timeout=timeout or 0.0) from error


@types.coroutine
def _resume(coroutine: types.CoroutineType[Any, Any, T], step: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that has been taken as far as a first step."""
    try:
        while True:
            try:
                value = yield step
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  # whatever the task throws in belongs to the coroutine
                step = coroutine.throw(error)
            else:
                step = coroutine.send(value)
    except StopIteration as stop:
        return cast("T", stop.value)
