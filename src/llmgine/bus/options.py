"""Options that must be numbers."""

from __future__ import annotations

import math
from typing import Any

from llmgine.errors import ConfigurationError

__all__ = ["check_number"]


def check_number(name: str, given: Any, kind: Any, expected: str, *, least: float = 0) -> None:
    """Refuse what is no finite number of a kind.

    Args:
        name: what the option is called.
        given: what is to be checked.
        kind: `int`, or `int | float`.
        expected: what it must be, in words.
        least: what it must not be below.

    Raises:
        ConfigurationError: it is no such number.
    """
    if not (isinstance(given, kind) and least <= given < math.inf):
        msg = f"{name} must be {expected}; got {given!r}."
        raise ConfigurationError(msg)
