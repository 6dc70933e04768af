"""Forms of what an approval has to say: what may be asked for, and what fits."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.bus.answer_form import AnswerForm, FieldType, FormField
from llmgine.bus.answer_schema import form_of
from llmgine.errors import ConfigurationError

COLOURS = [{"const": "r", "title": "Red"}, {"const": "g", "title": "Green"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Name", "description": "Yours.", "minLength": 2, "maxLength": 5},
        "mail": {"type": "string", "format": "email"},
        "page": {"type": "string", "format": "uri"},
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "seats": {"type": "integer", "minimum": 1, "maximum": 9, "default": 2},
        "price": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        "window": {"type": "boolean", "default": False},
        "colour": {"type": "string", "oneOf": COLOURS},
        "size": {"type": "string", "enum": ["s", "m"], "enumNames": ["Small", "Medium"]},
        "extras": {"type": "array", "items": {"anyOf": COLOURS}, "minItems": 1, "maxItems": 2},
        "days": {"type": "array", "items": {"type": "string", "enum": ["mon", "tue"]}},
        "kind": {"type": "string", "const": "x"},
        "level": {"type": "integer", "enum": [1, 2]},
    },
    "required": ["name", "seats"],
}
FITS: dict[str, list[Any]] = {
    "name": ["ab", "abcde"],
    "mail": ["a@b.example"],
    "page": ["https://example.com/x", "mailto:a@b"],
    "day": ["2026-11-20"],
    "at": ["2026-11-20T14:30:00Z", "2026-11-20T14:30:00.5+01:00"],
    "seats": [1, 9, 3.0],
    "price": [0.01, 9, 9.99],
    "window": [True, False],
    "colour": ["r", "g"],
    "size": ["s"],
    "extras": [["r"], ["g", "r"]],
    "days": [[], ["mon", "tue"]],
    "kind": ["x"],
    "level": [2],
}
DOES_NOT: dict[str, list[Any]] = {
    "name": ["a", "abcdef", 3, None, ["ab"]],
    "mail": ["a", "a@b@c", "a b@c", 5],
    "page": ["example.com", "https://exa mple.com", "//x", "https://[x"],
    "day": ["20261120", "2026-13-01", "tomorrow", 2026],
    "at": ["2026-11-20", "2026-11-20T14:30:00", "now"],
    "seats": [0, 10, 1.5, True, "3", math.inf, math.nan, 10**400],
    "price": [0, 10, -1, math.nan, "1"],
    "window": [0, 1, "true", None],
    "colour": ["Red", "b", "", 0],
    "size": ["Small"],
    "extras": [[], ["r", "r"], ["b"], "r", ["r", "g", "r"], [["r"]]],
    "days": [["wed"]],
    "kind": ["y"],
    "level": [3, "1", True],
}


def field(name: str) -> FormField:
    return next(each for each in form_of(SCHEMA).fields if each.name == name)


@pytest.mark.parametrize("name", FITS)
def test_each_kind_of_field_takes_what_fits_and_nothing_else(name: str) -> None:
    for value in FITS[name]:
        assert field(name).problem(value) == "", value
    for value in DOES_NOT[name]:
        assert field(name).problem(value) == f"expected {field(name).expected}", value


def test_what_is_expected_is_said_in_words() -> None:
    said = {each.name: each.expected for each in form_of(SCHEMA).fields}
    assert said["name"] == "a text, at least 2 characters, at most 5 characters"
    assert said["seats"] == "a whole number, at least 1, at most 9"
    assert said["price"] == "a number, more than 0, less than 10"
    assert said["colour"] == "one of: r (Red), g (Green)"
    assert said["extras"] == "some of: r (Red), g (Green), at least 1 choices, at most 2 choices"
    assert said["day"] == "a date such as 2026-11-20"
    many = form_of({"type": "object", "properties": {"n": {"type": "string", "enum": [str(n) for n in range(900)]}}})
    assert many.fields[0].expected.endswith("48, 49, …")


def test_an_answer_is_told_all_that_is_wrong_with_it() -> None:
    form = form_of(SCHEMA)
    assert form.problems({"name": "ada", "seats": 2}) == {}
    problems = form.problems({"seats": 0, "colour": "r", "nonsense": 1})
    assert problems.keys() == {"name", "seats", "nonsense"}
    assert problems["name"].startswith("is missing: expected a text")
    assert "there are: name, mail" in problems["nonsense"]
    assert form.defaults == {"seats": 2, "window": False}


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("name", ["3"], "3"),
        ("seats", ["3"], 3),
        ("seats", ["three"], "three"),
        ("price", ["3"], 3),
        ("price", ["3.5"], 3.5),
        ("window", ["Yes"], True),
        ("window", ["no"], False),
        ("window", ["maybe"], "maybe"),
        ("colour", ["Green"], "g"),
        ("colour", ["r"], "r"),
        ("level", ["2"], 2),
        ("extras", ["Red", "g"], ["r", "g"]),
        ("seats", ["1", "2"], 2),
    ],
)
def test_what_is_typed_becomes_the_value_that_is_meant(name: str, texts: list[str], value: Any) -> None:
    parsed = field(name).parse(texts)
    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": [{}]}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"], "enumNames": []}}, "required": "a"},
        {"type": "object", "properties": {"a": {"type": "string", "oneOf": [{"title": "x"}]}}},
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": {str(n): {"type": "string"} for n in range(101)}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": [str(n) for n in range(1001)]}}},
    ],
)
def test_what_is_not_flat_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="The schema of an answer"):
        form_of(schema)


def test_a_default_that_does_not_fit_and_a_limit_that_is_none_are_left_out() -> None:
    odd = {"type": "integer", "minimum": "1", "maximum": True, "exclusiveMaximum": 10**400, "default": "x", "title": 5}
    form = form_of({"type": "object", "properties": {"a": odd}})
    assert form == AnswerForm((FormField(name="a", type=FieldType.INTEGER),))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from([*FieldType, "enum", "enumNames", "oneOf", "anyOf", "const", "items", "minLength", "title"])
schemas = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "properties": st.dictionaries(
            st.text(max_size=4),
            st.dictionaries(words, json_values, max_size=4).flatmap(
                lambda made: st.sampled_from([*FieldType]).map(lambda kind: {**made, "type": kind.value})
            ),
            max_size=3,
        ),
        "required": json_values,
    },
)


@given(schemas, st.dictionaries(st.text(max_size=4), json_values, max_size=3))
def test_no_schema_and_no_answer_breaks_anything(schema: dict[str, Any], answer: dict[str, Any]) -> None:
    try:
        form = form_of(schema)
    except ConfigurationError:
        return
    problems = form.problems(answer)
    assert all(problems.values())
    assert not form.problems(form.defaults).keys() & form.defaults.keys()
    if not problems:
        json.dumps(answer, allow_nan=False)
