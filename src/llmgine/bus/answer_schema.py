"""Reading a form from the part of JSON Schema that MCP describes forms with.

Whoever made the schema may be a stranger: what is not of this kind is refused, and nothing in it is executed, not even
a regular expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmgine.bus.answer_form import AnswerForm, Choice, FieldType, FormField
from llmgine.errors import ConfigurationError

__all__ = ["form_of"]

_MOST_FIELDS = 100
_MOST_CHOICES = 1000
_LARGEST = 1e300
"""Of limits that can be told."""
_LIMITS = {
    FieldType.STRING: ("minLength", "maxLength"),
    FieldType.ARRAY: ("minItems", "maxItems"),
    FieldType.INTEGER: ("minimum", "maximum"),
    FieldType.NUMBER: ("minimum", "maximum"),
    FieldType.BOOLEAN: ("", ""),
}


def form_of(schema: Mapping[str, Any]) -> AnswerForm:
    """Return the form that a JSON schema describes: an object whose properties are flat.

    Strings may have `format`, `minLength` and `maxLength`, numbers their limits; choices are written with `enum`, with
    `enumNames` beside it, or with `oneOf` (in arrays `items.anyOf`) and `const` and `title`. Defaults that do not fit
    are left out.

    Raises:
        ConfigurationError: it describes something else.
    """
    properties: Any = schema.get("properties", {})
    required: Any = schema.get("required") or []
    if schema.get("type") != "object" or not isinstance(properties, dict) or not isinstance(required, list):
        msg = 'The schema of an answer must be that of an object: {"type": "object", "properties": {…}}.'
        raise ConfigurationError(msg)
    fields: dict[Any, Any] = properties
    if len(fields) > _MOST_FIELDS:
        msg = f"The schema of an answer must have {_MOST_FIELDS} properties at most; it has {len(fields)}."
        raise ConfigurationError(msg)
    return AnswerForm(tuple(_field(name, each, required=name in required) for name, each in fields.items()))


def _field(name: Any, schema: Any, *, required: bool) -> FormField:
    try:
        kind = FieldType(schema["type"])
        several = kind is FieldType.ARRAY
        numeric = kind in {FieldType.INTEGER, FieldType.NUMBER}
        least, most = _LIMITS[kind]
        field = FormField(
            name=name,
            type=kind,
            title=_text(schema.get("title")),
            description=_text(schema.get("description")),
            required=required,
            choices=_choices(schema["items"] if several else schema),
            format=_text(schema.get("format")) if kind is FieldType.STRING else "",
            at_least=_limit(schema.get(least)),
            at_most=_limit(schema.get(most)),
            above=_limit(schema.get("exclusiveMinimum")) if numeric else None,
            below=_limit(schema.get("exclusiveMaximum")) if numeric else None,
        )
        if not isinstance(name, str) or (several and not field.choices):
            raise TypeError  # noqa: TRY301  # said below, once
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = (
            f"The schema of an answer cannot have the property {name!r} as it is. Expected a string, a number, an "
            "integer or a boolean, or an array of choices, without anything nested."
        )
        raise ConfigurationError(msg) from error
    default = schema.get("default")
    return field if default is None or field.problem(default) else replace(field, default=default)


def _choices(schema: Any) -> tuple[Choice, ...]:
    titled = schema.get("oneOf", schema.get("anyOf"))
    if titled is not None:
        pairs = [(each["const"], each.get("title")) for each in titled]
    else:
        values: list[Any] = schema.get("enum", [schema["const"]] if "const" in schema else [])
        pairs = [*zip(values, schema.get("enumNames") or [None] * len(values), strict=True)]
    if len(pairs) > _MOST_CHOICES or not all(isinstance(value, str | int | float) for value, _ in pairs):
        raise ValueError
    return tuple(Choice(value, _text(title) or str(value)) for value, title in pairs)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _limit(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST else None
