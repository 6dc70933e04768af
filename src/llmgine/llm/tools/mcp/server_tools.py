"""The tools of one server: among those of the manager, and kept as the server has them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from llmgine.llm.tools.mcp.config import MCPServerConfig, matches
from llmgine.llm.tools.mcp.connection import RESTARTS, Connection
from llmgine.llm.tools.mcp.events import (
    MCPServerConnectedEvent,
    MCPServerEvent,
    MCPServerFailedEvent,
    MCPServerLostEvent,
    MCPToolsChangedEvent,
)
from llmgine.llm.tools.mcp.names import model_names
from llmgine.llm.tools.mcp.pages import all_pages
from llmgine.llm.tools.mcp.remote_tool import current_call, tool_of
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_register import ToolRegister

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client

__all__ = ["ServerTools"]

logger = logging.getLogger("llmgine.mcp")

_SETTLE = 0.1
"""Seconds from the news that the tools have changed until they are asked for; more news may come meanwhile."""


class ServerTools:
    """What happens to one connection, and what that means for the tools."""

    connection: Connection
    """To the server; set as soon as there is one."""

    def __init__(
        self,
        name: str,
        config: MCPServerConfig,
        register: ToolRegister,
        *,
        publish: Callable[[MCPServerEvent], None],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._name = name
        self._config = config
        self._register = register
        self._publish = publish
        self._sleep = sleep
        self._known: dict[str, mcp_types.Tool] = {}
        """Those that are wanted, by their names, as models know them."""
        self._stale = asyncio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tools, as models know them."""
        return tuple(self._callable())

    @property
    def transport(self) -> str:
        """How the server is reached, as OpenTelemetry calls it: "pipe", "tcp"; empty if it is in this process."""
        return "pipe" if self._config.command else "tcp" if self._config.url else ""

    async def heard(self, message: object) -> None:
        """Take note of a notification, as servers of earlier revisions send them."""
        from mcp_types import ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self._stale.set()

    def call_under_way(self) -> ToolContext | None:
        """Return the call during which the server asks something; None if that is not known.

        Servers of earlier revisions do not say which one it is: if there is only one, it is that.
        """
        own = current_call.get()
        if own is not None:
            return own
        calls = [call for context in self.connection.contexts() if (call := context.get(current_call)) is not None]
        return calls[0] if len(calls) == 1 else None

    def drop(self) -> None:
        """Take the tools away."""
        self._register.remove(self._name)
        self._known = {}

    # What the owner of the connection tells

    async def connected(self, client: Client) -> None:
        """Get the tools."""
        self._stale.clear()
        self._take(await self._list(client), first=self.connection.restarts == 0)

    def ready(self, client: Client) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps the tools up to date."""
        info = client.server_info
        self._publish(
            MCPServerConnectedEvent(
                server=self._name,
                protocol_version=client.protocol_version,
                server_info="" if info is None else f"{info.name} {info.version}",
                restarts=self.connection.restarts,
            )
        )
        return [self._refresh(client), self._listen(client)]

    def lost(self, reason: str, delay: float) -> None:
        """Publish it."""
        self._publish(MCPServerLostEvent(server=self._name, reason=reason, delay=delay))

    def failed(self, reason: str) -> None:
        """Publish it."""
        self._publish(MCPServerFailedEvent(server=self._name, reason=reason))

    # Inside

    async def _refresh(self, client: Client) -> None:
        while True:
            await self._stale.wait()
            await self._sleep(_SETTLE)
            self._stale.clear()
            try:
                async with asyncio.timeout(self._config.connect_timeout):
                    self._take(await self._list(client))
            except Exception as exc:  # noqa: BLE001  # of the SDK, of pydantic; the tools stay as they are
                level = logging.DEBUG if str(exc) == "Connection closed" else logging.WARNING
                logger.log(level, "MCP server '%s' does not tell which tools it has now: %r", self._name, exc)

    async def _listen(self, client: Client) -> None:
        """Ask to be told of changes, as revisions from 2026-07-28 on need it."""
        from mcp import MCPError as Refused
        from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
        from mcp_types import METHOD_NOT_FOUND

        capability = client.server_capabilities.tools
        attempt = 0
        while capability is not None and capability.list_changed:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    attempt = 0
                    async for _ in changes:
                        self._stale.set()
            except ListenNotSupportedError:
                return
            except (Refused, SubscriptionLost) as exc:
                if isinstance(exc, Refused) and exc.code == METHOD_NOT_FOUND:
                    return
                logger.debug("MCP server '%s' does not tell of changes any more: %r", self._name, exc)
            attempt += 1
            await self._sleep(RESTARTS.delay(attempt))
            self._stale.set()  # who knows what has changed meanwhile

    async def _list(self, client: Client) -> list[mcp_types.Tool]:
        if client.server_capabilities.tools is None:
            return []
        return await all_pages(self._name, client.list_tools, "tools")

    def _take(self, listed: list[mcp_types.Tool], *, first: bool = False) -> None:
        config = self._config
        found = {tool.name: tool for tool in reversed(listed)}
        wanted = sorted(name for name in found if self._is_wanted(name))
        names = model_names(wanted, config.prefix)
        tools = [tool_of(found[name], names[name], self.connection, config) for name in wanted]
        before = self._callable()
        for tool in self._register.replace(self._name, tools):
            logger.warning(
                "The tool '%s' of MCP server '%s' is left out: there is another one of that name. "
                "Register the server with prefix=, such as '%s_'.",
                *(tool.name, tool.server, tool.server),
            )
        self._known = {names[name]: found[name] for name in wanted}
        if first:
            return
        now = self._callable()
        changes = MCPToolsChangedEvent(
            server=self._name,
            added=[name for name in now if name not in before],
            removed=[name for name in before if name not in now],
            changed=[name for name, tool in now.items() if name in before and before[name] != tool],
        )
        if changes.added or changes.removed or changes.changed:
            self._publish(changes)

    def _callable(self) -> dict[str, mcp_types.Tool]:
        """Return the tools whose names no other one has."""
        return {name: tool for name, tool in self._known.items() if self._register.is_of(name, self._name)}

    def _is_wanted(self, name: str) -> bool:
        include, exclude = self._config.include, self._config.exclude
        return (include is None or matches(name, include)) and not matches(name, exclude)
