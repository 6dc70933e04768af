"""What people and models say to each other, which is recorded only where somebody asks for it.

A field of a message or dataclass holds such content if it is declared with `field(metadata={"content": True})`, and a
command's result does if its class has `result_is_content: ClassVar[bool] = True`.
"""

from __future__ import annotations

import os
from collections.abc import Sized
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

__all__ = ["content_fields", "content_mark", "content_wanted"]


def content_wanted(asked: bool | None = None) -> bool:  # noqa: FBT001  # the one argument there is
    """Tell whether content is to be recorded: as asked, or else if `LLMGINE_RECORD_CONTENT` is 1."""
    return os.environ.get("LLMGINE_RECORD_CONTENT") == "1" if asked is None else asked


@lru_cache(maxsize=1024)
def content_fields(kind: Any) -> tuple[str, ...]:
    """Return the names of the fields of a class that hold content; of other classes none."""
    return tuple(f.name for f in fields(kind) if f.metadata.get("content")) if is_dataclass(kind) else ()


def content_mark(value: Any) -> Any:
    """Return what stands for content that is not recorded: "<120 characters of content>". Nothing stays nothing."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if not isinstance(value, Sized):
        return "<content>"
    count = len(value)
    unit = "character" if isinstance(value, str) else "byte" if isinstance(value, bytes | bytearray) else "value"
    return f"<{count} {unit}{'' if count == 1 else 's'} of content>" if count else value
