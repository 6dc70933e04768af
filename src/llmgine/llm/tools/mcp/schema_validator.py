"""Arguments checked against the JSON Schema that a server gives for them."""

from __future__ import annotations

import reprlib
from functools import cached_property
from types import NoneType
from typing import Any

from llmgine.errors import ToolValidationError

__all__ = ["SchemaValidator"]

_MAX_PROBLEMS = 10
_TYPES = {
    "string": frozenset({str}),
    "integer": frozenset({int}),
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
    "null": frozenset({NoneType}),
}
"""Values of exactly these types fit, whatever the draft."""
_OF_ONE = frozenset({"type", "title", "description", "default", "examples", "$comment"})
"""What a schema may say of an argument of which it asks a type only."""
_OF_ALL = _OF_ONE | {"properties", "required", "additionalProperties", "$schema"}


class SchemaValidator:
    """By JSON Schema 2020-12, or the draft that the schema names. What is not in the schema is never fetched."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as they are.

        Raises:
            ToolValidationError: saying of every argument that does not fit what was expected and what came; or that the
                schema itself cannot be used.
        """
        validator = self._validator
        if self._fits_plainly(arguments):
            return arguments
        try:
            errors = list(validator.iter_errors(arguments))
        except _unresolvable() as exc:
            msg = f"the tool's schema refers to {exc.ref!r}, which is not in it, and nothing is fetched from elsewhere"
            raise ToolValidationError(msg) from exc
        if errors:
            errors.sort(key=lambda error: list(map(str, error.path)))
            problems = [_explain(error) for error in errors[:_MAX_PROBLEMS]]
            if len(errors) > _MAX_PROBLEMS:
                problems.append(f"and {len(errors) - _MAX_PROBLEMS} more")
            raise ToolValidationError("\n- ".join(["the arguments do not fit:", *problems]))
        return arguments

    def _fits_plainly(self, arguments: dict[str, Any]) -> bool:
        """Return True where it is plain that they fit, as it mostly is: to see that takes a tenth of a check's time."""
        if self._plain is None:
            return False
        types, required = self._plain
        fit = all(type(value) in types.get(key, ()) for key, value in arguments.items())
        return fit and required.issubset(arguments)

    @cached_property
    def _plain(self) -> tuple[dict[str, frozenset[type]], frozenset[str]] | None:
        """The types of the arguments of which the schema asks nothing else, and the names of those that must be there.

        None if it asks anything of all of them together.
        """
        required = self._schema.get("required", [])
        together = _OF_ALL.issuperset(self._schema) and self._schema.get("type", "object") == "object"
        if not (together and isinstance(required, list)):  # in draft 3 it is none
            return None
        types = {
            key: _TYPES[asked["type"]]
            for key, asked in self._schema.get("properties", {}).items()
            if isinstance(asked, dict) and _OF_ONE.issuperset(asked) and asked.get("type") in list(_TYPES)
        }
        return types, frozenset(required)

    @cached_property
    def _validator(self) -> Any:
        # Making one takes longer than a hundred checks, and most tools are never called.
        from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]
        from jsonschema.validators import validator_for  # type: ignore[import-untyped]
        from referencing import Registry

        kind: Any = validator_for(self._schema, default=Draft202012Validator)
        try:
            kind.check_schema(self._schema)
        except SchemaError as exc:
            msg = f"the tool's schema is no JSON Schema: {exc.message}"
            raise ToolValidationError(msg) from exc
        return kind(self._schema, registry=Registry())


def _unresolvable() -> Any:
    from referencing.exceptions import Unresolvable

    return Unresolvable


def _explain(error: Any) -> str:
    place = ".".join(map(str, error.path))
    message = str(error.message)
    if len(message) > 300:  # it quotes the value
        message = (
            f"{reprlib.repr(error.instance)} does not fit {error.validator!r}: {reprlib.repr(error.validator_value)}"
        )
    return f"{place}: {message}" if place else message
