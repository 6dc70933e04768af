"""Parameters that the application fills in and no model ever sees."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from llmgine.errors import ConfigurationError, ToolRegistrationError
from llmgine.llm.tools.tool_context import ToolContext

__all__ = ["Dependencies", "Inject", "injected_parameters"]

Factory = Callable[[ToolContext], Any | Awaitable[Any]]


class Inject:
    """Marks a parameter that gets what the application provides: `database: Annotated[Database, Inject]`."""


def injected_parameters(parameters: Iterable[inspect.Parameter]) -> dict[str, Any]:
    """Return, by the name of the parameter, the types of what is to be injected.

    Args:
        parameters: whose annotations are types and not the names of types.
    """
    kinds = {parameter.name: _injected(parameter.annotation) for parameter in parameters}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _injected(annotation: Any) -> Any:
    """Return the type that is to be injected, or None if it is for the model to fill in."""
    marked = False
    while get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        marked = marked or any(item is Inject or isinstance(item, Inject) for item in metadata)
    if get_origin(annotation) in {Union, UnionType}:
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        if len(kinds) == 1:
            annotation = kinds[0]
    return annotation if marked or annotation is ToolContext else None


class Dependencies:
    """What an application provides, by its type."""

    def __init__(self) -> None:
        self._factories: dict[Any, Factory] = {ToolContext: lambda context: context}

    def provide(self, kind: Any, value: Any = None, *, factory: Factory | None = None) -> None:
        """Say what parameters of a type get: a value, or what a factory makes of the context of each attempt.

        Raises:
            ConfigurationError: both are given or neither, or something is provided for this type already.
        """
        if (value is None) is (factory is None):
            msg = f"Provide either a value for {_name(kind)}, or factory=."
            raise ConfigurationError(msg)
        if kind in self._factories:
            msg = f"There is something for {_name(kind)} already, and it can be provided only once."
            raise ConfigurationError(msg)
        self._factories[kind] = factory or (lambda _: value)

    def check(self, injected: Mapping[str, Any], signature: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
        """Return those of the injected that are provided; the others have defaults of their own.

        Raises:
            ToolRegistrationError: nothing is provided for one that has no default.
        """
        for name, kind in injected.items():
            if kind not in self._factories and signature[name].default is inspect.Parameter.empty:
                msg = (
                    f"nothing is provided for its parameter '{name}'. "
                    f"Call provide({_name(kind)}, …) before it is registered."
                )
                raise ToolRegistrationError(msg)
        return {name: kind for name, kind in injected.items() if kind in self._factories}

    async def values(self, injected: Mapping[str, Any], context: ToolContext) -> dict[str, Any]:
        """Return, by the name of the parameter, what a call gets. Raises what a factory raises."""
        values: dict[str, Any] = {}
        for name, kind in injected.items():
            value = self._factories[kind](context)
            values[name] = await value if inspect.isawaitable(value) else value
        return values


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
