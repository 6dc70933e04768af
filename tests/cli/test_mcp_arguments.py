"""What is typed after a tool's name becomes its arguments."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.cli.mcp_arguments import typed_arguments
from llmgine.errors import ConfigurationError

TEXTS: list[Any] = [
    {"type": "string"},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"oneOf": [{"type": "null"}, {"type": "string", "format": "uri"}]},
    {"enum": ["12", "null"]},
    {"const": "true"},
]
OTHERS: list[Any] = [{"type": "integer"}, {"type": ["array", "object"]}, {"enum": [1, 2]}, {}, True, None]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner | st.text(), max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def schema(of_key: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"key": of_key}}


@given(st.sampled_from(TEXTS), st.sampled_from(["12", "null", "true", "[]", '"x"']) | st.text())
def test_where_the_schema_has_a_text_it_is_taken_as_it_is(of_key: Any, text: str) -> None:
    assert typed_arguments([f"key={text}"], None, schema(of_key)) == {"key": text}


@given(st.sampled_from(OTHERS), JSON)
def test_anywhere_else_json_is_what_it_says(of_key: Any, value: Any) -> None:
    assert typed_arguments([f"key={json.dumps(value)}"], None, schema(of_key)) == {"key": value}


@pytest.mark.parametrize("of_key", OTHERS, ids=repr)
def test_what_is_no_json_is_passed_on_for_the_tool_to_judge(of_key: Any) -> None:
    assert typed_arguments(["key=north by north-west"], None, schema(of_key)) == {"key": "north by north-west"}


def test_a_value_may_have_an_equals_sign_in_it_and_may_be_empty() -> None:
    assert typed_arguments(["a=b=c", "d="], None, {}) == {"a": "b=c", "d": ""}


def test_one_object_is_taken_instead_also_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": [1]}'))

    assert typed_arguments([], '{"a": "1"}', schema({})) == {"a": "1"}
    assert typed_arguments([], "-", schema({})) == {"a": [1]}


@pytest.mark.parametrize(
    ("pairs", "text", "told"),
    [
        (["key"], None, "expected KEY=VALUE"),
        (["=value"], None, "expected KEY=VALUE"),
        (["a=1", "a=2"], None, "a is there twice"),
        (["a=1"], "{}", "leave one out"),
        ([], "{", "not JSON"),
        ([], "[1]", "a JSON object"),
    ],
)
def test_what_is_neither_is_refused(pairs: list[str], text: str | None, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        typed_arguments(pairs, text, {})
