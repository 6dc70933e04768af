"""What the bus has to say when an exception that nobody caught ends the program."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmgine.bus.bus import MessageBus

__all__ = ["bus_exception_hook"]

_log = logging.getLogger("llmgine.bus")


def bus_exception_hook(bus: MessageBus) -> None:
    """Log how many events are lost with the process, when an uncaught exception ends it. Wraps `sys.excepthook`."""
    following = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if unfinished := bus.unfinished:
            _log.critical(
                "%s ends the program; %d events have not been handled to their end", kind.__name__, unfinished
            )
        following(kind, error, trace)

    sys.excepthook = hook
