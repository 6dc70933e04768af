"""Messages of JSON-RPC, one a line, as streams of the SDK's."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn, Self

from llmgine.llm.tools.mcp.process_pipes import ProcessPipes, shown

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

__all__ = ["MessageReader", "MessageWriter"]

logger = logging.getLogger("llmgine.mcp")

_AT_ONCE = 50
"""Lines of the log that are read before others have their turn."""


class MessageReader:
    """What the server sends, message by message."""

    def __init__(self, pipes: ProcessPipes, name: str) -> None:
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter

        self._pipes = pipes
        self._name = name
        self._parse = jsonrpc_message_adapter.validate_json
        self._message = SessionMessage
        self._complained = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage:
        pipes = self._pipes
        while True:
            while not pipes.lines:
                if pipes.ended:
                    raise StopAsyncIteration
                pipes.news.clear()
                await pipes.news.wait()
            line = pipes.take()
            if pipes.lines and not len(pipes.lines) % _AT_ONCE:  # a flood must not keep the loop from everything else
                await asyncio.sleep(0)
            try:
                message = self._parse(line, by_name=False)
            except ValueError:
                self._pass_over(line)
                continue
            if getattr(message, "method", "") == "notifications/message":  # for the log; the SDK has a task for each
                logger.debug("%s: %s", self._name, shown(line))
                continue
            if pipes.lines:
                await asyncio.sleep(0)
            return self._message(message)

    async def receive(self) -> SessionMessage:
        """Return the next message. Raises StopAsyncIteration: there is none."""
        return await self.__anext__()

    def _pass_over(self, line: bytes) -> None:
        if text := shown(line):
            level = logging.DEBUG if self._complained else logging.WARNING
            self._complained = True
            logger.log(level, "%s: passed over what is no message on its standard output: %s", self._name, text)

    async def aclose(self) -> None:
        """Read no more."""
        self._pipes.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class MessageWriter:
    """What the server is sent."""

    def __init__(self, pipes: ProcessPipes) -> None:
        self._pipes = pipes

    async def send(self, item: SessionMessage, /) -> None:
        """Raises BrokenResourceError: the server takes nothing more."""
        if not self._pipes.writable.is_set():  # before, or what a server does not read would pile up here
            await self._pipes.writable.wait()
        if self._pipes.ended:
            _refuse()
        self._pipes.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")

    async def aclose(self) -> None:
        """Let the server's input end."""
        self._pipes.close_input()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _refuse() -> NoReturn:
    from anyio import BrokenResourceError

    raise BrokenResourceError
