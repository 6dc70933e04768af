"""Signals as asyncio work: the interrupt key stops a reply, a closed terminal ends the program in good order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

__all__ = ["interruptible", "on_signal", "until_stopped"]

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def on_signal(number: int, action: Callable[[], object]) -> Generator[None]:
    """Have the running loop call `action` whenever the signal arrives, unless whoever started us had it ignored."""
    previous = signal.getsignal(number)
    if previous is signal.SIG_IGN:
        yield
        return
    loop = asyncio.get_running_loop()

    def arrived(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(action)

    signal.signal(number, arrived)
    try:
        yield
    finally:
        signal.signal(number, previous)


async def until_stopped(work: Coroutine[Any, Any, int]) -> int:
    """Do the work and return its exit code; if SIGTERM or SIGHUP cancels it, 128 and the signal's number."""
    task = asyncio.ensure_future(work)
    stopped: list[int] = []

    def stop(number: int) -> None:
        if not stopped:  # once, so that the clean-up is not cut short by a second one
            task.cancel()
        stopped.append(number)

    with ExitStack() as stack:
        for number in _ENDING:
            stack.enter_context(on_signal(number, partial(stop, number)))
        try:
            return await task
        except (asyncio.CancelledError, OSError):  # OSError: the terminal is gone
            if not stopped:
                raise
            return 128 + stopped[0]


async def interruptible(work: Awaitable[object]) -> bool:
    """Do the work and return whether it was done; SIGINT cancels it."""
    task = asyncio.ensure_future(work)
    with on_signal(signal.SIGINT, task.cancel):
        try:
            await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling():
                raise
            return False
    return True
