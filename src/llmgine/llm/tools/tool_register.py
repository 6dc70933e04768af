"""The tools of an application by their names, and what they get injected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Unpack

from llmgine.errors import ToolRegistrationError
from llmgine.llm.tools.injection import Dependencies
from llmgine.llm.tools.members import functions_of
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_options import ToolOptions, options_of

__all__ = ["ToolRegister"]


class ToolRegister:
    """Makes tools of functions, and keeps them in the order of their registration."""

    def __init__(self) -> None:
        self.dependencies = Dependencies()
        self._places: dict[tuple[str, str], Sequence[Tool]] = {}
        """What is offered, in order: a tool of the program's own at `("", name)`, a server's at `(server, "")`."""
        self._tools: dict[str, Tool] = {}
        """Those of them that can be called, by their names."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools, in the order of their registration."""
        return tuple(self._tools.values())

    def register_tool(self, function: Callable[..., Any], **options: Unpack[ToolOptions]) -> Tool:
        """Make a function a tool.

        Raises:
            ToolRegistrationError: the function cannot be a tool, or the name is taken.
        """
        tool = Tool.from_function(function, dependencies=self.dependencies, **options)
        self._add([tool])
        return tool

    def register_tools(self, source: object, *, prefix: str = "") -> list[Tool]:
        """Make tools of the functions of an object or a module: of all or, where one is wrong, of none.

        Args:
            source: whose functions that are marked with `@tool` become tools; if none is, those that are public.
            prefix: what the names of the tools begin with.

        Raises:
            ToolRegistrationError: one of them cannot be a tool, or a name is taken, or there is no function.
        """
        tools = [
            Tool.from_function(function, dependencies=self.dependencies, name=prefix + _name(function))
            for function in functions_of(source)
        ]
        self._add(tools)
        return tools

    def _add(self, tools: list[Tool]) -> None:
        names = [*self._tools, *(tool.name for tool in tools)]
        for tool in tools:
            if names.count(tool.name) > 1:
                raise ToolRegistrationError(
                    f"There is a tool '{tool.name}' already. Give this one another name with name=, "
                    "or those of an object with prefix=."
                )
        self._places.update({("", tool.name): [tool] for tool in tools})
        self._tools.update({tool.name: tool for tool in tools})

    def reserve(self, server: str) -> None:
        """Keep a place for the tools of an MCP server, behind what there is; its own, if it has one."""
        self._places.setdefault((server, ""), [])

    def remove(self, server: str) -> None:
        """Take away the tools of an MCP server, and its place."""
        self._places.pop((server, ""), None)
        self._tools = self._callable()

    def replace(self, server: str, tools: Sequence[Tool]) -> list[Tool]:
        """Put the tools of an MCP server in the place of those that it had.

        Of two tools with one name, the program's own can be called, or else that of the server with the earlier place:
        it does not matter which one came up first. Return those that cannot be called because of this.
        """
        before = self._tools
        own_place = (server, "")
        self._places = {place: old for place, old in self._places.items() if place[0] != server or place == own_place}
        self._places[own_place] = tools
        self._tools = self._callable()
        others = [tool for tool in before.values() if tool.server != server]
        return [tool for tool in (*tools, *others) if self._tools[tool.name] is not tool]

    def _callable(self) -> dict[str, Tool]:
        own = {tool.name for (server, _), tools in self._places.items() if not server for tool in tools}
        found: dict[str, Tool] = {}
        for (server, _), tools in self._places.items():
            for tool in tools:
                if not server or tool.name not in own:
                    found.setdefault(tool.name, tool)
        return found

    def is_of(self, name: str, server: str) -> bool:
        """Return whether a tool is one of an MCP server's."""
        tool = self._tools.get(name)
        return tool is not None and tool.server == server

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, if there is one."""
        return self._tools.get(name)

    def explain_unknown(self, name: str) -> str:
        """Return what a model is told that has asked for a tool that there is not."""
        spellings = {known.casefold(): known for known in self._tools}
        nearest = [f"'{spellings[key]}'" for key in get_close_matches(name[:64].casefold(), spellings)]
        hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
        return f"Error: Tool '{name}' not found.{hint} Available tools: {', '.join(self._tools) or 'none'}."


def _name(function: Callable[..., Any]) -> str:
    return (options_of(function) or {}).get("name") or str(function.__name__)
