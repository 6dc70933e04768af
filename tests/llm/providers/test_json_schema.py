"""A JSON schema goes to the server as strict as it allows for, and to the local model as a grammar."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from llmgine.llm.providers.json_schema import response_format
from llmgine.llm.providers.tool_grammar import json_grammar
from llmgine.llm.types import JSONSchema

STRING = {"type": "string"}


def sent(schema: dict[str, Any]) -> Any:
    wanted = response_format(JSONSchema("n", schema))
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["name"] == "n"
    return wanted["json_schema"]


class Inner(BaseModel):
    names: list[str]


class Outer(BaseModel):
    inner: Inner
    other: Inner | None
    number: int


def test_a_schema_whose_objects_need_all_they_have_is_strict() -> None:
    schema = sent(Outer.model_json_schema())

    assert schema["strict"] is True
    assert schema["schema"]["additionalProperties"] is False
    assert schema["schema"]["$defs"]["Inner"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": STRING}},
        {"type": "object", "properties": {"a": STRING, "b": STRING}, "required": ["a"]},
        {"type": "object", "properties": {"a": {**STRING, "default": "x"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": STRING}, "required": ["a"], "additionalProperties": True},
        {"type": "object", "additionalProperties": STRING},
        {"type": "object", "properties": {"a": {"oneOf": [STRING]}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "object"}]}}, "required": ["a"]},
        {"type": "array", "items": STRING},
        {"anyOf": [STRING]},
        {},
    ],
)
def test_any_other_is_sent_as_it_is(schema: dict[str, Any]) -> None:
    assert sent(schema) == {"name": "n", "schema": schema, "strict": False}


def test_the_schema_that_was_given_stays_as_it_was() -> None:
    schema = {"type": "object", "properties": {"a": STRING}, "required": ["a"]}
    sent(schema)

    assert "additionalProperties" not in schema


def test_a_grammar_begins_with_the_form() -> None:
    lines = json_grammar({"type": "object", "properties": {"a": STRING}, "required": ["a"]}).splitlines()
    rules = dict(line.split(" ::= ", 1) for line in lines)

    assert rules[rules["root"]].strip() == '"{" "\\"a\\": " string  "}"'


def test_a_schema_that_makes_no_sense_asks_for_an_object() -> None:
    assert "root ::= object\n" in json_grammar({"$ref": "#/nowhere"})
