"""What there is to store of an object: its fields, its public attributes, and what every message has."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from inspect import getattr_static
from typing import Any, cast

from llmgine.messages.message import Message

__all__ = [
    "CHAIN",
    "MAX_DEPTH",
    "Index",
    "base_names",
    "field_names",
    "is_behaviour",
    "is_custom",
    "path_text",
    "required",
]

CHAIN = ("correlation_id", "causation_id", "traceparent")
MAX_DEPTH = 64
"""Of values within values."""
_FROM_DICT = cast("Any", Message.from_dict).__func__


class Index:
    """A step into a container, for paths; made often, read seldom."""

    __slots__ = ("_key",)

    def __init__(self, key: object) -> None:
        self._key = key

    def __str__(self) -> str:
        return f"[{self._key!r:.80}]"


def path_text(root: str, path: list[Any]) -> str:
    """Return a path such as `Moved.tags[3]`. Steps are names of attributes, or an `Index`."""
    return root + "".join(str(step) if type(step) is Index else f".{step}" for step in path if step is not None)


@lru_cache(maxsize=512)
def field_names(cls: type) -> dict[str, None]:
    """Return the names of a class's fields and public slots, in order."""
    names = [f.name for f in fields(cls)] if is_dataclass(cls) else []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slot for slot in ((slots,) if isinstance(slots, str) else slots) if not slot.startswith("_")]
    return dict.fromkeys(names)


@lru_cache(maxsize=512)
def required(cls: Any) -> frozenset[str]:
    """Return the names of fields that have no default."""
    return frozenset(f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING)


def base_names(cls: type[Message]) -> tuple[str, ...]:
    """Return the names of what every message has; its id first."""
    return (cls._id_field, "timestamp", "session_id", "metadata", *CHAIN)


def is_behaviour(cls: type, name: str) -> bool:
    """Return whether a name is a method or a property of a class."""
    return hasattr(getattr_static(cls, name, None), "__get__")


def is_custom(cls: type[Message]) -> bool:
    """Return whether a class says itself what is stored of it."""
    return cls.to_dict is not Message.to_dict or getattr(cls.from_dict, "__func__", None) is not _FROM_DICT
