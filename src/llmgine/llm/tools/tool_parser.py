"""Tools in the formats of the providers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from llmgine.llm.tools.tool import Tool
from llmgine.llm.types import ModelFormattedDictTool

__all__ = ["ClaudeToolParser", "DeepSeekToolParser", "OpenAIToolParser", "ToolParser"]


class ToolParser(ABC):
    """Writes tools down for one provider."""

    @abstractmethod
    def parse_tool(self, tool: Tool) -> ModelFormattedDictTool:
        """Return a tool in the provider's format."""

    def parse_tools(self, tools: Iterable[Tool]) -> list[ModelFormattedDictTool]:
        """Return tools in the provider's format."""
        return [self.parse_tool(tool) for tool in tools]


class OpenAIToolParser(ToolParser):
    """For OpenAI's chat completions: `{"type": "function", "function": {"name", "description", "parameters"}}`."""

    def parse_tool(self, tool: Tool) -> ModelFormattedDictTool:  # noqa: D102
        return tool.schema


class DeepSeekToolParser(OpenAIToolParser):
    """For DeepSeek, whose format is OpenAI's."""


class ClaudeToolParser(ToolParser):
    """For Anthropic's messages: `{"name", "description", "input_schema"}`."""

    def parse_tool(self, tool: Tool) -> ModelFormattedDictTool:  # noqa: D102
        return {"name": tool.name, "description": tool.description, "input_schema": tool.json_schema}
