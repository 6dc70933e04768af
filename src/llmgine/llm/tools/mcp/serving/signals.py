"""SIGTERM and Ctrl-C, as the wish that something ends in good order."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["on_stop_signal"]


@contextmanager
def on_stop_signal(stop: Callable[[], object]) -> Generator[None, None, None]:
    """Call `stop` in the running event loop at SIGTERM and SIGINT, instead of what else they do.

    Only the main thread hears of signals: in others, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def hear(*_: object) -> None:
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
