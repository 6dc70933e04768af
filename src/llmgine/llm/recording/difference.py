"""The first place in which two pieces of data differ, and what to show of it."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

__all__ = ["ABSENT", "Difference", "first_difference"]

_SHOWN_LINES = 40
_AROUND = 60
"""Characters that are shown on each side of the first that differs."""


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()
"""Stands for what one side does not have."""


@dataclass(frozen=True)
class Difference:
    """One place in which what was recorded is not what came."""

    path: str
    """Such as `messages[3].content`."""
    recorded: Any
    now: Any

    def __str__(self) -> str:
        recorded, now = _shown(self.recorded), _shown(self.now)
        if "\n" in recorded or "\n" in now:
            lines = list(difflib.unified_diff(recorded.split("\n"), now.split("\n"), "recorded", "now", "", "", 2, ""))
            left_out = [f"… {len(lines) - _SHOWN_LINES} more lines"] if len(lines) > _SHOWN_LINES else []
            told = [*lines[:_SHOWN_LINES], *left_out]
        else:
            told = _beside(recorded, now)
        return "\n".join([f"{self.path}:", *(f"  {line}" for line in told)])


def first_difference(recorded: Any, now: Any, path: str = "") -> Difference | None:
    """Return where two pieces of plain data differ first, in the order in which the first one has its keys."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in [*recorded, *(key for key in now if key not in recorded)]:
            inner = f"{path}.{key}" if path else str(key)
            if found := first_difference(recorded.get(key, ABSENT), now.get(key, ABSENT), inner):
                return found
        return None
    if isinstance(recorded, list) and isinstance(now, list):
        for number, (one, other) in enumerate(zip_longest(recorded, now, fillvalue=ABSENT)):
            if found := first_difference(one, other, f"{path}[{number}]"):
                return found
        return None
    # As JSON, in which 1 is neither true nor 1.0, and NaN is NaN.
    same = ABSENT not in (recorded, now) and json.dumps(recorded) == json.dumps(now)
    return None if same else Difference(path, recorded, now)


def _shown(value: Any) -> str:
    if value is ABSENT:
        return repr(value)
    if isinstance(value, str):
        return value if "\n" in value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _beside(recorded: str, now: str) -> list[str]:
    same = next((at for at, (one, other) in enumerate(zip(recorded, now, strict=False)) if one != other), None)
    at = min(len(recorded), len(now)) if same is None else same
    return [f"recorded: {_around(recorded, at)}", f"now:      {_around(now, at)}"]


def _around(text: str, at: int) -> str:
    begin, end = max(0, at - _AROUND), at + _AROUND
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"
