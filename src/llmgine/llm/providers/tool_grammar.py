"""From JSON schemas to a grammar in llama.cpp's notation (GBNF), so that a small model cannot leave the format.

A grammar binds the shape of a value: its members, their types, what may be chosen. Lengths, ranges and patterns are
left to whoever validates the arguments; a tool whose schema makes no sense gets an object of any shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from llmgine.llm.types import ModelFormattedDictTool

__all__ = ["json_grammar", "tool_call_grammar"]

# No \u escapes and no optional blanks: every value has one spelling, so the model has nothing to get lost in.
_BASICS = {
    "value": 'object | array | string | number | boolean | "null"',
    "object": r'"{" (string ": " value (", " string ": " value)*)? "}"',
    "array": r'"[" (value (", " value)*)? "]"',
    "string": r'"\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""',
    "number": 'integer ("." [0-9]{1,15})?',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "boolean": '"true" | "false"',
}
_NOTHING_OPEN: frozenset[str] = frozenset()


def tool_call_grammar(tools: Iterable[ModelFormattedDictTool], alternatives: Sequence[str]) -> str:
    """Return the grammar of `{"tool": NAME, "arguments": {…}}`.

    Args:
        tools: those that may be called.
        alternatives: names that may stand in place of a tool's; the text ends after such a name.
    """
    rules = dict(_BASICS)
    choices = [_literal(name) for name in alternatives]
    for tool in tools:
        function = tool["function"]
        arguments = _arguments(function.get("parameters"), rules)
        choices.append(f'{_literal(function["name"])} ", \\"arguments\\": " {arguments} "}}"')
    rules["root"] = f'"{{\\"tool\\": " ({" | ".join(choices)})'
    return "".join(f"{name} ::= {body}\n" for name, body in rules.items())


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of a JSON text that fits a schema, in the same bounds."""
    rules = dict(_BASICS)
    root = _value(schema, rules)
    return "".join(f"{name} ::= {body}\n" for name, body in (rules | {"root": root}).items())


def _arguments(parameters: Any, rules: dict[str, str]) -> str:
    if not parameters or not (parameters.get("properties") or parameters.get("$ref")):
        return '"{}"'
    return _value(parameters, rules)


def _value(of: Any, rules: dict[str, str]) -> str:
    schema = _Schema(of, dict(rules))
    try:
        rule = schema.value(of, _NOTHING_OPEN)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return "object"  # it is no JSON schema, or one nested beyond reason
    rules |= schema.rules
    return rule


class _Schema:
    """The rules of one schema."""

    def __init__(self, root: Mapping[str, Any], rules: dict[str, str]) -> None:
        self.rules = rules
        self._root = root
        self._referenced: dict[str, str] = {}

    def value(self, schema: Any, open_: frozenset[str]) -> str:  # noqa: PLR0911  # one for each form of schema
        """Return an expression for a value. No text separates it from the references in `open_`."""
        if schema is True or not schema:
            return "value"
        if "$ref" in schema:
            return self._reference(schema["$ref"], open_)
        if "const" in schema:
            return _literal(schema["const"])
        if schema.get("enum"):
            return self._rule(" | ".join(_literal(option) for option in schema["enum"]))
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self._rule(" | ".join(self.value(option, open_) for option in options))
        if len(schema.get("allOf", ())) == 1:
            return self.value(schema["allOf"][0], open_)
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            return self._rule(" | ".join(self.value({**schema, "type": one}, open_) for one in kind))
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            item = self.value(schema.get("items"), _NOTHING_OPEN)
            return self._rule(f'"[" ({item} (", " {item})*)? "]"')
        if kind == "null":
            return '"null"'
        return kind if kind in _BASICS else "value"

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        if not properties:
            return '"{}"' if schema.get("additionalProperties") is False else "object"
        required = [name for name in properties if name in schema.get("required", ())]
        optional = [name for name in properties if name not in required]
        members = {
            name: f'"{_escape(json.dumps(name))}: " {self.value(properties[name], _NOTHING_OPEN)}'
            for name in properties
        }
        rest = ""
        firsts: list[str] = []
        for name in reversed(optional):
            firsts.insert(0, f"{members[name]} {rest}")
            rest = self._rule(f'(", " {members[name]})? {rest}')
        if required:
            inside = ' ", " '.join(members[name] for name in required) + f" {rest}"
        else:
            inside = f"({' | '.join(firsts)})?"
        return self._rule(f'"{{" {inside} "}}"')

    def _reference(self, pointer: str, open_: frozenset[str]) -> str:
        """Follow a JSON pointer (RFC 6901) within the schema; anything else stands for any value."""
        if pointer in open_ or not pointer.startswith("#"):
            return "value"  # a circle without any text in it has no meaning
        if pointer not in self._referenced:
            self._referenced[pointer] = name = self._rule("")
            target: Any = self._root
            for step in unquote(pointer[1:]).split("/")[1:]:
                key = step.replace("~1", "/").replace("~0", "~")
                target = target[int(key)] if isinstance(target, list) else target[key]
            self.rules[name] = self.value(target, open_ | {pointer})
        return self._referenced[pointer]

    def _rule(self, body: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name


def _literal(value: Any) -> str:
    return f'"{_escape(json.dumps(value))}"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
