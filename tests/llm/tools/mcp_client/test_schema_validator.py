"""Arguments are checked against the server's schema, as JSON Schema 2020-12 says, and nothing is fetched."""

import socket
from typing import Any, NoReturn

import pytest

from llmgine.errors import ToolValidationError
from llmgine.llm.tools.mcp.schema_validator import SchemaValidator

POINT = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0}}, "required": ["x"]}


def validate(schema: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    return SchemaValidator(schema).validate(arguments)


def test_arguments_that_fit_stay_as_they_are() -> None:
    assert validate(POINT, {"x": 1, "more": [None]}) == {"x": 1, "more": [None]}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "- 'x' is a required property"),
        ({"x": "1"}, "- x: '1' is not of type 'integer'"),
        ({"x": -1}, "- x: -1 is less than the minimum of 0"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ToolValidationError, match=r"^the arguments do not fit:") as caught:
        validate(POINT, arguments)
    assert problem in str(caught.value)


def test_what_is_told_is_bounded() -> None:
    schema = {"additionalProperties": {"enum": ["y" * 1000]}}
    with pytest.raises(ToolValidationError) as caught:
        validate(schema, {f"{number}": "x" * 10_000 for number in range(100)})
    assert len(str(caught.value)) < 3000
    assert str(caught.value).endswith("and 90 more")


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"$defs": {"n": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/n"}}}, False),
        (
            {"properties": {"x": {"$dynamicRef": "#n"}}, "$defs": {"n": {"$dynamicAnchor": "n", "type": "integer"}}},
            False,
        ),
        ({"dependentRequired": {"x": ["y"]}}, False),
        ({"unevaluatedProperties": False}, False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"x": ["y"]}}, False),
        ({"dependencies": {"x": ["y"]}}, True),  # 2020-12 has no such keyword
    ],
)
def test_it_is_the_latest_draft_unless_the_schema_says_another(schema: dict[str, Any], fits: bool) -> None:
    if fits:
        validate(schema, {"x": "text"})
    else:
        with pytest.raises(ToolValidationError):
            validate(schema, {"x": "text"})


def test_what_is_elsewhere_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(address: object, *_: object, **__: object) -> NoReturn:
        asked.append(address)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ToolValidationError, match=r"refers to 'http://127\.0\.0\.1:9/schema', which is not in it"):
        validate({"properties": {"x": {"$ref": "http://127.0.0.1:9/schema"}}}, {"x": 1})
    assert asked == []


def test_what_is_no_schema_is_told() -> None:
    with pytest.raises(ToolValidationError, match="the tool's schema is no JSON Schema"):
        validate({"type": "nonsense"}, {})
