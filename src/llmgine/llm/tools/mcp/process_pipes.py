"""A process and its pipes, as the event loop tells of them: whole lines, of bounded length and number."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

__all__ = ["LINGER", "MAX_LINE", "ProcessPipes", "shown"]

logger = logging.getLogger("llmgine.mcp")

MAX_LINE = 32 * 2**20
"""Bytes of the longest line that is read."""
_FULL = 2**20
"""Bytes that may wait to be read before the process has to wait."""
LINGER = 0.5
"""Seconds that output is waited for when the process has ended, if something it has started still holds the pipe."""
_LAST_LINES = 10
_LONGEST_SHOWN = 300


class ProcessPipes(asyncio.SubprocessProtocol):
    """The process, as the event loop tells of it."""

    def __init__(self, name: str, on_end: Callable[[], None]) -> None:
        self._name = name
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        """The return code: below 0, the signal that ended it."""
        self.silent: asyncio.Future[None] = self._loop.create_future()
        """Whether standard error has ended, too."""
        self.lines: deque[bytes] = deque()
        """Read, and not taken."""
        self.said: deque[str] = deque(maxlen=_LAST_LINES)
        """The last lines on standard error."""
        self.problem = ""
        """What the server has done so that it is listened to no longer."""
        self.ended = False
        """Whether nothing more will come."""
        self.news = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self._line: list[bytes] = []
        """The pieces of the line that has not ended yet."""
        self._length = 0
        self._waiting = 0
        self._paused = False
        self._saying = b""

    def take(self) -> bytes:
        """Return the oldest line."""
        line = self.lines.popleft()
        self._waiting -= len(line)
        if self._paused and self._waiting < _FULL // 2 and not self.ended:
            self._paused = False
            self._output().resume_reading()
        return line

    def write(self, data: bytes) -> None:
        """Send something to its standard input."""
        cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0)).write(data)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and to what it has started."""
        with suppress(ProcessLookupError, PermissionError):  # they have ended
            os.killpg(self._transport.get_pid(), number)

    def close_input(self) -> None:
        """Let its standard input end."""
        pipe = self._transport.get_pipe_transport(0)
        if pipe is not None:
            pipe.close()

    def end(self) -> None:
        """Read no more."""
        if self.ended:
            return
        self.ended = True
        self._on_end()
        self._line.clear()
        self.news.set()
        self.writable.set()

    def close(self) -> None:
        """Let go of it, when it has ended."""
        self.end()
        self._transport.close()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: D102
        if fd == 2:
            self._log(data)
        elif not self.ended:
            self._receive(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002, D102  # an end is an end
        if fd != 2:  # who reads no more will not answer, even if it lives on
            self.end()
        elif not self.silent.done():
            self._log(b"\n")
            self.silent.set_result(None)

    def process_exited(self) -> None:  # noqa: D102
        self.exited.set_result(self._transport.get_returncode() or 0)
        self._loop.call_later(LINGER, self.end)

    def pause_writing(self) -> None:  # noqa: D102
        if not self.ended:
            self.writable.clear()

    def resume_writing(self) -> None:  # noqa: D102
        self.writable.set()

    # Inside

    def _receive(self, data: bytes) -> None:
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._line.append(piece)
            if line := b"".join(self._line):
                self.lines.append(line)
                self._waiting += len(line)
            self._line, self._length = [], 0
        self._line.append(rest)
        self._length += len(rest)
        if self._length > MAX_LINE:
            self.problem = f"it sent a line of more than {MAX_LINE >> 20} MiB"
            self.end()
        elif ended:
            self.news.set()
            if self._waiting > _FULL and not self._paused:
                self._paused = True
                self._output().pause_reading()

    def _log(self, data: bytes) -> None:
        *whole, rest = (self._saying + data).split(b"\n")
        self._saying = rest[:_LONGEST_SHOWN]
        for line in whole[-_LAST_LINES:] if not logger.isEnabledFor(logging.DEBUG) else whole:
            if text := shown(line):
                self.said.append(text)
                logger.debug("%s: %s", self._name, text)

    def _output(self) -> asyncio.ReadTransport:
        return cast("asyncio.ReadTransport", self._transport.get_pipe_transport(1))


def shown(line: bytes) -> str:
    """Return a line for the log."""
    return line[:_LONGEST_SHOWN].decode(errors="replace").strip()
