"""A grammar lets through what fits a schema's shape, nothing else, and there is one for whatever a tool brings along.

Checked by a small interpreter of llama.cpp's notation, which knows as much of it as is used.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine.llm.providers.tool_grammar import tool_call_grammar

TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^]\\]|\\.)*\]|\{\d+,\d+\}|[a-z][a-z0-9]*|[()|*?]')


class Grammar:
    """Accepts texts. Every position is followed at most once, so a rule that begins with itself would not end."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Any] = {}
        for line in text.splitlines():
            name, body = line.split(" ::= ", 1)
            assert not TOKENS.sub("", body).strip(), f"not understood: {line}"
            self.rules[name] = self._alternatives(TOKENS.findall(body)[::-1])

    def accepts(self, text: str) -> bool:
        return len(text) in self._ends(self.rules["root"], text, {0})

    def _alternatives(self, tokens: list[str]) -> Any:
        sequences: list[list[Any]] = [[]]
        while tokens and tokens[-1] != ")":
            token = tokens.pop()
            if token == "|":
                sequences.append([])
            elif token == "(":
                sequences[-1].append(self._alternatives(tokens))
                assert tokens.pop() == ")"
            elif token[0] in "*?{":
                sequences[-1].append((token, sequences[-1].pop()))
            else:
                sequences[-1].append(token)
        return sequences

    def _ends(self, node: Any, text: str, starts: set[int]) -> set[int]:
        if not starts:
            return set()
        if isinstance(node, list):
            ends: set[int] = set()
            for sequence in node:
                reached = starts
                for part in sequence:
                    reached = self._ends(part, text, reached)
                ends |= reached
            return ends
        if isinstance(node, tuple):
            times, part = node
            least, most = (0, 1) if times == "?" else (0, len(text)) if times == "*" else json.loads(f"[{times[1:-1]}]")
            ends = starts if least == 0 else set()
            reached = starts
            for count in range(1, most + 1):
                reached = self._ends(part, text, reached) - (ends if count > least else set())
                if not reached:
                    break
                if count >= least:
                    ends = ends | reached
            return ends
        if node[0] == '"':
            literal = json.loads(node)
            return {start + len(literal) for start in starts if text.startswith(literal, start)}
        if node[0] == "[":
            return {start + 1 for start in starts if start < len(text) and re.match(node, text[start])}
        return self._ends(self.rules[node], text, starts)


def tool(parameters: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def accepts(parameters: Any, arguments: Any) -> bool:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Grammar(tool_call_grammar([tool(parameters)], [])).accepts(f'{{"tool": "f", "arguments": {text}}}')


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)
LITERAL = st.text(st.characters(codec="ascii", exclude_characters="\x7f"), max_size=5)  # others are spelt with escapes
SCALARS = st.one_of(
    TEXT.map(lambda value: ({"type": "string", "minLength": 99, "pattern": "^(?=a)["}, value)),
    st.integers(-(10**15), 10**15).map(lambda value: ({"type": "integer", "minimum": 0}, value)),
    st.integers(-(10**6), 10**6).map(lambda value: ({"type": "number"}, value / 8)),
    st.booleans().map(lambda value: ({"type": "boolean"}, value)),
    st.just(({"type": "null"}, None)),
    st.lists(LITERAL | st.integers() | st.none(), min_size=1).map(lambda values: ({"enum": values}, values[-1])),
    LITERAL.map(lambda value: ({"const": {"a\n": value}}, {"a\n": value})),
    st.tuples(TEXT, st.integers(0, 9)).map(lambda pair: ({}, {"any": [*pair, None, {}, True, -0.5]})),
)


@st.composite
def arrays(draw: st.DrawFn, children: st.SearchStrategy[tuple[Any, Any]]) -> tuple[Any, Any]:
    schema, value = draw(children)
    return {"type": "array", "items": schema}, [value] * draw(st.integers(0, 3))


@st.composite
def unions(draw: st.DrawFn, children: st.SearchStrategy[tuple[Any, Any]]) -> tuple[Any, Any]:
    options = draw(st.lists(children, min_size=1, max_size=3))
    return {draw(st.sampled_from(["anyOf", "oneOf"])): [schema for schema, _ in options]}, options[0][1]


@st.composite
def objects(draw: st.DrawFn, children: st.SearchStrategy[tuple[Any, Any]]) -> tuple[Any, Any]:
    members = draw(st.dictionaries(LITERAL, children, max_size=5))
    required = [name for name in members if draw(st.booleans())]
    optional = [name for name in members if name not in required and draw(st.booleans())]
    schema = {
        "type": "object",
        "properties": {name: member for name, (member, _) in members.items()},
        "required": required,
    }
    return schema, {name: members[name][1] for name in [*required, *optional]}


SCHEMAS = st.recursive(SCALARS, lambda children: arrays(children) | unions(children) | objects(children), max_leaves=6)


