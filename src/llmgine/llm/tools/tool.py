"""A tool: a function with its description, ready to be called with what a model sends."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from llmgine.errors import ToolExecutionError, ToolRegistrationError
from llmgine.llm.tools.docstring import parse_docstring
from llmgine.llm.tools.schema import definition_of, json_schema, parameters_of
from llmgine.llm.tools.threads import run_in_thread
from llmgine.llm.tools.validation import ArgumentValidator
from llmgine.llm.types import ModelFormattedDictTool

__all__ = ["Parameter", "Tool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool, as a model sees it."""

    name: str
    description: str
    required: bool
    json_schema: dict[str, Any]
    """It may refer to the `$defs` of the tool's."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    function: Callable[..., Any]
    timeout: float | None
    """Seconds that one call may take; None leaves it to the manager."""
    json_schema: dict[str, Any]
    """Of the arguments: `{"type": "object", "properties": …}`."""
    validator: ArgumentValidator

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout: float | None = None,
    ) -> Tool:
        """Read a tool from a function's signature, type hints and docstring.

        Functions, methods, partials and callable objects, sync or async, will do.

        Raises:
            ToolRegistrationError: the function cannot be a tool; the message says why, and what to do.
        """
        if inspect.isclass(function) or not callable(function):
            raise ToolRegistrationError(f"{function!r} cannot be a tool: it is not a function. Register a function.")
        original = function
        while isinstance(original, functools.partial):
            original = original.func
        name = name or str(getattr(original, "__name__", ""))
        if not _NAME.fullmatch(name):
            raise ToolRegistrationError(
                f"{function!r} cannot be a tool: its name {name!r} is not made of 1 to 64 letters, digits, '_' or '-'. "
                "Give it another one with name=."
            )
        if timeout is not None and not timeout > 0:
            raise ToolRegistrationError(
                f"'{name}' cannot be a tool: its timeout must be above 0 seconds, not {timeout!r}."
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ToolRegistrationError(f"'{name}' cannot be a tool: it is a generator. Return a list instead.")
        definition = definition_of(original)
        summary, told = parse_docstring(inspect.cleandoc(definition.__doc__ or original.__doc__ or ""))
        try:
            validator = ArgumentValidator(parameters_of(function, getattr(definition, "__globals__", {})))
            schema = json_schema(validator.adapter, told)
        except ToolRegistrationError as exc:
            raise ToolRegistrationError(f"'{name}' cannot be a tool: {exc}") from exc
        except Exception as exc:  # annotations may hold the application's own code, which may raise anything
            raise ToolRegistrationError(
                f"'{name}' cannot be a tool: its parameters do not all have types that JSON can express "
                f"({shorten(str(exc), 200)}). Change the types, or bind the arguments with functools.partial."
            ) from exc
        required = schema.get("required", ())
        return cls(
            name=name,
            description=summary if description is None else description,
            parameters=tuple(
                Parameter(key, described.get("description", ""), key in required, described)
                for key, described in schema["properties"].items()
            ),
            function=function,
            timeout=timeout,
            json_schema=schema,
            validator=validator,
        )

    @property
    def schema(self) -> ModelFormattedDictTool:
        """The tool in the function-calling format of OpenAI."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.json_schema},
        }

    @property
    def is_async(self) -> bool:
        """Whether it runs in the event loop, where it can be cancelled, and not in a thread."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__)

    async def call(self, arguments: dict[str, Any]) -> Any:
        """Call the function with arguments that the validator has returned.

        Raises what the function raises. A thread that is cancelled cannot be stopped: it runs on, unseen.
        """
        try:
            if self.is_async:
                value = self.function(**arguments)
            else:
                value = await run_in_thread(functools.partial(self.function, **arguments), f"tool {self.name}")
            return await value if inspect.isawaitable(value) else value
        except SystemExit as exc:  # let through, it would end the event loop
            raise ToolExecutionError(f"it tried to exit the program, with {exc.code!r}") from exc
