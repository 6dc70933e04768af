"""A server that runs as a process, and talks over its standard input and output.

It is a transport of the SDK's, like the SDK's own, but for what that leaves to chance: the process ends with this one
however this one ends, and when it has ended it can be told how; what it sends is bounded.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from llmgine.llm.tools.mcp import leash
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.message_lines import MessageReader, MessageWriter
from llmgine.llm.tools.mcp.process_pipes import LINGER, ProcessPipes
from llmgine.llm.tools.mcp.server_environment import server_environment

__all__ = ["ServerProcess"]

_GRACE = 2.0
"""Seconds between the end of its input, the request to end, and the kill."""


class ServerProcess:
    """Starts the process when it is entered, and ends it when it is left."""

    def __init__(self, name: str, config: MCPServerConfig, ended: Callable[[], None]) -> None:
        """Prepare to start a server.

        Args:
            name: what it is called here.
            config: how it is started.
            ended: is called, once, when it takes or sends nothing more.
        """
        self._name = name
        self._config = config
        self._on_end = ended
        self._pipes: ProcessPipes | None = None
        self._signalled = False

    async def __aenter__(self) -> tuple[MessageReader, MessageWriter]:
        """Raises OSError: the process cannot be started."""
        config = self._config
        environment = server_environment(self._name, config)
        _check(config, environment)
        held, self._leash = os.pipe()
        loop = asyncio.get_running_loop()
        try:
            _, self._pipes = await loop.subprocess_exec(
                lambda: ProcessPipes(self._name, self._on_end),
                *(sys.executable, "-I", "-S", str(Path(leash.__file__)), str(held)),
                *(config.command, *config.args),
                env=environment,
                cwd=config.cwd,
                pass_fds=(held,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._leash)  # also ends the process, if it has been started nevertheless
            raise
        finally:
            os.close(held)
        return MessageReader(self._pipes, self._name), MessageWriter(self._pipes)

    async def __aexit__(self, *_: object) -> None:
        """Return when the process has ended, and with it what it has started."""
        pipes = self._pipes
        if pipes is None:
            return
        try:
            pipes.close_input()
            for number in (signal.SIGTERM, signal.SIGKILL):
                await asyncio.wait([pipes.exited], timeout=_GRACE)
                if pipes.exited.done():
                    break
                self._signalled = True
                pipes.signal(number)
        finally:
            pipes.signal(signal.SIGKILL)  # the guard, and whatever the server has left behind
            os.close(self._leash)
            try:
                await asyncio.shield(pipes.exited)
                await asyncio.wait([pipes.silent], timeout=LINGER)  # its last words
            finally:
                pipes.close()

    def ended(self) -> str:
        """Return how the process has ended: "with exit code 1", "by SIGKILL".

        It is empty if it was asked to, or is still there.
        """
        pipes = self._pipes
        if pipes is None or pipes.problem or self._signalled or not pipes.exited.done():
            return ""
        code = pipes.exited.result()
        return f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"

    def problem(self) -> str:
        """Return what it has done so that it was not listened to any longer."""
        return "" if self._pipes is None else self._pipes.problem

    def said(self) -> str:
        """Return the last lines on standard error, each cut to a bounded length."""
        return "" if self._pipes is None else " | ".join(self._pipes.said)


def _check(config: MCPServerConfig, environment: Mapping[str, str]) -> None:
    """Raise FileNotFoundError, with a sentence, if there is no such program or folder, as the process would see it."""
    folder = config.cwd or ""
    if folder and not Path(folder).is_dir():
        msg = f"there is no folder '{folder}'"
        raise FileNotFoundError(msg)
    command = config.command
    if Path(command).name != command:
        path = Path(folder, command).absolute()
        msg = f"'{command}' is not executable" if path.is_file() else f"there is no program '{command}'"
        found = shutil.which(str(path))
    else:
        msg = f"there is no program '{command}'"
        places = environment.get("PATH", os.defpath).split(os.pathsep)
        found = shutil.which(command, path=os.pathsep.join(str(Path(folder, place)) for place in places))
    if found is None:
        raise FileNotFoundError(msg)
