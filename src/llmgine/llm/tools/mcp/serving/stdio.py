"""The protocol on standard input and output, which end with the client or at a signal."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from llmgine.llm.tools.mcp.serving.signals import on_stop_signal

if TYPE_CHECKING:
    from mcp.server import Server

__all__ = ["serve_stdio"]

_AHEAD = 16
"""Lines that are read before those in front of them are dealt with."""


async def serve_stdio(server: Server[Any], surroundings: AbstractAsyncContextManager[None]) -> None:
    """Serve one client until it closes standard input, or until SIGTERM or SIGINT.

    Meanwhile nothing but the protocol reaches standard output: what tools print goes to standard error, and they
    find standard input empty.

    Args:
        server: of the SDK.
        surroundings: entered before and left after, whatever signals come then: clients that wait no longer send one.
    """
    serving: asyncio.Task[None] | None = None
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if serving is not None:
            serving.cancel()

    with on_stop_signal(stop):
        async with surroundings:
            if stopped:
                return
            serving = asyncio.create_task(_serve(server))
            try:
                await serving
            except asyncio.CancelledError:
                if not stopped:
                    raise


async def _serve(server: Server[Any]) -> None:
    from mcp.server.stdio import stdio_server

    with _private_stdin() as file:
        lines: Any = _lines(file)  # all that is asked of an `AsyncFile`
        async with stdio_server(stdin=lines) as (read, write):
            try:
                await server.run(read, write, server.create_initialization_options())
            finally:
                sys.stdout.flush()  # what is left there, as long as it goes to standard error


@contextmanager
def _private_stdin() -> Generator[BinaryIO, None, None]:
    """Keep standard input for the protocol: tools, and the processes that they start, would read it away."""
    private = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    try:
        # Not closed with the file: the thread that reads may still be in there, and the number must not become another
        # file's.
        yield os.fdopen(private, "rb", closefd=False)
    finally:
        os.dup2(private, 0)


async def _lines(file: BinaryIO) -> AsyncIterator[str]:
    """Yield the lines of a file as they come.

    A daemon thread reads them: it can wait for ever, and nobody who ends has to wait for it.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)

    def read() -> None:
        with suppress(RuntimeError, OSError):  # the loop has been closed, or the file
            more = True
            while more:
                line = file.readline()
                room.acquire()
                loop.call_soon_threadsafe(queue.put_nowait, line)
                more = bool(line)

    threading.Thread(target=read, name="MCP standard input", daemon=True).start()
    while line := await queue.get():
        room.release()
        yield line.decode(errors="replace")
