"""The pieces of a reply as data, and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, get_args

from llmgine.llm.types import Chunk, Finish, FinishReason, Usage

__all__ = ["chunk_data", "chunk_of"]

_KINDS = {kind.__name__: kind for kind in get_args(Chunk)}


def chunk_data(chunk: Chunk) -> dict[str, Any]:
    """Return a piece of a reply as data: its kind in `type`, and the fields that are not at their defaults."""
    values = asdict(chunk)
    return {"type": type(chunk).__name__} | {
        field.name: values[field.name] for field in fields(chunk) if getattr(chunk, field.name) != field.default
    }


def chunk_of(data: dict[str, Any]) -> Chunk:
    """Return the piece again.

    Raises:
        KeyError, TypeError, ValueError: the data is no piece of a reply.
    """
    values = dict(data)
    kind = _KINDS[values.pop("type")]
    if kind is Finish:
        values["reason"] = FinishReason(values["reason"])
        if values.get("usage") is not None:
            values["usage"] = Usage(**values["usage"])
    chunk: Chunk = kind(**values)
    return chunk
