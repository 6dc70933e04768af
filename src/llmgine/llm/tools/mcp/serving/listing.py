"""What a client is told of the tools: their schemas, and what calling them does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_type_hints

import mcp_types as types
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

from llmgine.llm.tools.effects import Effect
from llmgine.llm.tools.schema import definition_of
from llmgine.llm.tools.tool import Tool
from llmgine.llm.tools.tool_manager import ToolManager

__all__ = ["OfferedTool", "ToolListing"]


@dataclass(frozen=True)
class OfferedTool:
    """A tool, and how it is described to clients."""

    tool: Tool
    described: types.Tool
    output: TypeAdapter[Any] | None
    """What its results are checked and written with, where its return annotation promises a form."""


class ToolListing:
    """The tools of a manager as clients see them, each described once."""

    def __init__(self, tools: ToolManager) -> None:
        self._tools = tools
        self._offered: dict[str, OfferedTool] = {}

    def all(self) -> list[OfferedTool]:
        """Return all tools, in the order of their registration."""
        self._offered = {tool.name: self._offer(tool) for tool in self._tools.tools}
        return list(self._offered.values())

    def get(self, name: str) -> OfferedTool | None:
        """Return the tool of that name, if there is one."""
        tool = next((tool for tool in self._tools.tools if tool.name == name), None)
        if tool is None:
            return None
        offered = self._offered[name] = self._offer(tool)
        return offered

    def _offer(self, tool: Tool) -> OfferedTool:
        known = self._offered.get(tool.name)
        if known is not None and known.tool is tool:
            return known
        output, schema = (None, tool.output_schema) if tool.server else _output_of(tool.function)
        described = types.Tool(
            name=tool.name,
            description=tool.description,
            input_schema=tool.json_schema,
            output_schema=schema if schema is not None and schema.get("type") == "object" else None,
            annotations=types.ToolAnnotations(
                read_only_hint=tool.effect is Effect.READ,
                destructive_hint=tool.effect is not Effect.READ,
                idempotent_hint=tool.effect.repeatable,
            ),
        )
        return OfferedTool(tool, described, output)


def _output_of(function: Callable[..., Any]) -> tuple[TypeAdapter[Any] | None, dict[str, Any] | None]:
    """Return what a function promises to return, where that is an object with a form, and its schema."""
    annotation = _return_annotation(function)
    of_the_protocol = getattr(annotation, "__module__", "").partition(".")[0] == "mcp_types"
    if annotation is None or of_the_protocol:
        return None, None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        schema = adapter.json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError):
        return None, None
    reference = schema.pop("$ref", "")
    schema = schema["$defs"][reference.rpartition("/")[2]] | schema if reference else schema
    has_form = schema.get("type") == "object" and schema.get("additionalProperties") is not True
    return (adapter, schema) if has_form else (None, None)


def _return_annotation(function: Callable[..., Any]) -> Any:
    """Return what a function's return is annotated with; None if it is not, or with what cannot be resolved."""
    while isinstance(function, functools.partial):
        function = function.func
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        return None
    holder = SimpleNamespace(__annotations__={"return": annotation})
    namespace = getattr(definition_of(function), "__globals__", {})
    try:
        return get_type_hints(holder, namespace, include_extras=True)["return"]
    except Exception:  # noqa: BLE001  # an annotation is an expression of the application's
        return None
