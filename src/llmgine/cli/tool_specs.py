"""The user's own tools: from `module:function`, `module` or a file to functions."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from llmgine.errors import ConfigurationError

__all__ = ["load_tools"]

_SPEC = re.compile(r"(.+\.py|\w+(?:\.\w+)*)(?::(\w+(?:\.\w+)*))?")


def load_tools(spec: str) -> list[Callable[..., Any]]:
    """Return the function that a spec names, or all public functions that its module defines.

    Args:
        spec: `module:function`, `module`, `path/to/file.py:function` or `path/to/file.py`. Modules are looked for in
            the working folder first.

    Raises:
        ConfigurationError: there is no such module or function, or the module raises when it is imported.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        msg = f"--tools {spec}: expected module:function, module, or path/to/file.py"
        raise ConfigurationError(msg)
    source, name = match.groups()
    module = _import(source)
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


def _import(source: str) -> ModuleType:
    path = Path(source).expanduser().resolve() if source.endswith(".py") else None
    folder = str(Path.cwd() if path is None else path.parent)
    if path is not None and not path.is_file():
        msg = f"--tools {source}: there is no such file"
        raise ConfigurationError(msg)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(source) if path is None else _import_file(path)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}."):
            msg = f"--tools {source}: there is no module {error.name!r}, neither in {folder} nor installed"
            raise ConfigurationError(msg) from error
        told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if not isinstance(error, SyntaxError):  # which says itself where it is
            frame = traceback.extract_tb(error.__traceback__)[-1]
            told += f" ({Path(frame.filename).name}, line {frame.lineno})"
        msg = f"--tools {source}: importing it failed: {told}"
        raise ConfigurationError(msg) from error


def _import_file(path: Path) -> ModuleType:
    name = str(path)
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            msg = f"{path} is not Python"
            raise ImportError(msg)
        module = sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
