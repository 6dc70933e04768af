"""The user's own code, named on the command line: from `module:name` or `path/to/file.py:name` to a module."""

from __future__ import annotations

import os
import re
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import llmgine
from llmgine.errors import ConfigurationError

__all__ = ["failure_of", "load_module"]

_SPEC = re.compile(r"(.+\.py|\w+(?:\.\w+)*)(?::(\w+(?:\.\w+)*))?")
_OURS = f"{Path(llmgine.__file__).parent}{os.sep}"


def load_module(asked: str, spec: str, kind: str) -> tuple[ModuleType, str | None]:
    """Import the module that a spec names; return it with the name that the spec has after a colon, if any.

    Args:
        asked: where the spec was given, for error messages, such as `--tools`.
        spec: `module:name`, `module`, `path/to/file.py:name` or `path/to/file.py`, where a name may have dots. Modules
            are looked for in the working folder first.
        kind: what the name stands for, for error messages.

    Raises:
        ConfigurationError: there is no such module, or it raises when it is imported.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        msg = f"{asked} {spec}: expected module:{kind}, module, or path/to/file.py"
        raise ConfigurationError(msg)
    source, name = match.groups()
    path = Path(source).expanduser().resolve() if source.endswith(".py") else None
    folder = str(Path.cwd() if path is None else path.parent)
    if path is not None and not path.is_file():
        msg = f"{asked} {spec}: there is no such file"
        raise ConfigurationError(msg)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return import_module(source) if path is None else _import_file(path), name
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}."):
            msg = f"{asked} {spec}: there is no module {error.name!r}, neither in {folder} nor installed"
        else:
            msg = f"{asked} {spec}: importing it failed: {failure_of(error)}"
        raise ConfigurationError(msg) from error


def failure_of(error: BaseException) -> str:
    """Return in one line what the user's code raised, and where in it."""
    told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    theirs = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(_OURS)]
    if isinstance(error, SyntaxError) or not theirs:  # the former says itself where it is
        return told
    return f"{told} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})"


def _import_file(path: Path) -> ModuleType:
    if _is_importable(path):  # under the name by which others may import it, so that it does not run twice
        return import_module(path.stem)
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


def _is_importable(path: Path) -> bool:
    """Whether the file is what its name means to an import; it is not where the name is taken, as json.py's is."""
    name = path.stem
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        found = find_spec(name) if name.isidentifier() else None
        origin = found.origin if found is not None else None
    return origin is not None and Path(origin).resolve() == path
