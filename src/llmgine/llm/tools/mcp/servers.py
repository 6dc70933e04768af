"""The MCP servers of one `ToolManager`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from llmgine.errors import ConfigurationError, LLMgineError, MCPError, MissingExtraError
from llmgine.llm.tools.mcp.config import MCPServerConfig
from llmgine.llm.tools.mcp.content import part_of
from llmgine.llm.tools.mcp.pages import all_pages
from llmgine.llm.tools.threads import run_in_thread
from llmgine.llm.tools.tool_register import ToolRegister
from llmgine.llm.types import LLMConversation

if TYPE_CHECKING:
    import mcp_types
    from mcp import Client
    from pydantic import BaseModel

    from llmgine.bus import MessageBus
    from llmgine.llm.tools.mcp.connection import State
    from llmgine.llm.tools.mcp.elicitation import OnElicitation
    from llmgine.llm.tools.mcp.events import MCPServerEvent
    from llmgine.llm.tools.mcp.sampling import OnSampling
    from llmgine.llm.tools.mcp.server_tools import ServerTools

__all__ = ["MCPServerStatus", "MCPServers"]

logger = logging.getLogger("llmgine.mcp")

T = TypeVar("T")


@dataclass(frozen=True)
class MCPServerStatus:
    """What is known about a server."""

    state: State
    protocol_version: str
    """Empty while there is no connection, as are the next five."""
    server_name: str
    """What it calls itself."""
    server_version: str
    server_info: Mapping[str, Any]
    """Both, and what else it says of itself, in the words of the protocol."""
    capabilities: Mapping[str, Any]
    """What it can do, in these words: `{"tools": {"listChanged": True}}`."""
    instructions: str
    """What it says about how its tools are to be used."""
    tools: tuple[str, ...]
    """The names of those that are registered, as models know them."""
    restarts: int
    """How often it has been started again."""
    last_error: str
    """Why it was lost the last time, or could not be started."""


class MCPServers:
    """Connects to servers, and keeps their tools among the manager's."""

    bus: MessageBus | None = None
    """Where `MCPServerEvent`s are published; None: nowhere."""
    on_elicitation: OnElicitation | None = None
    """Asks a person what a server wants to know. It may be set at any time, as by an engine that is made when servers
    are connected already; while it is not, every question is answered with "cancel"."""
    on_sampling: OnSampling | None = None
    """Has a model write for the servers that may ask for it. It may be set at any time, too."""

    def __init__(
        self,
        register: ToolRegister,
        *,
        timeout: float,
        random: Callable[[float, float], float],
        sleep: Callable[[float], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        """Have no server yet.

        Args:
            register: where the tools go.
            timeout: seconds for what is asked of a server other than a tool call.
            random: returns a number between two, for the delays between restarts.
            sleep: waits for some seconds.
            clock: returns seconds.
        """
        self._register = register
        self._timeout = timeout
        self._random = random
        self._sleep = sleep
        self._clock = clock
        self._servers: dict[str, ServerTools] = {}
        self._warned = False
        self._publishing: set[asyncio.Task[None]] = set()

    async def load(self) -> bool:
        """Return whether the SDK is there, and import it. If not, say so in a warning, once."""
        try:
            await _import_sdk()
        except MissingExtraError as exc:
            if not self._warned:
                self._warned = True
                logger.warning("%s MCP servers are left out.", exc)
            return False
        return True

    async def connect(self, name: str, config: MCPServerConfig) -> None:
        """Connect to a server, and add its tools. The order of the tools is that of these calls.

        Raises:
            MCPConnectionError: it does not come up; it has left nothing behind.
            ConfigurationError: there is a server of that name already.
            MissingExtraError: the extra `mcp` is not installed.
        """
        # On first use: engines have this object also where there are no servers.
        from llmgine.llm.tools.mcp.connection import Connection, State
        from llmgine.llm.tools.mcp.server_tools import ServerTools
        from llmgine.llm.tools.mcp.targets import ServerTarget

        known = self._servers.get(name)
        if not name or (known is not None and known.connection.state is not State.CLOSED):
            msg = f"There is an MCP server '{name}' already." if name else "An MCP server needs a name."
            raise ConfigurationError(msg)
        server = ServerTools(name, config, self._register, publish=self._publish, sleep=self._sleep)
        target = ServerTarget(name, config, self._callbacks(name, config, server))
        server.connection = Connection(target, server, random=self._random, sleep=self._sleep, clock=self._clock)
        self._servers[name] = server
        self._register.reserve(name)
        try:
            await _import_sdk()
            await server.connection.connect()
        except BaseException:
            self._forget(name, server)
            raise

    async def disconnect(self, name: str) -> None:
        """End a server; its tools are gone."""
        server = self._server(name)
        self._forget(name, server)
        await server.connection.close()

    async def close(self) -> None:
        """End all servers; their tools are gone."""
        await asyncio.gather(*map(self.disconnect, self.names))
        while self._publishing:
            await asyncio.wait(self._publishing)

    @property
    def names(self) -> tuple[str, ...]:
        """The servers, in the order in which they were connected."""
        return tuple(self._servers)

    def status(self, name: str) -> MCPServerStatus:
        """Return what is known about a server."""
        server = self._server(name)
        connection = server.connection
        client = connection.client
        info = None if client is None else client.server_info
        return MCPServerStatus(
            state=connection.state,
            protocol_version="" if client is None else client.protocol_version,
            server_name="" if info is None else info.name,
            server_version="" if info is None else info.version,
            server_info={} if info is None else _data(info),
            capabilities={} if client is None else _data(client.server_capabilities),
            instructions=(client.instructions if client is not None else None) or "",
            tools=server.names,
            restarts=connection.restarts,
            last_error=connection.last_error,
        )

    def about(self, name: str) -> dict[str, str]:
        """Return what events tell of a server whose tool has run: `{"server", "protocol_version", "transport"}`."""
        server = self._server(name)
        client = server.connection.client
        version = "" if client is None else client.protocol_version
        return {"server": name, "protocol_version": version, "transport": server.transport}

    async def list_tools(self, name: str) -> list[mcp_types.Tool]:
        """Return the tools that a server has, also those that are left out. This and the next ones raise `MCPError`."""
        return await self._ask(name, lambda client: all_pages(name, client.list_tools, "tools"))

    async def list_resources(self, name: str) -> list[mcp_types.Resource]:
        """Return what there is to read."""
        return await self._ask(name, lambda client: all_pages(name, client.list_resources, "resources"))

    async def list_resource_templates(self, name: str) -> list[mcp_types.ResourceTemplate]:
        """Return the forms of the addresses of what there is to read."""
        return await self._ask(
            name, lambda client: all_pages(name, client.list_resource_templates, "resource_templates")
        )

    async def read_resource(
        self, name: str, uri: str
    ) -> list[mcp_types.TextResourceContents | mcp_types.BlobResourceContents]:
        """Return what is under an address."""
        return (await self._ask(name, lambda client: client.read_resource(uri))).contents

    async def list_prompts(self, name: str) -> list[mcp_types.Prompt]:
        """Return the prompts that the server offers."""
        return await self._ask(name, lambda client: all_pages(name, client.list_prompts, "prompts"))

    async def get_prompt(self, name: str, prompt: str, arguments: dict[str, str] | None = None) -> LLMConversation:
        """Return a prompt, as messages for a model."""
        result = await self._ask(name, lambda client: client.get_prompt(prompt, arguments))
        messages = ((message.role, part_of(message.content)) for message in result.messages)
        return [
            {"role": role, "content": part["text"] if part["type"] == "text" else [part]} for role, part in messages
        ]

    # Inside

    def _server(self, name: str) -> ServerTools:
        if name not in self._servers:
            msg = f"There is no MCP server '{name}'; there are: {', '.join(self._servers) or 'none'}."
            raise ConfigurationError(msg)
        return self._servers[name]

    def _forget(self, name: str, server: ServerTools) -> None:
        if self._servers.get(name) is server:
            del self._servers[name]
            server.drop()

    async def _ask(self, name: str, work: Callable[[Client], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._timeout if math.isfinite(self._timeout) else None):
                return await self._server(name).connection.request(work)
        except TimeoutError as exc:
            msg = f"MCP server '{name}' has not answered within {self._timeout:g} seconds."
            raise MCPError(msg, server=name) from exc

    def _callbacks(self, name: str, config: MCPServerConfig, server: ServerTools) -> dict[str, Any]:
        async def log(params: mcp_types.LoggingMessageNotificationParams) -> None:
            logger.debug("%s: %s", name, params.data)

        callbacks: dict[str, Any] = {"message_handler": server.heard, "logging_callback": log}

        async def elicit(_: object, params: Any) -> Any:
            from mcp_types import ElicitResult

            if self.on_elicitation is None:
                return ElicitResult(action="cancel")
            return await self.on_elicitation(name, params, server.call_under_way())

        async def sample(_: object, params: Any) -> Any:
            from mcp_types import INVALID_REQUEST, ErrorData

            if self.on_sampling is None:
                return ErrorData(code=INVALID_REQUEST, message="There is no model here.")
            return await self.on_sampling(name, config, params, server.call_under_way())

        callbacks["elicitation_callback"] = elicit
        if config.sampling:
            callbacks["sampling_callback"] = sample
        return callbacks

    def _publish(self, event: MCPServerEvent) -> None:
        if self.bus is not None:
            # In a task: the owner of a connection must not wait for those who hear of it.
            task = asyncio.create_task(self._published(self.bus, event))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _published(self, bus: MessageBus, event: MCPServerEvent) -> None:
        try:
            await bus.publish(event, await_processing=False)
        except LLMgineError as exc:  # the bus has been stopped, or is full
            logger.debug("%s has not been published: %s", type(event).__name__, exc)


def _data(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


async def _import_sdk() -> None:
    try:
        await run_in_thread(lambda: import_module("mcp"), "import mcp")  # it takes long enough to be noticed
    except ImportError as exc:
        raise MissingExtraError("mcp", "Using MCP servers") from exc
