"""A JSON schema as chat completions servers take it: strict where the schema allows for it.

Strict means that the server binds the model to the schema, for which it takes a part of JSON Schema only: every object
lists its properties, all of them required, and no others. (OpenAI, "Structured Outputs: supported schemas".)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmgine.llm.types import JSONSchema

__all__ = ["response_format"]

_UNSUPPORTED = {
    "allOf", "not", "oneOf", "if", "then", "else", "default", "dependentRequired", "dependentSchemas",
    "patternProperties", "prefixItems", "unevaluatedProperties", "uniqueItems",
}  # fmt: skip


def response_format(form: JSONSchema) -> dict[str, Any]:
    """Return the `response_format` of a request."""
    closed = _closed(form.schema)
    strict = closed is not None and closed.get("type") == "object"
    schema = closed if strict else dict(form.schema)
    return {"type": "json_schema", "json_schema": {"name": form.name, "schema": schema, "strict": strict}}


def _closed(schema: Any) -> dict[str, Any] | None:
    """Return a schema whose objects have no further properties; None if strictness does not allow for it."""
    if not isinstance(schema, Mapping) or not _UNSUPPORTED.isdisjoint(schema):
        return None
    closed: dict[str, Any] = dict(schema)
    if "properties" in schema or schema.get("type") == "object":
        properties = schema.get("properties") or {}
        others = schema.get("additionalProperties", False)
        if not properties or others is not False or set(schema.get("required", ())) != set(properties):
            return None
        closed["additionalProperties"] = False
    for key in ("properties", "$defs", "definitions"):
        if key in schema:
            members = {name: _closed(member) for name, member in schema[key].items()}
            if None in members.values():
                return None
            closed[key] = members
    if "anyOf" in schema:
        options = [_closed(option) for option in schema["anyOf"]]
        if None in options:
            return None
        closed["anyOf"] = options
    if "items" in schema and (items := _closed(schema["items"])) is not None:
        closed["items"] = items
    elif schema.get("type") == "array":
        return None
    return closed
