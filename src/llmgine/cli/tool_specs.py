"""The user's own tools: from `module:function`, `module` or a file to functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import attrgetter
from types import ModuleType
from typing import Any

from llmgine.cli.demo_tools import DEMO_TOOLS
from llmgine.cli.user_modules import load_module
from llmgine.errors import ConfigurationError

__all__ = ["check_tool_options", "load_tools", "tool_functions"]


def check_tool_options(tools: tuple[str, ...], mcp: str | None, *, no_tools: bool) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigurationError: there are to be tools, and there are not.
    """
    for option, given in (("--tools", tools), ("--mcp", mcp)):
        if no_tools and given:
            msg = f"--no-tools and {option} contradict each other: leave one out"
            raise ConfigurationError(msg)


def load_tools(spec: str) -> list[Callable[..., Any]]:
    """Return the function that a spec names, or all public functions that its module defines.

    Args:
        spec: `module:function`, `module`, `path/to/file.py:function` or `path/to/file.py`. Modules are looked for in
            the working folder first.

    Raises:
        ConfigurationError: there is no such module or function, or the module raises when it is imported.
    """
    module, name = load_module("--tools", spec, "function")
    own = [value for key, value in vars(module).items() if _defined(value, module) and not key.startswith("_")]
    if name is not None:
        try:
            return [attrgetter(name)(module)]
        except AttributeError as error:
            offers = ", ".join(function.__name__ for function in own) or "none"
            msg = f"--tools {spec}: there is no {name!r} in it; its public functions: {offers}"
            raise ConfigurationError(msg) from error
    if not own:
        msg = f"--tools {spec}: it defines no public function"
        raise ConfigurationError(msg)
    return own


def _defined(value: Any, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def tool_functions(specs: tuple[str, ...], *, builtin: bool) -> list[Callable[..., Any]]:
    """Return the functions that the specs name and, if wanted, the built-in ones whose names they leave free.

    Raises:
        ConfigurationError: a spec names nothing.
    """
    functions = [function for spec in specs for function in load_tools(spec)]
    taken = {function.__name__ for function in functions}
    return functions + [tool for tool in DEMO_TOOLS if builtin and tool.__name__ not in taken]
