"""From a function to what a model is told about it: its parameters, and their JSON schema."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from llmgine.errors import ToolRegistrationError

__all__ = ["definition_of", "json_schema", "parameters_of"]


def definition_of(function: Callable[..., Any]) -> Any:
    """Return the `def` behind decorators, methods and callable objects: it has the docstring and the namespace."""
    undecorated: Any = inspect.unwrap(function)
    return undecorated if inspect.isroutine(undecorated) else inspect.unwrap(undecorated.__call__)


def parameters_of(function: Callable[..., Any], namespace: Mapping[str, Any]) -> list[inspect.Parameter]:
    """Return the parameters that a model fills in, names of types replaced by the types in the namespace.

    What a partial has bound stays out: it is the application's, and may be a secret.

    Raises:
        ToolRegistrationError: a parameter cannot be filled in by name, or its annotation cannot be resolved.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as exc:
        raise ToolRegistrationError(
            f"it has no readable signature ({exc}). Wrap it in a function of your own."
        ) from exc
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return [_resolved(parameter, namespace) for name, parameter in parameters.items() if name not in bound]


def _resolved(parameter: inspect.Parameter, namespace: Mapping[str, Any]) -> inspect.Parameter:
    if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
        raise ToolRegistrationError(
            f"its parameter '{parameter}' is {parameter.kind.description}, and a model can only fill in parameters "
            "by name. Give it named parameters, or wrap it in a function that has them."
        )
    if parameter.annotation is parameter.empty:
        if parameter.name in {"self", "cls"}:
            raise ToolRegistrationError("it is a method without its object. Register the method of an instance.")
        return parameter
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = get_type_hints(holder, dict(namespace), include_extras=True)
    except Exception as exc:  # an annotation is an expression of the application: evaluating it may raise anything
        raise ToolRegistrationError(
            f"the annotation of its parameter {parameter} cannot be resolved ({exc}). "
            "Import or define the type at the top of the module that defines the function."
        ) from exc
    return parameter.replace(annotation=hints[parameter.name])


def json_schema(adapter: TypeAdapter[Any], descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON schema of a function's arguments. A description in the annotation goes before one given here."""
    schema = adapter.json_schema(schema_generator=_Generator)
    for name, described in schema["properties"].items():
        if name in descriptions:
            described.setdefault("description", descriptions[name])
    definitions = schema.pop("$defs", {})
    enums = {f"#/$defs/{name}": definition for name, definition in definitions.items() if "enum" in definition}
    models = {name: definition for name, definition in definitions.items() if "enum" not in definition}
    inlined: dict[str, Any] = _inline({**schema, "$defs": models} if models else schema, enums)
    return inlined


class _Generator(GenerateJsonSchema):
    # A default that JSON cannot express is left out, which needs no warning: the function still has it.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as pydantic declares it

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False  # "City" as the title of `city` tells a model nothing

    def literal_schema(self, schema: Any) -> dict[str, Any]:
        described = super().literal_schema(schema)
        if "const" in described:  # some providers know "enum" only
            described["enum"] = [described.pop("const")]
        return described


def _inline(node: Any, definitions: Mapping[str, dict[str, Any]]) -> Any:
    """Replace references to the definitions by the definitions: models read a list of values better in place."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _inline(value, definitions) for key, value in node.items()}
    definition = definitions.get(str(node.get("$ref")))
    if definition is None:
        return node
    del node["$ref"]
    return {key: value for key, value in definition.items() if key != "title"} | node
