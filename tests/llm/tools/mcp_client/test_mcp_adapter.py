"""Tools of servers are written down for providers as any other."""

from types import SimpleNamespace

import mcp_types
import pytest
from raw_mcp import Connect

from llmgine.errors import ConfigurationError
from llmgine.llm.tools.mcp.mcp_tool_adapter import ToolAdapter

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
OPENAI = {"type": "function", "function": {"name": "echo", "description": "Says it.", "parameters": SCHEMA}}
CLAUDE = {"name": "echo", "description": "Says it.", "input_schema": SCHEMA}


@pytest.mark.parametrize(
    ("target", "expected"),
    [("openai", OPENAI), ("OpenAI", OPENAI), ("deepseek", OPENAI), ("claude", CLAUDE), ("anthropic", CLAUDE)],
)
@pytest.mark.parametrize(
    "tool",
    [
        mcp_types.Tool(name="echo", description="Says it.", input_schema=SCHEMA),
        {"name": "echo", "description": "Says it.", "inputSchema": SCHEMA},
        SimpleNamespace(name="echo", description="Says it.", inputSchema=SCHEMA),
    ],
)
def test_a_tool_is_written_in_the_form_of_the_provider(target: str, expected: object, tool: object) -> None:
    assert ToolAdapter(target).convert_tools([tool]) == [expected]


async def test_the_tools_of_a_manager_are_taken_as_they_are(raw: Connect) -> None:
    tools = await raw(prefix="raw_")
    assert ToolAdapter("openai").convert_tools(tools.tools) == tools.tool_schemas


def test_names_that_models_do_not_take_are_changed() -> None:
    tools = [{"name": "a.b"}, {"name": "a_b"}]
    first, second = ToolAdapter("claude").convert_tools(tools)
    assert second["name"] == "a_b"
    assert first["name"].startswith("a_b_")
    assert first["input_schema"] == {"type": "object", "properties": {}}


def test_a_provider_that_is_not_known_is_named() -> None:
    with pytest.raises(ConfigurationError, match="There is no format for 'nobody'; there are: openai, claude"):
        ToolAdapter("nobody")
