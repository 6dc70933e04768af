"""Commands as tools: what a bus can execute, a model or an MCP client can call."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, get_args, get_origin, get_type_hints

from pydantic import Field

from llmgine.errors import ToolExecutionError, ToolRegistrationError
from llmgine.llm.tools.mcp.serving.context import MCPToolContext
from llmgine.llm.tools.tool_context import ToolContext
from llmgine.llm.tools.tool_options import ToolOptions, tool
from llmgine.messages import Command

__all__ = ["expose"]

_OF_THE_BUS = frozenset(field.name for field in dataclasses.fields(Command))


def expose(command: type[Command[Any]], **options: Unpack[ToolOptions]) -> Callable[..., Awaitable[Any]]:
    """Return a function that executes commands of a class on the bus of whoever calls it, ready to be a tool.

        tools.register_tool(expose(CreateNoteCommand))

    Its parameters are the fields of the command, without those of the bus's own, and its result is that of the
    handler; a `Command[R]` says which. It runs in the session of the call, and in its trace.

    Args:
        command: whose handler is registered on the bus of the engine, or on that of the MCP server.
        **options: as in `ToolOptions`. The name is by default that of the class: `create_note`; the description is its
            docstring.

    Raises:
        ToolRegistrationError: it is no command, or its fields are annotated with what cannot be resolved.
    """
    given: Any = command
    if not (inspect.isclass(given) and issubclass(given, Command) and given is not Command):
        msg = f"{command!r} cannot be exposed: it is no command. Give the class of a command."
        raise ToolRegistrationError(msg)

    async def execute(_context: ToolContext, **fields: Any) -> Any:
        if _context.bus is None:
            msg = "there is no bus to execute it on. Give one to the engine, or to the MCP server with bus=."
            raise ToolExecutionError(msg)
        made = command(**fields)
        made.session_id = _context.session_id
        if isinstance(_context, MCPToolContext):
            made.traceparent = _context.traceparent
        result = await _context.bus.execute(made)
        if not result.success:
            raise ToolExecutionError(result.error or "the command failed")
        return result.result

    function: Any = execute
    function.__signature__ = inspect.Signature(
        [
            inspect.Parameter("_context", inspect.Parameter.KEYWORD_ONLY, annotation=ToolContext),
            *_parameters(command),
        ],
        return_annotation=_result_type(command),
    )
    function.__name__ = _snake_case(command.__name__.removesuffix("Command") or command.__name__)
    function.__doc__ = _docstring(command)
    return tool(**options)(execute)


def _parameters(command: type[Command[Any]]) -> list[inspect.Parameter]:
    try:
        hints = get_type_hints(command, include_extras=True)
    except Exception as exc:  # an annotation is an expression of the application: evaluating it may raise anything
        msg = (
            f"{command.__name__} cannot be exposed: the annotations of its fields cannot be resolved ({exc}). "
            "Import or define the types at the top of the module that defines it."
        )
        raise ToolRegistrationError(msg) from exc
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name], default=_default(field)
        )
        for field in dataclasses.fields(command)
        if field.init and field.name not in _OF_THE_BUS
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _result_type(command: type[Command[Any]]) -> Any:
    """Return the `R` of a `Command[R]`; nothing where it is not said."""
    for base in command.__mro__:
        for generic in vars(base).get("__orig_bases__", ()):
            arguments = get_args(generic)
            kind = get_origin(generic)
            if arguments and inspect.isclass(kind) and issubclass(kind, Command):
                return inspect.Signature.empty if isinstance(arguments[0], TypeVar) else arguments[0]
    return inspect.Signature.empty


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _docstring(command: type[Command[Any]]) -> str:
    told = command.__doc__ or ""
    return "" if told.startswith(f"{command.__name__}(") else told  # which is what `dataclass` writes there
