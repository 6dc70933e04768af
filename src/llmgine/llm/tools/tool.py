"""A tool: a function with its description, ready to be called with what a model sends."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, Protocol, Unpack

from llmgine.bus.resilience.backoff import RetryConfig
from llmgine.errors import ToolExecutionError, ToolRegistrationError
from llmgine.llm.tools.docstring import parse_docstring
from llmgine.llm.tools.effects import Effect
from llmgine.llm.tools.injection import Dependencies, injected_parameters
from llmgine.llm.tools.process import import_path, run_in_process
from llmgine.llm.tools.schema import definition_of, json_schema, parameters_of
from llmgine.llm.tools.threads import run_in_thread
from llmgine.llm.tools.tool_options import ToolOptions, check_names, check_options, options_of, retry_of
from llmgine.llm.tools.validation import ArgumentValidator
from llmgine.llm.types import ModelFormattedDictTool

__all__ = ["ArgumentCheck", "Parameter", "Tool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ArgumentCheck(Protocol):
    """Says whether arguments fit."""

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return decoded JSON as what the function is called with.

        Raises:
            ToolValidationError: saying of every argument that does not fit what was expected and what came.
        """
        ...


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
    """Seconds that one attempt may take; None leaves it to the manager."""
    json_schema: dict[str, Any]
    """Of the arguments: `{"type": "object", "properties": …}`."""
    validator: ArgumentCheck
    retry: RetryConfig = field(default_factory=lambda: RetryConfig(max_retries=0))
    max_concurrency: int | None = None
    """Calls that run at the same time in one event loop; None leaves it to the manager."""
    effect: Effect = Effect.UNSAFE
    requires_approval: bool | Callable[[dict[str, Any]], bool] = False
    """Whether a person must agree to each call."""
    in_process: bool = False
    """Whether each call runs in a process of its own."""
    injected: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The types of what parameters get that no model sees, by their names."""
    output_schema: dict[str, Any] | None = None
    """Of the value, where an MCP server says so."""
    server: str = ""
    """The MCP server that the tool is of; empty for a function of this program."""

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        *,
        dependencies: Dependencies | None = None,
        **options: Unpack[ToolOptions],
    ) -> Tool:
        """Read a tool from a function's signature, type hints, docstring and `@tool`.

        Functions, methods, partials and callable objects, sync or async, will do.

        Args:
            function: whose parameters can all be named, but for those that are injected.
            dependencies: what there is to inject; by default the `ToolContext` only.
            **options: as in `ToolOptions`; they go before those of `@tool`.

        Raises:
            ToolRegistrationError: the function cannot be a tool; the message says why, and what to do.
        """
        if inspect.isclass(function) or not callable(function):
            raise ToolRegistrationError(f"{function!r} cannot be a tool: it is not a function. Register a function.")
        original = function
        while isinstance(original, functools.partial):
            original = original.func
        check_names(options)
        options = {**(options_of(function) or {}), **options}
        name = options.get("name") or str(getattr(original, "__name__", ""))
        if not _NAME.fullmatch(name):
            raise ToolRegistrationError(
                f"{function!r} cannot be a tool: its name {name!r} is not made of 1 to 64 letters, digits, '_' or '-'. "
                "Give it another one with name=."
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ToolRegistrationError(f"'{name}' cannot be a tool: it is a generator. Return a list instead.")
        definition = definition_of(original)
        summary, told = parse_docstring(inspect.cleandoc(definition.__doc__ or original.__doc__ or ""))
        try:
            check_options(options)
            signature = parameters_of(function, getattr(definition, "__globals__", {}))
            injected = injected_parameters(signature)
            provided = (dependencies or Dependencies()).check(
                injected, {parameter.name: parameter for parameter in signature}
            )
            if options.get("in_process"):
                _check_process(function, injected)
            validator = ArgumentValidator([parameter for parameter in signature if parameter.name not in injected])
            schema = json_schema(validator.adapter, told)
        except ToolRegistrationError as exc:
            raise ToolRegistrationError(f"'{name}' cannot be a tool: {exc}") from exc
        except Exception as exc:  # annotations may hold the application's own code, which may raise anything
            raise ToolRegistrationError(
                f"'{name}' cannot be a tool: its parameters do not all have types that JSON can express "
                f"({shorten(str(exc), 200)}). Change the types, bind the arguments with functools.partial, "
                "or have them injected: Annotated[…, Inject]."
            ) from exc
        required = schema.get("required", ())
        description = options.get("description")
        return cls(
            name=name,
            description=summary if description is None else description,
            parameters=tuple(
                Parameter(key, described.get("description", ""), key in required, described)
                for key, described in schema["properties"].items()
            ),
            function=function,
            timeout=options.get("timeout"),
            json_schema=schema,
            validator=validator,
            retry=retry_of(options),
            max_concurrency=options.get("max_concurrency"),
            effect=Effect(options.get("effect", Effect.UNSAFE)),
            requires_approval=options.get("requires_approval", False),
            in_process=options.get("in_process", False),
            injected=provided,
        )

    @property
    def schema(self) -> ModelFormattedDictTool:
        """The tool in the function-calling format of OpenAI."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.json_schema},
        }

    @property
    def info(self) -> dict[str, Any]:
        """What events say about the tool, as JSON data."""
        return {
            "name": self.name,
            "description": self.description,
            "effect": self.effect.value,
            "requires_approval": self.requires_approval is not False,
            "in_process": self.in_process,
        }

    @property
    def stops(self) -> bool:
        """Whether a call that is cancelled ends, which a thread does not."""
        return self.is_async or self.in_process

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether it is a coroutine function, which needs no thread."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__)

    async def call(self, arguments: dict[str, Any]) -> Any:
        """Call the function with what the validator has returned or, in a process, with what it would take.

        Raises what the function raises. A thread that is cancelled cannot be stopped: it runs on, unseen.
        """
        if self.in_process:
            return await run_in_process(self.function, arguments)
        try:
            if self.is_async:
                value = self.function(**arguments)
            else:
                value = await run_in_thread(functools.partial(self.function, **arguments), f"tool {self.name}")
            return await value if inspect.isawaitable(value) else value
        except SystemExit as exc:  # let through, it would end the event loop
            raise ToolExecutionError(f"it tried to exit the program, with {exc.code!r}") from exc


def _check_process(function: Callable[..., Any], injected: Mapping[str, Any]) -> None:
    if injected:
        raise ToolRegistrationError(
            f"with in_process it runs in another process, where its parameter '{next(iter(injected))}' "
            "cannot be injected. Leave out one of the two."
        )
    import_path(function)
