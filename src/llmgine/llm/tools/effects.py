"""What running a tool does to the world, and how one effect is told from another across retries and crashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, StrEnum
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["Effect", "call_digest", "canonical_json", "digest_of", "effect_key"]

_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_PLAIN = frozenset({str, int, float, bool, type(None)})
_SECRETS = (Secret, SecretStr, SecretBytes)


class Effect(StrEnum):
    """What happens if a call is run twice."""

    READ = "read"
    """Nothing: it changes nothing."""
    IDEMPOTENT = "idempotent"
    """The same as if it had run once, as long as it gets the same `ToolContext.idempotency_key` or arguments."""
    UNSAFE = "unsafe"
    """Its effect happens twice: a second mail, a second payment."""

    @property
    def repeatable(self) -> bool:
        """Whether a call that may have run may run again."""
        return self is not Effect.UNSAFE


def canonical_json(arguments: Mapping[str, Any]) -> str:
    """Return the one JSON text for validated arguments: keys and sets sorted, no spaces, ASCII, secrets as they are.

    Raises:
        TypeError: something in it has no value that could be compared, only an identity.
    """
    return _dump(_canonical(arguments))


def call_digest(tool_name: str, arguments: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of what is about to be done: the tool and its validated arguments.

    Raises:
        TypeError: as `canonical_json` does.
    """
    return digest_of(tool_name, canonical_json(arguments))


def digest_of(tool_name: str, canonical_arguments: str) -> str:
    """Return what `call_digest` does, of arguments as `canonical_json` returns them."""
    return _digest(tool_name, canonical_arguments)


def effect_key(run_id: str, step: int, tool: str, canonical_arguments: str, ordinal: int) -> str:
    """Return the key of one effect, the same whenever the run is taken up again. SHA-256 in hexadecimal.

    The model's id of the call is no part of it: asked again, a model makes a new one.

    Args:
        run_id: of the prompt being answered.
        step: which turn of the run.
        tool: its name.
        canonical_arguments: as `canonical_json` returns them.
        ordinal: which one of the same calls in this step, counted from 0.
    """
    return _digest(run_id, step, tool, canonical_arguments, ordinal)


def _digest(*parts: str | int) -> str:
    return sha256(_dump(parts).encode()).hexdigest()


def _dump(value: Any) -> str:
    return _JSON.encode(value)


def _canonical(value: Any) -> Any:
    if type(value) in _PLAIN:  # as most are
        return value
    if isinstance(value, Enum):
        value = value.value
    elif isinstance(value, _SECRETS):  # whose own JSON is the same for all of them
        value = value.get_secret_value()
    elif isinstance(value, BaseModel):
        value = dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        keys = (key if isinstance(key, str) else _dump(_canonical(key)) for key in value)
        return dict(zip(keys, map(_canonical, value.values()), strict=True))
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_canonical, value), key=_dump)
    try:
        return to_jsonable_python(value, bytes_mode="base64")
    except PydanticSerializationError as exc:
        msg = f"{type(value).__name__} has no canonical form"
        raise TypeError(msg) from exc
