"""Errors as data, and the same errors again: of the same class, with the same sentence and the same facts."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from llmgine.errors import LLMgineError

__all__ = ["failure_data", "failure_of"]


def failure_data(error: Exception) -> dict[str, Any]:
    """Return an error as data."""
    kinds = [f"{kind.__module__}:{kind.__qualname__}" for kind in type(error).__mro__ if issubclass(kind, Exception)]
    # Errors of others hold requests and responses, with the keys that were sent.
    known = vars(error) if isinstance(error, LLMgineError) else {}
    facts = {name: value for name, value in known.items() if value is None or isinstance(value, str | int | float)}
    return {"kinds": kinds, "message": str(error), "facts": facts}


def failure_of(data: dict[str, Any]) -> Exception:
    """Return the error again; where its class is not loaded, one of the nearest class above it that is."""
    kind = next((kind for name in data["kinds"] if (kind := _kind(name)) is not None), Exception)
    # Past the constructor, whose arguments nobody knows: what it had made of them is in the facts.
    error = kind.__new__(kind, data["message"])
    error.args = (data["message"],)
    vars(error).update(data["facts"])
    return error


def _kind(name: str) -> type[Exception] | None:
    module, _, path = name.partition(":")
    if module.startswith("llmgine."):
        import_module(module)
    found: Any = sys.modules.get(module)  # of others, nothing is imported because a file says so
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
