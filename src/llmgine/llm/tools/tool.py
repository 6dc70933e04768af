"""A tool: a function with its description, ready to be called with what a model sends."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmgine.errors import ToolError, ToolExecutionError, ToolRegistrationError
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
    schema: dict[str, Any]
    """JSON schema; it may refer to the `$defs` of the tool's."""


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
    _validator: ArgumentValidator = field(repr=False)

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
        original = function
        while isinstance(original, functools.partial):
            original = original.func
        name = name or getattr(original, "__name__", "")
        if not _NAME.fullmatch(name):
            raise ToolRegistrationError(
                f"{original!r} cannot be a tool: its name, {name!r}, is not 1 to 64 letters, digits, '_' or '-'. "
                "Pass name=."
            )
        ...
