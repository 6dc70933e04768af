"""Threads that nobody waits for: a call that hangs holds up neither the loop nor its executor nor the exit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import Any, TypeVar

__all__ = ["run_in_thread"]

T = TypeVar("T")


async def run_in_thread(function: Callable[[], T], name: str) -> T:
    """Return what the function returns or raises in a new daemon thread of that name, in a copy of this context.

    A thread cannot be stopped: after a cancellation it runs on and its outcome is dropped. A pool would be filled up
    by threads that hang, and joined when the interpreter exits.
    """
    future: Future[tuple[Any, BaseException | None]] = Future()
    future.set_running_or_notify_cancel()  # from here on a cancellation leaves it alone
    context = copy_context()

    def work() -> None:
        try:
            future.set_result((context.run(function), None))
        except BaseException as exc:  # noqa: BLE001  # raised again where the result is awaited
            # As a result: a future refuses StopIteration and changes the type of other exceptions.
            future.set_result((None, exc))

    Thread(target=work, name=name, daemon=True).start()
    value: T
    value, error = await asyncio.wrap_future(future)
    if error is not None:
        raise error
    return value
