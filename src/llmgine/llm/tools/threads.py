"""Threads that nobody waits for: a call that hangs holds up neither the loop nor its executor nor the exit."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, TypeVar

__all__ = ["run_in_thread"]

T = TypeVar("T")

_Outcome = tuple[Any, BaseException | None]

_MOST_IDLE = 8


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    function: Callable[[], Any]
    answer: asyncio.Future[_Outcome]


_idle: deque[SimpleQueue[_Call]] = deque()
"""Of threads that have finished, what they wait for. To start one takes three times as long as all the rest."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # the threads are not in the child


async def run_in_thread(function: Callable[[], T], name: str) -> T:
    """Return what the function returns or raises in a daemon thread of that name, in a copy of this context.

    Nothing else runs in the thread meanwhile. It cannot be stopped: after a cancellation it runs on, its outcome is
    dropped, and it ends. An executor would be filled up by threads that hang, and joined when the interpreter exits.
    """
    context = copy_context()
    answer: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
    try:
        calls = _idle.pop()
    except IndexError:
        calls = SimpleQueue()
        Thread(target=_serve, args=(calls,), name=name, daemon=True).start()
    calls.put(_Call(name, lambda: context.run(function), answer))
    value: T
    value, error = await answer
    if error is not None:
        raise error
    return value


def _serve(calls: SimpleQueue[_Call]) -> None:
    """Run calls one after another, until nobody waits for one of them or there are enough idle threads."""
    thread = current_thread()
    again = True
    while again:
        call = calls.get()
        thread.name = call.name
        outcome: _Outcome
        try:
            outcome = call.function(), None
        except BaseException as exc:  # noqa: BLE001  # raised again where the result is awaited
            # As a result: a future refuses StopIteration and changes the type of other exceptions.
            outcome = None, exc
        again = not call.answer.cancelled() and len(_idle) < _MOST_IDLE
        if again:
            thread.name = "idle"
            _idle.append(calls)
        with suppress(RuntimeError):  # the loop has been closed
            call.answer.get_loop().call_soon_threadsafe(_tell, call.answer, outcome)
        del call, outcome  # nothing may be kept alive by a thread that waits


def _tell(answer: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not answer.done():
        answer.set_result(outcome)
