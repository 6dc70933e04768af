"""Tools of MCP servers in the formats of the providers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmgine.errors import ConfigurationError
from llmgine.llm.tools.mcp.names import model_names
from llmgine.llm.tools.mcp.schema_validator import SchemaValidator
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_parser import ClaudeToolParser, DeepSeekToolParser, OpenAIToolParser, ToolParser
from llmgine.llm.types import ModelFormattedDictTool

__all__ = ["ToolAdapter"]

_PARSERS: dict[str, type[ToolParser]] = {
    "openai": OpenAIToolParser,
    "claude": ClaudeToolParser,
    "anthropic": ClaudeToolParser,
    "deepseek": DeepSeekToolParser,
}


class ToolAdapter:
    """Writes down for one provider what tools there are.

    Raises:
        ConfigurationError: there is no such provider.
    """

    def __init__(self, target: str) -> None:
        """Write for a provider: "openai", "claude" (or "anthropic") or "deepseek"."""
        parser = _PARSERS.get(str(target).lower())
        if parser is None:
            msg = f"There is no format for {target!r}; there are: {', '.join(_PARSERS)}."
            raise ConfigurationError(msg)
        self._parser = parser()

    def convert_tools(self, tools: Iterable[Any]) -> list[ModelFormattedDictTool]:
        """Return tools in the provider's format.

        Args:
            tools: as a `ToolManager` has them, as the SDK does, or as dicts in the form of the protocol:
                `{"name", "description", "inputSchema"}`.
        """
        given = list(tools)
        names = model_names(_field(tool, "name") for tool in given)
        return [self._parser.parse_tool(_as_tool(tool, names)) for tool in given]


def _as_tool(tool: Any, names: dict[str, str]) -> Tool:
    if isinstance(tool, Tool):
        return tool
    schema = {"properties": {}, **(_field(tool, "input_schema", "inputSchema") or {"type": "object"})}
    return Tool(
        name=names[_field(tool, "name")],
        description=_field(tool, "description") or "",
        parameters=(),
        function=_as_tool,  # it is written down, and not called
        timeout=None,
        json_schema=schema,
        validator=SchemaValidator(schema),
    )


def _field(tool: Any, *names: str) -> Any:
    for name in names:
        found = tool.get(name) if isinstance(tool, dict) else getattr(tool, name, None)
        if found is not None:
            return found
    return None
