from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from llmgine.errors import ToolRegistrationError
from llmgine.llm.tools.tool import Tool

NONE: Any = None


class Color(Enum):
    """A colour of the paint box."""

    RED = "red"
    BLUE = "blue"


class Unit(Enum):
    PIXEL = "px"


@dataclass
class Point:
    """A place."""

    x: float
    color: Color = Color.RED


class Brush(BaseModel):
    width: int = Field(gt=0, description="Pixels.")


class Options(TypedDict, total=False):
    fast: bool


class Node(BaseModel):
    children: list[Node] = []


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    return Tool.from_function(function).json_schema


def properties_of(function: Callable[..., Any]) -> dict[str, Any]:
    properties: dict[str, Any] = schema_of(function)["properties"]
    return properties


def test_a_tool_is_described_in_the_function_calling_format() -> None:
    def get_weather(city: str, days: int = 3) -> str:
        """Look up the weather.

        Args:
            city: Where.
            days: How far ahead.
        """
        return ""

    assert Tool.from_function(get_weather).schema == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Look up the weather.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where."},
                    "days": {"type": "integer", "default": 3, "description": "How far ahead."},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    def ping() -> None: ...

    assert schema_of(ping) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_an_enum_is_the_list_of_its_values_in_place() -> None:
    def paint(color: Color, unit: Unit = Unit.PIXEL, *, others: list[Color] | None = None) -> None: ...

    values = {"enum": ["red", "blue"], "type": "string", "description": "A colour of the paint box."}
    assert properties_of(paint) == {
        "color": values,
        "unit": {"enum": ["px"], "type": "string", "default": "px"},
        "others": {"anyOf": [{"items": values, "type": "array"}, {"type": "null"}], "default": None},
    }


def test_a_literal_is_the_list_of_its_values_even_if_there_is_only_one() -> None:
    def paint(mode: Literal["over", "under"], layer: Literal[1]) -> None: ...

    assert properties_of(paint) == {
        "mode": {"enum": ["over", "under"], "type": "string"},
        "layer": {"enum": [1], "type": "integer"},
    }


def test_constraints_and_descriptions_of_annotations_are_in_the_schema() -> None:
    def paint(
        alpha: Annotated[float, Field(ge=0, le=1, description="Opacity.")], name: str = Field("x", max_length=9)
    ) -> None:
        """Paint.

        :param alpha: overruled
        """

    assert properties_of(paint) == {
        "alpha": {"type": "number", "minimum": 0, "maximum": 1, "description": "Opacity."},
        "name": {"type": "string", "maxLength": 9, "default": "x"},
    }


def test_models_dataclasses_and_typed_dicts_are_objects() -> None:
    def paint(brush: Brush, points: list[Point], options: Options) -> None:
        """Paint.

        Args:
            brush: The tool of the trade.
        """

    schema = schema_of(paint)
    assert schema["properties"]["brush"] == {"$ref": "#/$defs/Brush", "description": "The tool of the trade."}
    assert schema["properties"]["points"] == {"type": "array", "items": {"$ref": "#/$defs/Point"}}
    assert schema["$defs"]["Brush"]["properties"]["width"] == {
        "type": "integer",
        "exclusiveMinimum": 0,
        "description": "Pixels.",
    }
    assert schema["$defs"]["Point"]["properties"]["color"] == {
        "enum": ["red", "blue"],
        "type": "string",
        "description": "A colour of the paint box.",
        "default": "red",
    }
    assert schema["$defs"]["Options"]["properties"] == {"fast": {"type": "boolean"}}
    assert set(schema["$defs"]) == {"Brush", "Point", "Options"}


def test_a_type_may_refer_to_itself() -> None:
    def walk(node: Node) -> None: ...

    schema = schema_of(walk)
    assert schema["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


def test_containers_and_unions_are_spelled_out() -> None:
    def look(by: int | str, tags: dict[str, int], near: Optional[str] = None) -> None: ...  # noqa: UP045  # as users write it

    assert properties_of(look) == {
        "by": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "tags": {"type": "object", "additionalProperties": {"type": "integer"}},
        "near": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    }


def test_a_default_of_none_makes_the_parameter_optional() -> None:
    def look(limit: int = NONE) -> None: ...

    assert properties_of(look)["limit"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]


def test_what_json_cannot_express_as_a_default_is_left_out() -> None:
    def look(marker: Any = object(), bare=math.pi) -> None:  # type: ignore[no-untyped-def]  # noqa: B008
        ...

    assert schema_of(look) == {
        "type": "object",
        "properties": {"marker": {}, "bare": {"default": math.pi}},
        "additionalProperties": False,
    }


def test_any_name_can_be_a_parameters_name() -> None:
    def odd(*, _id: int, model_config: int, copy: int, json: int, kwargs: int, name: int, function: int) -> None: ...

    assert list(properties_of(odd)) == ["_id", "model_config", "copy", "json", "kwargs", "name", "function"]


def test_what_a_partial_binds_is_hidden_from_the_model() -> None:
    def search(key: str, query: str, limit: int = 3, region: str = "eu") -> None:
        """Search.

        Args:
            query: What for.
        """

    tool = Tool.from_function(functools.partial(functools.partial(search, "secret"), limit=7))
    assert (tool.name, tool.description) == ("search", "Search.")
    assert tool.json_schema["properties"] == {
        "query": {"type": "string", "description": "What for."},
        "region": {"type": "string", "default": "eu"},
    }
    assert "secret" not in str(tool.schema)


def test_annotations_are_resolved_where_the_decorated_function_was_defined() -> None:
    class Logged(contextlib.ContextDecorator):  # the decorated function is one of contextlib's
        def __enter__(self) -> None: ...
        def __exit__(self, *exc: object) -> None: ...

    @Logged()
    def paint(color: Color) -> Elsewhere: ...  # type: ignore[name-defined]  # noqa: F821  # its own affair

    assert properties_of(paint)["color"]["enum"] == ["red", "blue"]


def test_an_unknown_type_is_named_with_the_parameter() -> None:
    def paint(color: Elsewhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ToolRegistrationError, match=r"color: 'Elsewhere' cannot be resolved.*top of the module"):
        schema_of(paint)


def test_the_parameters_of_a_tool_can_be_read_one_by_one() -> None:
    def get_weather(city: str, days: int = 3) -> None:
        """Look up the weather.

        Args:
            city: Where.
        """

    city, days = Tool.from_function(get_weather).parameters
    assert (city.name, city.description, city.required) == ("city", "Where.", True)
    assert (days.name, days.description, days.required) == ("days", "", False)
    assert days.json_schema == {"type": "integer", "default": 3}
