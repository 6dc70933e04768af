from typing import Literal

import pytest

from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_parser import ClaudeToolParser, DeepSeekToolParser, OpenAIToolParser, ToolParser


def paint(color: Literal["red", "blue"]) -> None:
    """Paint it.

    Args:
        color: Which one.
    """


schema = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "blue"], "description": "Which one."}},
    "required": ["color"],
    "additionalProperties": False,
}
openai = {"type": "function", "function": {"name": "paint", "description": "Paint it.", "parameters": schema}}


@pytest.mark.parametrize(
    ("parser", "formatted"),
    [
        (OpenAIToolParser(), openai),
        (DeepSeekToolParser(), openai),
        (ClaudeToolParser(), {"name": "paint", "description": "Paint it.", "input_schema": schema}),
    ],
)
def test_a_tool_is_written_in_the_providers_format(parser: ToolParser, formatted: object) -> None:
    tool = Tool.from_function(paint)
    assert parser.parse_tool(tool) == formatted
    assert parser.parse_tools([tool, tool]) == [formatted, formatted]
