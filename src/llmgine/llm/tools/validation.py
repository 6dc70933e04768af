"""A model's arguments, made to fit what a function's annotations ask for, or an error that the model can act on."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from llmgine.errors import ToolValidationError

__all__ = ["ArgumentValidator", "coerce_value", "decode_arguments"]

_MAX_PROBLEMS = 10


class ArgumentValidator:
    """Checks arguments against parameters, whose annotations must be types and not the names of types.

    Lax, as models are: "5" fits an int, 5 fits a str, "true" fits a bool, and an Enum takes its members' names too.
    """

    def __init__(self, parameters: Iterable[inspect.Parameter]) -> None:
        keywords = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_accepting(parameter))
            for parameter in parameters
        ]

        # A function, where a model class would refuse parameters such as `_id`, `copy` or `model_config`.
        def collect(**arguments: Any) -> dict[str, Any]:
            return arguments

        function: Any = collect
        function.__signature__ = inspect.Signature(keywords)
        function.__annotations__ = {keyword.name: keyword.annotation for keyword in keywords}
        self._names = [keyword.name for keyword in keywords]
        self.adapter: TypeAdapter[Any] = TypeAdapter(function, config=ConfigDict(coerce_numbers_to_str=True))

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return decoded JSON as keyword arguments, defaults filled in.

        Raises:
            ToolValidationError: saying of every argument that does not fit what was expected and what came.
        """
        # As JSON, because a strict type takes a date or a tuple from JSON that it would not take from Python.
        return self._explaining(self.adapter.validate_json, to_json(arguments))

    def validate_python(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do the same with Python objects."""
        return self._explaining(self.adapter.validate_python, arguments)

    def _explaining(self, validate: Callable[[Any], Any], arguments: Any) -> dict[str, Any]:
        try:
            return dict(validate(arguments))
        except ValidationError as exc:
            raise ToolValidationError(_explain(exc, self._names)) from exc


def decode_arguments(arguments: str) -> dict[str, Any]:
    """Return a tool call's arguments as a dict. Nothing at all means no arguments, and JSON in JSON is understood.

    Raises:
        ToolValidationError: they are not the JSON text of an object.
    """
    value: Any = arguments
    for _ in range(2):
        if isinstance(value, str):
            try:
                value = from_json(value.encode()) if value.strip() else None
            except ValueError as exc:
                raise ToolValidationError(
                    f"the arguments are not valid JSON ({exc}). Send one JSON object, such as {{}}."
                ) from exc
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ToolValidationError(
            f'the arguments must be one JSON object, not {reprlib.repr(value)}. Name them: {{"name": value}}.'
        )
    return value


def coerce_value(value: Any, annotation: Any) -> Any:
    """Return a value as the annotated type: "5" as an int, "true" as a bool, "blue" as the Enum's member.

    Raises:
        ToolValidationError: it does not fit.
    """
    parameter = inspect.Parameter("value", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    return ArgumentValidator([parameter]).validate_python({"value": value})["value"]


def _accepting(parameter: inspect.Parameter) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    annotation = _with_member_names(parameter.annotation)
    # `limit: int = None` means an optional int, and its schema tells the model so.
    return annotation | None if parameter.default is None else annotation


def _with_member_names(annotation: Any) -> Any:
    """Return the annotation such that its Enums also take their members' names."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Annotated[annotation, BeforeValidator(_member_lookup(annotation))]
    origin, arguments = get_origin(annotation), get_args(annotation)
    replaced = tuple(_with_member_names(argument) for argument in arguments)
    if origin is None or origin is Literal or replaced == arguments:
        return annotation
    return Union[replaced] if origin in {Union, UnionType} else origin[replaced]  # noqa: UP007  # made at run time


def _member_lookup(enum: type[Enum]) -> Callable[[Any], Any]:
    members = enum.__members__
    spellings = {
        **{name.casefold(): member for name, member in members.items()},
        **members,
        **{str(member.value): member for member in members.values()},
    }

    def look_up(given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return spellings.get(given, spellings.get(given.casefold(), given))

    return look_up


def _explain(error: ValidationError, names: list[str]) -> str:
    problems: list[str] = []
    for item in error.errors(include_url=False):
        # A part with a bracket is not a place in the arguments: it names the branch of a union.
        place = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
        if item["type"] in {"missing", "missing_keyword_only_argument"}:
            problems.append(f"{place}: required, but missing")
        elif item["type"] == "unexpected_keyword_argument":
            problems.append(f"{place}: unknown argument; known are: {', '.join(names) or 'none'}")
        else:
            problems.append(f"{place}: {item['msg']}; got {reprlib.repr(item['input'])}")
    if len(problems) > _MAX_PROBLEMS:
        problems[_MAX_PROBLEMS:] = [f"and {len(problems) - _MAX_PROBLEMS} more"]
    return "\n- ".join(["the arguments do not fit:", *problems])
