"""A process for one call: for what must be stopped when its time is up, or may take its whole process down.

What goes in and comes out is JSON, a line each way; nothing that the child sends is ever unpickled or evaluated.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from llmgine.errors import ToolExecutionError, ToolRegistrationError, ToolValidationError

__all__ = ["GRACE", "import_path", "resolve", "run_in_process"]

GRACE = 1.0
"""Seconds between the request to end and the kill."""
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from llmgine.llm.tools.process_runner import main; main()"
)
_KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL  # there, both end a process at once
_MAX_REPLY = 16 * 2**20
"""Bytes of the longest result."""


def import_path(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the module and the qualified name under which another process finds a function.

    Raises:
        ToolRegistrationError: it would not find it, in words that follow "'name' cannot be a tool: ".
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    reason = ""
    if not isinstance(module, str) or not isinstance(name, str):
        reason = "is no plain function"
    elif module == "__main__":
        reason = "is defined in the program's main file, which is not imported again"
    elif "<" in name:
        reason = "is defined inside another function"
    else:
        try:
            found = resolve(module, name)
        except (AttributeError, ImportError):
            found = None
        if found is not function:
            reason = f"is not what {module}.{name} is"
    if reason:
        msg = (
            f"with in_process it has to be found again by another process, and it {reason}. "
            "Define it at the top level of a module that can be imported."
        )
        raise ToolRegistrationError(msg)
    return str(module), str(name)


def resolve(module: str, name: str) -> Any:
    """Return what a module has under a qualified name. Raises ImportError or AttributeError."""
    __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found


async def run_in_process(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Return what a function returns in a new process, as JSON has it.

    The child checks the arguments itself. What it prints goes to standard error, and it reads nothing from standard
    input. When this returns, raises or is cancelled, the process has ended, and on POSIX all that it has started too:
    asked first (SIGTERM), then killed after `GRACE` seconds, or at once if cancelled again. Should this process die,
    the child ends itself.

    Args:
        function: as `import_path` takes it.
        arguments: JSON data.

    Raises:
        ToolExecutionError: the function raised, or the process ended without a result, or the result is too long.
        ToolValidationError: the arguments do not fit, or the function says so.
    """
    module, name = import_path(function)
    request = json.dumps({"module": module, "name": name, "arguments": arguments})
    command = (sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path))
    loop = asyncio.get_running_loop()
    child = _Child()
    starting = asyncio.ensure_future(loop.subprocess_exec(lambda: child, *command, stderr=None, start_new_session=True))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await starting
        await child.end(finished=False)
        raise
    reply = b""
    try:
        child.send(request.encode() + b"\n")
        reply = await child.reply
    finally:
        await child.end(finished=bool(reply))
    return _value(reply, await child.exited)


class _Child(asyncio.SubprocessProtocol):
    """The process, as its parent sees it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[bytes] = loop.create_future()
        """The line that answers the request; nothing if the process has closed its end without one."""
        self.exited: asyncio.Future[int] = loop.create_future()
        """The process's return code: below 0, the signal that ended it."""
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002  # there is one to read from
        if self.reply.done():
            return
        self._received += data
        if data.endswith(b"\n"):  # JSON has no line break inside
            self.reply.set_result(bytes(self._received))
        elif len(self._received) > _MAX_REPLY:
            msg = f"its result is longer than {_MAX_REPLY >> 20} MiB"
            self.reply.set_exception(ToolExecutionError(msg))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002  # an end is an end
        if fd == 1 and not self.reply.done():
            self.reply.set_result(b"")

    def process_exited(self) -> None:
        self.exited.set_result(self._transport.get_returncode() or 0)

    def send(self, request: bytes) -> None:
        """Write to its standard input, which stays open: its end tells the child that its parent is gone."""
        pipe = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        pipe.write(request)

    async def end(self, *, finished: bool) -> None:
        """Return when the process has ended and been reaped."""
        try:
            if not finished:
                self._signal(signal.SIGTERM)
            await asyncio.wait([self.exited], timeout=GRACE)
        finally:
            self._signal(_KILL)
            try:
                await asyncio.shield(self.exited)
            finally:
                self._transport.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # it has ended
            if sys.platform == "win32":
                self._transport.send_signal(number)
            else:
                os.killpg(self._transport.get_pid(), number)


def _value(reply: bytes, returncode: int) -> Any:
    if not reply:
        how = f"with exit code {returncode}" if returncode >= 0 else f"by {signal.Signals(-returncode).name}"
        msg = f"its process was ended {how} before there was a result"
        raise ToolExecutionError(msg)
    try:
        answer = json.loads(reply)
        kind, value = answer["kind"], answer["value"]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        msg = "its process answered with something else than a result"
        raise ToolExecutionError(msg) from exc
    if kind == "result":
        return value
    raise (ToolValidationError if kind == "invalid" else ToolExecutionError)(str(value))
