"""Arguments are checked against the server's schema, as JSON Schema 2020-12 says, and nothing is fetched."""

import socket
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.validators import validator_for  # type: ignore[import-untyped]

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


NAMES = st.sampled_from(["a", "b", "c"])
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array"])
ASKED = st.one_of(
    st.booleans(),
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, unique=True)),
            "description": st.just("a thing"),
            "enum": st.lists(st.integers(0, 2), unique=True),
            "minLength": st.integers(0, 2),
        },
    ),
)
SCHEMAS = st.fixed_dictionaries(
    {"properties": st.dictionaries(NAMES, ASKED)},
    optional={
        "type": st.sampled_from(["object", "array", ["object", "null"]]),
        "required": st.lists(NAMES, unique=True),
        "additionalProperties": st.one_of(st.booleans(), ASKED),
        "maxProperties": st.integers(0, 3),
        "$schema": st.sampled_from(["http://json-schema.org/draft-07/schema#", "https://example.com/own"]),
    },
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.text("ab", max_size=2), st.integers(0, 3), st.sampled_from([0.5, 1.0, True, None, [], {}])
)


@given(SCHEMAS, st.dictionaries(NAMES, VALUES))
@example({"$schema": "http://json-schema.org/draft-03/schema#", "required": True}, {"a": 1})
@example({}, {})
@example({"properties": {"a": {"type": "integer"}}}, {"a": True})
@example({"properties": {"a": {"type": "integer", "enum": [1]}}}, {"a": 2})
@example({"properties": {"a": {"type": "integer"}}, "maxProperties": 0}, {"a": 1})
def test_it_says_what_json_schema_says(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    kind = validator_for(schema, default=Draft202012Validator)
    fits = SchemaValidator(schema)
    if kind(schema).is_valid(arguments):
        assert fits.validate(arguments) == arguments
    else:
        with pytest.raises(ToolValidationError, match=r"^the arguments do not fit:"):
            fits.validate(arguments)


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
