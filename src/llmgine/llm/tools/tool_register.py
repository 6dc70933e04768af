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
        self._tools: dict[str, Tool] = {}

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
        self._tools.update({tool.name: tool for tool in tools})

    def replace(self, server: str, tools: Sequence[Tool]) -> list[Tool]:
        """Put the tools of an MCP server in the place of those that it had. Return those whose names others have."""
        others = {name: tool for name, tool in self._tools.items() if tool.server != server}
        new = {tool.name: tool for tool in tools if tool.name not in others}
        before = [tool.server for tool in self.tools]
        place = before.index(server) if server in before else len(others)
        pairs = list(others.items())
        self._tools = dict([*pairs[:place], *new.items(), *pairs[place:]])
        return [tool for tool in tools if tool.name in others]

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
