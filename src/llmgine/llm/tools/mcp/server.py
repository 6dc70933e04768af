"""An MCP server: the tools of a `ToolManager` for every MCP client, over standard input and output or HTTP.

    bus = MessageBus()
    tools = ToolManager()
    tools.register_tool(expose(CreateNoteCommand))  # a command of the bus, as a tool
    server = create_llmgine_mcp_server(tools, bus=bus)
    asyncio.run(server.run_stdio())  # or server.run_http(port=8000)

The command line has names and not objects: whatever `module:name` leads to, `server_of` makes a server of it. What a
module prints while it is imported would be in the way of the protocol on standard output, so it is imported with
`contextlib.redirect_stdout(sys.stderr)`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import llmgine
from llmgine.bus import MessageBus
from llmgine.errors import ConfigurationError, MissingExtraError
from llmgine.llm.tools.mcp.command_tool import expose
from llmgine.llm.tools.mcp.serving.context import MCPToolContext
from llmgine.llm.tools.tool_manager import ToolManager

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.server import Server
    from mcp.server.context import ServerRequestContext

__all__ = ["LLMgineMCPServer", "MCPToolContext", "create_llmgine_mcp_server", "expose", "server_of"]

_LIST_TTL_MS = 60_000
"""For how long clients may keep the list of tools: tools that are registered later are seen by then."""


def create_llmgine_mcp_server(
    tools: ToolManager,
    *,
    name: str = "llmgine",
    version: str = llmgine.__version__,
    instructions: str | None = None,
    bus: MessageBus | None = None,
) -> LLMgineMCPServer:
    """Return a server of tools, which serves nobody yet.

    Args:
        tools: what clients may call, also what is registered later.
        name: what clients call the server.
        version: of the application.
        instructions: what a model should know about the tools as a whole.
        bus: where `expose`d commands are executed, and where tools publish.

    Raises:
        MissingExtraError: the `mcp` extra is not installed.
    """
    return LLMgineMCPServer(tools, name=name, version=version, instructions=instructions, bus=bus)


class LLMgineMCPServer:
    """Serves tools to MCP clients of every revision of the protocol, from 2024-11-05 to 2026-07-28.

    A tool that requires approval runs when the user of the client agrees to it; where the client cannot ask, it does
    not run.
    """

    def __init__(
        self, tools: ToolManager, *, name: str, version: str, instructions: str | None, bus: MessageBus | None
    ) -> None:
        try:
            from mcp.server import Server
            from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
        except ImportError as error:
            raise MissingExtraError("mcp", "An MCP server") from error
        from llmgine.llm.tools.mcp.serving.calls import ToolCalls
        from llmgine.llm.tools.mcp.serving.listing import ToolListing

        self.tools = tools
        self.bus = bus
        self._listing = ToolListing(tools)
        self._calls = ToolCalls(tools, self._listing, bus)
        self.sdk: Server[Any] = Server(
            name,
            version=version,
            instructions=instructions,
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list_tools,
            on_call_tool=self._calls.call,
        )
        """The SDK's server: for its own client in the same process, `mcp.Client(server.sdk)`, and for handlers of
        what LLMgine does not offer, such as resources."""
        self.sdk.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=name))

    async def run_stdio(self) -> None:
        """Serve the client that has started this process, until it closes standard input, or SIGTERM or SIGINT.

        Nothing but the protocol gets to standard output meanwhile: what tools print goes to standard error. The bus is
        started and stopped with it, if it does not run already.
        """
        from llmgine.llm.tools.mcp.serving.stdio import serve_stdio

        await serve_stdio(self.sdk, self._bus_running())

    async def run_http(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        token: str | None = None,
        allowed_origins: Collection[str] = (),
        on_listening: Callable[[str], object] | None = None,
    ) -> None:
        """Serve clients under `http://host:port/mcp` until SIGTERM or SIGINT. What runs then has 3 seconds to end.

        The bus is started and stopped with it, if it does not run already. There is no encryption: beyond this machine,
        put a proxy that has it in front.

        Args:
            host: where to listen. Beyond loopback only with a token.
            port: 0 for one that is free.
            token: what clients must send as `Authorization: Bearer …`.
            allowed_origins: web pages that may speak to the server, such as `https://example.com`; on loopback, pages
                of this machine may, too.
            on_listening: called with the address once there is one.

        Raises:
            ConfigurationError: others than this machine could run the tools without a token, an option makes no sense,
                or the port is taken.
        """
        from llmgine.llm.tools.mcp.serving.http import serve_http

        async with self._bus_running():
            await serve_http(
                self.sdk, host, port, token=token, allowed_origins=allowed_origins, on_listening=on_listening
            )

    async def _list_tools(
        self,
        request: ServerRequestContext[Any, Any],  # noqa: ARG002  # all see the same tools
        params: types.PaginatedRequestParams | None,
    ) -> types.ListToolsResult:
        from mcp.shared.exceptions import MCPError
        from mcp_types import INVALID_PARAMS, ListToolsResult

        if params is not None and params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "There is no such page: the list of tools has only one.")
        tools = [offered.described for offered in self._listing.all()]
        return ListToolsResult(tools=tools, ttl_ms=_LIST_TTL_MS, cache_scope="private")

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        offered = self._listing.get(name)
        return None if offered is None else offered.described.input_schema

    @asynccontextmanager
    async def _bus_running(self) -> AsyncGenerator[None, None]:
        if self.bus is None or self.bus.loop is not None:
            yield
            return
        await self.bus.start()
        try:
            yield
        finally:
            await self.bus.stop()


def server_of(found: object) -> LLMgineMCPServer:
    """Return a server of what a module has under a name, or of the module itself.

    Args:
        found: a server, a `ToolManager`, a function, or a module or an object with functions as `register_tools` takes
            them.

    Raises:
        ConfigurationError: it is nothing of that kind.
        ToolRegistrationError: its functions cannot be tools.
        MissingExtraError: the `mcp` extra is not installed.
    """
    if isinstance(found, LLMgineMCPServer):
        return found
    if isinstance(found, ToolManager):
        return create_llmgine_mcp_server(found)
    tools = ToolManager()
    if inspect.isroutine(found):
        tools.register_tool(found)
    elif inspect.ismodule(found) or not (found is None or isinstance(found, type | str | int | float | list | dict)):
        tools.register_tools(found)
    else:
        msg = f"{found!r} has no tools. Expected a ToolManager, an MCP server, a function, or a module of functions."
        raise ConfigurationError(msg)
    return create_llmgine_mcp_server(tools)
