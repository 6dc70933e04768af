"""Messages as they are stored, for people: their own fields, without the marks that say of which type a value is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["as_logged", "data_of", "own_fields"]

_EVERY_MESSAGE = frozenset(
    {
        *("command_id", "event_id", "timestamp", "session_id", "metadata"),
        *("correlation_id", "causation_id", "traceparent"),
    }
)


def data_of(payload: str) -> dict[str, Any]:
    """Return what is stored of a message; empty if it cannot be read."""
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def own_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of a message beyond what every message has."""
    return {name: value for name, value in data.items() if name not in _EVERY_MESSAGE and not name.startswith("$")}


def as_logged(value: Any) -> Any:  # noqa: PLR0911  # one for each form
    """Return a stored value in the form that it has in a log: what is marked, without its mark."""
    if isinstance(value, list):
        return [as_logged(each) for each in value]
    if not isinstance(value, dict):
        return value
    stored = cast("dict[str, Any]", value)
    mark = next((name for name in stored if name.startswith("$")), None)
    if mark is None:
        return {name: as_logged(each) for name, each in stored.items()}
    if mark == "$object":
        fields = as_logged(stored.get("fields") or {})
        return _named(str(stored[mark]), fields) if isinstance(fields, dict) else fields
    if mark == "$dict":
        return {str(as_logged(name)): as_logged(each) for name, each in stored[mark]}
    if mark == "$enum":
        return as_logged(stored.get("value", stored.get("name")))
    if mark in {"$base", "$lossy"}:  # of a whole message
        return {name: as_logged(each) for name, each in stored.items() if not name.startswith("$")}
    return as_logged(stored[mark])


def _named(type_name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an object; a message says besides of which class it is."""
    kind = type_name.rpartition(":")[2].rpartition(".")[2]
    for identity, label in (("event_id", "event_type"), ("command_id", "command_type")):
        if identity in fields:
            return {label: kind, **fields}
    return dict(fields)
