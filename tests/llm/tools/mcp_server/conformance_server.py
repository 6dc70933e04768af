"""A server with the tools that the official conformance suite asks for, made with LLMgine's `ToolManager`."""

from __future__ import annotations

import asyncio
import base64
import warnings
from typing import Annotated, Any

import mcp_types as types
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import Field

from llmgine.llm.providers.images import image_part
from llmgine.llm.tools.mcp.schema_validator import SchemaValidator
from llmgine.llm.tools.mcp.server import create_llmgine_mcp_server
from llmgine.llm.tools.mcp.serving.context import MCPToolContext
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_manager import ToolManager
from llmgine.llm.tools.tool_options import tool

warnings.simplefilter("ignore", MCPDeprecationWarning)  # sampling and logging, which older clients have

tools = ToolManager()

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WAV = base64.b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0@\x1f\0\0\x01\0\x08\0data\0\0\0\0").decode()


JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def _given(**arguments: Any) -> str:
    return f"{arguments}"


# A tool with a schema of its own, as those of other MCP servers have.
foreign = Tool(
    name="json_schema_2020_12_tool",
    description="Tool with JSON Schema 2020-12 features",
    parameters=(),
    function=_given,
    timeout=None,
    json_schema=JSON_SCHEMA,
    validator=SchemaValidator(JSON_SCHEMA),
    server="elsewhere",
)
tools._register.replace(foreign.server, [foreign])


@tools.register_tool
def test_custom_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Return what proxies see in a header."""
    return region


@tools.register_tool
def test_simple_text() -> str:
    """Return a text."""
    return "This is a simple text response for testing."


@tools.register_tool
def test_image_content() -> dict[str, Any]:
    """Return a picture, as LLMgine has it in messages."""
    return image_part(PNG)


@tools.register_tool
def test_audio_content() -> types.AudioContent:
    """Return a sound, as the protocol has it."""
    return types.AudioContent(data=WAV, mime_type="audio/wav")


def _resource(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=text))


@tools.register_tool
def test_embedded_resource() -> types.EmbeddedResource:
    """Return a resource."""
    return _resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")


@tools.register_tool
def test_multiple_content_types() -> list[Any]:
    """Return a text, a picture and a resource."""
    resource = _resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return ["Multiple content types test:", image_part(PNG), resource]


@tools.register_tool
def test_error_handling() -> None:
    """Fail."""
    msg = "This tool intentionally returns an error for testing"
    raise RuntimeError(msg)


@tools.register_tool
async def test_tool_with_progress(context: ToolContext) -> str:
    """Get further step by step."""
    for progress in (0, 50, 100):
        await context.report_progress(progress, 100)
        await asyncio.sleep(0.05)
    return "done"


def _request(context: ToolContext) -> Any:
    assert isinstance(context, MCPToolContext)
    return context.request


@tools.register_tool
async def test_tool_with_logging(context: ToolContext) -> str:
    """Say what it is doing."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        request = _request(context)
        await request.session.send_log_message("info", text, related_request_id=request.request_id)
        await asyncio.sleep(0.05)
    return "done"


@tools.register_tool
async def test_logging_tool(context: ToolContext) -> str:
    """Say what it is doing, to who wants to know."""
    return await test_tool_with_logging(context)


@tools.register_tool
async def test_sampling(prompt: str, context: ToolContext) -> str:
    """Have the client's model write something."""
    request = _request(context)
    message = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    answer = await request.session.create_message([message], max_tokens=100, related_request_id=request.request_id)
    return f"LLM response: {answer.content.text}"


@tools.register_tool
@tool(requires_approval=True)
def test_elicitation(message: str) -> str:
    """Run if the user agrees."""
    return f"Agreed: {message}"


@tools.register_tool
@tool(requires_approval=True)
def test_streaming_elicitation() -> str:
    """Run if the user agrees."""
    return "Agreed"


async def _elicit(context: ToolContext, properties: dict[str, Any]) -> str:
    request = _request(context)
    schema = {"type": "object", "properties": properties, "required": []}
    answer = await request.session.elicit_form("Please fill in", schema, request.request_id)
    return f"Elicitation completed: action={answer.action}, content={answer.content}"


