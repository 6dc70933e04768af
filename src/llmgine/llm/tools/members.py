"""The functions of an object or a module that are meant as tools."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from llmgine.errors import ToolRegistrationError
from llmgine.llm.tools.tool_options import options_of

__all__ = ["functions_of"]


def functions_of(source: object) -> list[Callable[..., Any]]:
    """Return what is marked with `@tool`, in the order of definition; if nothing is, what is public.

    Public is what has a name without a leading underscore: a module's own functions, not those that it imports, and an
    object's methods, inherited ones first. Properties are not read.

    Raises:
        ToolRegistrationError: there is nothing, or it is a class, whose methods need an object.
    """
    if inspect.isclass(source):
        msg = f"{source.__name__} is a class. Register an object of it: register_tools({source.__name__}(…))."
        raise ToolRegistrationError(msg)
    members = _of_module(source) if isinstance(source, ModuleType) else _of_object(source)
    marked = [function for _, function, _ in members if options_of(function) is not None]
    functions = marked or [function for name, function, own in members if own and not name.startswith("_")]
    if not functions:
        msg = f"{source!r} has no public functions and none that is marked with @tool."
        raise ToolRegistrationError(msg)
    return functions


def _of_module(module: ModuleType) -> list[tuple[str, Callable[..., Any], bool]]:
    return [
        (name, member, member.__module__ == module.__name__)
        for name, member in vars(module).items()
        if inspect.isroutine(member)
    ]


def _of_object(source: object) -> list[tuple[str, Callable[..., Any], bool]]:
    names = dict.fromkeys(name for base in reversed(type(source).__mro__[:-1]) for name in vars(base))
    return [
        (name, getattr(source, name), True)
        for name in names
        if isinstance(inspect.getattr_static(source, name), staticmethod | classmethod)
        or inspect.isroutine(inspect.getattr_static(source, name))
    ]