@given(SCHEMAS)
def test_whatever_fits_a_schema_can_be_said(schema_and_value: tuple[Any, Any]) -> None:
    schema, value = schema_and_value
    assert accepts(an_object(x=schema), {"x": value})


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "string"}, 1),
        ({"type": "string"}, '{"x": "a\nb"}'),
        ({"type": "string"}, '{"x": "a"b"}'),
        ({"type": "integer"}, 1.5),
        ({"type": "integer"}, '{"x": 007}'),
        ({"type": "boolean"}, None),
        ({"type": ["integer", "null"]}, "one"),
        ({"enum": ["a", "b"]}, "c"),
        ({"type": "array", "items": {"type": "integer"}}, ["a"]),
        (an_object(a={"type": "integer"}), {}),
        (an_object(a={"type": "integer"}), {"a": 1, "b": 2}),
        ({"type": "object", "additionalProperties": False}, {"a": 1}),
        ({"$ref": "#/properties/y"}, "text"),
    ],
)
def test_what_does_not_fit_cannot_be_said(schema: Any, wrong: Any) -> None:
    parameters = an_object(x=schema) | {"required": ["x"]}
    parameters["properties"]["y"] = {"type": "integer"}

    assert not accepts(parameters, wrong if isinstance(wrong, str) and wrong.startswith("{") else {"x": wrong})


def test_optional_members_may_be_left_out_but_keep_their_order() -> None:
    optional = {"type": "object", "properties": {name: {"type": "integer"} for name in "abc"}}

    for some in ({}, {"a": 1}, {"b": 1}, {"c": 1}, {"a": 1, "c": 1}, {"b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}):
        assert accepts(optional, some)
    assert not accepts(optional, {"c": 1, "a": 1})
    assert not accepts(optional, "{, }")
    assert accepts(optional | {"required": ["c"]}, {"c": 1, "a": 1})
    assert not accepts(optional | {"required": ["c"]}, {"a": 1})


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}])
def test_a_tool_without_parameters_gets_no_arguments(parameters: Any) -> None:
    assert accepts(parameters, {})
    assert not accepts(parameters, {"a": 1})


def test_references_are_followed_also_in_a_circle() -> None:
    tree = an_object(name={"type": "string"}) | {"title": "Tree"}
    tree["properties"]["parts"] = {"type": "array", "items": {"$ref": "#/$defs/a~1b%20c"}}
    parameters = an_object(tree={"$ref": "#/$defs/a~1b%20c"}) | {"$defs": {"a/b c": tree}}

    assert accepts(parameters, {"tree": {"name": "root", "parts": [{"name": "leaf"}, {"name": "twig", "parts": []}]}})
    assert not accepts(parameters, {"tree": {"name": "root", "parts": [{}]}})


DEEP: Any = {"type": "string"}
for _ in range(2000):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "definitions"),
    [
        ({"$ref": "#/nowhere"}, {}),
        ({"$ref": "https://example.com/schema.json"}, {}),
        ({"$ref": "#/$defs/a"}, {"a": {"$ref": "#/$defs/a"}}),
        ({"$ref": "#/$defs/a"}, {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}),
        ({"$ref": 5}, {}),
        ({"type": "nonsense"}, {}),
        ({"type": {"a": 1}}, {}),
        ({"type": "object", "properties": ["a"]}, {}),
        ({"enum": 3}, {}),
        ({"const": object()}, {}),
        ({"anyOf": "ab"}, {}),
        ("string", {}),
        (True, {}),
        pytest.param(DEEP, {}, id="deep"),
    ],
)
def test_a_schema_that_makes_no_sense_gives_an_object_of_some_shape(schema: Any, definitions: dict[str, Any]) -> None:
    assert accepts({"type": "object", "properties": {"x": schema}, "$defs": definitions}, {"x": {"any": "thing"}})


def test_one_senseless_tool_leaves_the_others_their_shape() -> None:
    tools = [tool({"properties": {"x": 1}}, "bad"), tool(an_object(n={"type": "integer"}), "good")]
    grammar = Grammar(tool_call_grammar(tools, ["greet"]))

    assert grammar.accepts('{"tool": "bad", "arguments": {"y": []}}')
    assert grammar.accepts('{"tool": "good", "arguments": {"n": 1}}')
    assert not grammar.accepts('{"tool": "good", "arguments": {"y": []}}')
    assert grammar.accepts('{"tool": "greet"')
    assert not grammar.accepts('{"tool": "other"')


def test_names_may_have_quotes_and_backslashes_in_them() -> None:
    name = 'a"b\\c\nd'
    grammar = Grammar(tool_call_grammar([tool(an_object(**{name: {"const": name}}), name)], []))

    assert grammar.accepts(json.dumps({"tool": name, "arguments": {name: name}}))