@tools.register_tool
async def test_elicitation_sep1034_defaults(context: ToolContext) -> str:
    """Ask with defaults."""
    return await _elicit(
        context,
        {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
    )


@tools.register_tool
async def test_elicitation_sep1330_enums(context: ToolContext) -> str:
    """Ask with choices."""
    choices = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
    return await _elicit(
        context,
        {
            "untitledSingle": {"type": "string", "enum": choices},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": choices}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
    )


@tools.register_tool
def test_missing_capability(context: ToolContext) -> Any:
    """Refuse a client that cannot sample."""
    data: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
    return types.ErrorData(code=types.MISSING_REQUIRED_CLIENT_CAPABILITY, message="Sampling is needed", data=data)


# Questions since 2026-07-28: the tool returns them, and is called again with the answers.


def _form(message: str, **properties: str) -> types.ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def _sampling(text: str) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=text))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=100))


def _answers(context: ToolContext) -> dict[str, Any]:
    return _request(context).params.get("inputResponses") or {}


def _ask(state: str | None = None, **requests: Any) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


@tools.register_tool
def test_input_required_result_elicitation(context: ToolContext) -> Any:
    """Ask for a name."""
    answer = _answers(context).get("user_name")
    if not answer:
        return _ask(user_name=_form("What is your name?", name="string"))
    return f"Hello, {answer['content']['name']}!"


@tools.register_tool
def test_input_required_result_sampling(context: ToolContext) -> Any:
    """Ask the model."""
    answer = _answers(context).get("capital_question")
    return answer["content"]["text"] if answer else _ask(capital_question=_sampling("What is the capital of France?"))


@tools.register_tool
def test_input_required_result_list_roots(context: ToolContext) -> Any:
    """Ask for the roots."""
    answer = _answers(context).get("client_roots")
    return f"{answer['roots']}" if answer else _ask(client_roots=types.ListRootsRequest())


@tools.register_tool
def test_input_required_result_request_state(context: ToolContext) -> Any:
    """Ask, and remember it."""
    if _answers(context).get("confirm"):
        return "state-ok" if _request(context).params.get("requestState") == "first" else "state-lost"
    return _ask("first", confirm=_form("Please confirm", ok="boolean"))


@tools.register_tool
def test_input_required_result_tampered_state(context: ToolContext) -> Any:
    """Ask, and remember it."""
    return "state-ok" if _answers(context).get("confirm") else _ask("first", confirm=_form("Sure?", ok="boolean"))


@tools.register_tool
def test_input_required_result_multiple_inputs(context: ToolContext) -> Any:
    """Ask several things at once."""
    if len(_answers(context)) >= 3:
        return "all there"
    return _ask(
        "several",
        user_name=_form("What is your name?", name="string"),
        greeting=_sampling("Say hello"),
        client_roots=types.ListRootsRequest(),
    )


@tools.register_tool
def test_input_required_result_multi_round(context: ToolContext) -> Any:
    """Ask one thing after another."""
    state = _request(context).params.get("requestState")
    if state == "second" and "step2" in _answers(context):
        return "both steps done"
    if state == "first" and "step1" in _answers(context):
        return _ask("second", step2=_form("Step 2: your favourite colour?", color="string"))
    return _ask("first", step1=_form("Step 1: your name?", name="string"))


@tools.register_tool
def test_input_required_result_capabilities(context: ToolContext) -> Any:
    """Ask what the client can answer."""
    if _answers(context):
        return "answered"
    able = _request(context).session.client_capabilities
    requests: dict[str, Any] = {}
    if able.sampling is not None:
        requests["sample"] = _sampling("Say hello")
    if able.elicitation is not None:
        requests["ask"] = _form("What is your name?", name="string")
    return _ask(**requests) if requests else "nobody to ask"


def _tell(url: str) -> None:
    print(url, flush=True)  # noqa: T201  # the test reads it


if __name__ == "__main__":
    server = create_llmgine_mcp_server(tools, name="conformance", version="1.0.0")
    asyncio.run(server.run_http(port=0, on_listening=_tell))
