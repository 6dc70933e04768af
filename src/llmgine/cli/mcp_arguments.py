"""The arguments of a tool's call, as they are typed: `KEY=VALUE`, or one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from llmgine.errors import ConfigurationError

__all__ = ["typed_arguments"]


def typed_arguments(pairs: Sequence[str], text: str | None, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call. Whether the tool takes them is not looked at here.

    Args:
        pairs: each `KEY=VALUE`. The value is a text where the schema has one, or else JSON if it is that.
        text: all of them as a JSON object instead; `-` reads it from standard input.
        schema: of the tool's arguments.

    Raises:
        ConfigurationError: they are neither, or both.
    """
    if text is not None:
        if pairs:
            msg = "--args and KEY=VALUE are two ways to say the same: leave one out"
            raise ConfigurationError(msg)
        return _object(sys.stdin.read() if text == "-" else text)
    properties = schema.get("properties")
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            msg = f"{pair}: expected KEY=VALUE"
            raise ConfigurationError(msg)
        if key in arguments:
            msg = f"{key} is there twice; a list is written as JSON: {key}='[…, …]'"
            raise ConfigurationError(msg)
        property_schema = properties.get(key) if isinstance(properties, Mapping) else None
        arguments[key] = value if _takes_text(property_schema) else _read(value)
    return arguments


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        msg = f"--args: not JSON: {error}"
        raise ConfigurationError(msg) from error
    if not isinstance(found, dict):
        msg = '--args: expected a JSON object: {"key": "value"}'
        raise ConfigurationError(msg)
    return found


def _takes_text(schema: Any) -> bool:
    """Return whether a value may be a text, by what its schema says outright."""
    if not isinstance(schema, Mapping):
        return False
    kinds = schema.get("type")
    if kinds is not None:
        return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    return any(map(_takes_text, choices)) or any(isinstance(value, str) for value in values)


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
