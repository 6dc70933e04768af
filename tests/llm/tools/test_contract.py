"""The published names of the tools, and what they are called with."""

from dataclasses import fields
from importlib import import_module

import pytest

from llmgine.errors import ToolError
from llmgine.llm.tools import exceptions
from llmgine.llm.tools.tool_events import ToolExecuteResultEvent, ToolManagerEvent
from llmgine.llm.tools.tool_register import ToolRegister
from llmgine.llm.tools.toolCall import ToolCall
from llmgine.messages import Event

NAMES = {
    "llmgine.llm.tools": ["Effect", "Inject", "ToolCall", "ToolContext", "ToolManager"],
    "llmgine.llm.tools.toolCall": ["ToolCall"],
    "llmgine.llm.tools.tool_manager": ["ToolManager"],
    "llmgine.llm.tools.validation": ["coerce_value"],
    "llmgine.llm.tools.exceptions": [
        "ToolError",
        "ToolRegistrationError",
        "ToolValidationError",
        "ToolExecutionError",
        "ToolTimeoutError",
    ],
    "llmgine.llm.tools.tool_events": [
        "ToolManagerEvent",
        "ToolRegisterEvent",
        "ToolCompiledEvent",
        "ToolCallEvent",
        "ToolProgressEvent",
        "ToolExecuteResultEvent",
    ],
    "llmgine.llm.tools.tool": ["Parameter", "Tool"],
    "llmgine.llm.tools.tool_parser": ["OpenAIToolParser", "ClaudeToolParser", "DeepSeekToolParser"],
    "llmgine.llm.tools.tool_register": ["ToolRegister"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_a_published_name_is_there(module: str, name: str) -> None:
    assert name in import_module(module).__all__
    assert hasattr(import_module(module), name)


def test_errors_and_events_are_of_their_families() -> None:
    assert all(issubclass(getattr(exceptions, name), ToolError) for name in exceptions.__all__)
    assert issubclass(exceptions.ToolTimeoutError, exceptions.ToolExecutionError)
    events = import_module("llmgine.llm.tools.tool_events")
    assert all(issubclass(getattr(events, name), ToolManagerEvent) for name in events.__all__)
    assert issubclass(ToolManagerEvent, Event)


def test_an_execution_result_has_its_published_fields() -> None:
    told = ["execution_succeed", "tool_info", "tool_args", "tool_result", "tool_name", "tool_call_id"]
    assert {*told, "session_id", "engine_id"} <= {field.name for field in fields(ToolExecuteResultEvent)}


def test_a_call_is_made_and_written_as_published() -> None:
    call = ToolCall("1", name="f")
    assert (call.type, call.arguments) == ("function", "{}")
    assert call.to_dict() == {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_register_makes_tools_and_keeps_them() -> None:
    def read(unit: str) -> str:
        return unit

    register = ToolRegister()
    tool = register.register_tool(read, timeout=3)
    assert (tool.name, tool.timeout) == ("read", 3)
    assert register.tools == (tool,)
    assert register.get("read") is tool
    assert register.get("write") is None
