"""Any event as JSON. orjson writes what it can at once; what it refuses is walked, value by value and within bounds."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, KeysView, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from functools import lru_cache
from math import isfinite
from types import NoneType
from typing import Any

import orjson

from llmgine.messages import Command, Event
from llmgine.messages.ids import write
from llmgine.messages.message import Message, id_of, origin_of

__all__ = ["to_dict", "to_line"]

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_DEPTH = 254
"""How many objects and arrays orjson puts inside each other at most."""
_SCALARS = frozenset({str, int, float, bool, NoneType})


def to_line(event: Event, *, max_text: int = 100_000, max_depth: int = _DEPTH, max_values: int = 100_000) -> bytes:
    r"""Return `to_dict(event)` as one line of JSON that ends in `\n`. Never raises."""
    if max_depth >= _DEPTH:
        try:
            line = _at_once(event)
        except Exception:  # noqa: BLE001, S110  # whatever is wrong with a value, the walk finds it and marks it
            pass
        else:
            # No text and no number of values is larger than the line.
            if len(line) <= max_text and len(line) <= max_values:
                return line
    data = to_dict(event, max_text=max_text, max_depth=max_depth, max_values=max_values)
    return orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE)


def to_dict(
    event: Event, *, max_text: int = 100_000, max_depth: int = _DEPTH, max_values: int = 100_000
) -> dict[str, Any]:
    """Return every public attribute of an event by name, and its class as `event_type`, ready for JSON. Never raises.

    Messages and dataclasses become objects, also inside others, and commands say their `command_type`; pydantic models
    what they dump; enum members their values; exceptions `"ValueError: text"`; NaN and infinities null. What JSON has
    no form for becomes text. Where something is left out, a text in angle brackets says so. An attribute of the event
    that is itself called `event_type` gives way.

    Args:
        event: is not changed.
        max_text: characters of a text.
        max_depth: objects and arrays inside each other, at most 254.
        max_values: values altogether.
    """
    data = _Walk(max_text, min(max_depth, _DEPTH), max_values).reduce(event, 0)
    return data if isinstance(data, dict) else {"event_type": type(event).__name__, "event": data}


def _at_once(event: Event) -> bytes:
    """Write an event with orjson alone, or raise."""
    data = _message(event)
    nested = _nested(data.values())
    if not nested:
        return orjson.dumps(data, None, _OPTIONS)
    ahead = _Ahead()
    ahead.look(nested)
    return orjson.dumps(data, ahead.simplify, _OPTIONS)


class _Ahead:
    """Looks ahead of orjson, at what it is given and at each step that it asks for, and refuses what it cannot survive.

    orjson 3.12 and 3.13 follow tuples in tuples without limit, and then write past the end of their memory. Every
    version writes what is shared once for each way to it, so that a small graph can fill any memory.
    """

    _left = 1000  # values with something inside: where there are more, the walk counts them properly

    def simplify(self, value: Any) -> Any:
        simple = _simplify(value)
        self.look([simple])
        return simple

    def look(self, pending: list[Any]) -> None:
        for value in pending:
            self._left -= 1
            if self._left < 0 or isinstance(value, tuple):
                raise TypeError
            if isinstance(value, dict):
                pending += _nested(dict.values(value))
            elif isinstance(value, list):
                pending += _nested(list.__iter__(value))


def _nested(values: Iterable[Any]) -> list[Any]:
    """Return what is neither a scalar nor an empty dict, such as most events have for metadata."""
    return [value for value in values if (kind := type(value)) not in _SCALARS and (kind is not dict or value)]


class _Walk:
    """Copies a value into what JSON has: dicts with text keys, lists, texts, numbers, booleans and None."""

    def __init__(self, max_text: int, max_depth: int, max_values: int) -> None:
        self._max_text = max_text
        self._max_depth = max_depth
        self._left = max_values
        self._path: dict[int, Any] = {}
        """What is being copied, from the outside in, by identity."""

    def reduce(self, value: Any, depth: int) -> Any:  # noqa: PLR0911, PLR0912  # one for each kind of value
        # The methods of the builtins are called by name, for a subclass may have overridden them.
        outside = len(self._path)
        try:
            while True:
                if not isinstance(value, Enum):
                    if value is None or isinstance(value, bool):
                        return value
                    if isinstance(value, str):
                        return self._text(str.__str__(value))
                    if isinstance(value, int):
                        number = int.__int__(value)
                        return number if -(2**63) <= number < 2**64 else self._text(str(number))
                    if isinstance(value, float):
                        real = float.__float__(value)
                        return real if isfinite(real) else None
                if id(value) in self._path:
                    return "<cycle>"
                self._path[id(value)] = value
                if isinstance(value, dict | list):
                    if depth >= self._max_depth:
                        return "<too deep>"
                    return self._object(value, depth) if isinstance(value, dict) else self._array(value, depth)
                value = _simplify(value)
        except RecursionError:
            return "<too deep>"
        except Exception as error:  # noqa: BLE001  # anything may be in an event, and any method of it may fail
            return self._text(f"<{object.__repr__(value)[1:-1]} raised {type(error).__name__}>")
        finally:
            while len(self._path) > outside:
                self._path.popitem()

    def _object(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in tuple(dict.items(value)):
            if self._left <= 0:
                result["<left out>"] = f"<{len(value) - len(result)} more>"
                break
            self._left -= 1
            name = self.reduce(key, depth + 1)
            if not isinstance(name, str):
                name = self._text(str(name))
            while name in result:
                name = f"{name}#{len(result)}"
            result[name] = self.reduce(item, depth + 1)
        return result

    def _array(self, value: list[Any], depth: int) -> list[Any]:
        result: list[Any] = []
        for item in list.__iter__(value):
            if self._left <= 0:
                result.append(f"<{len(value) - len(result)} more>")
                break
            self._left -= 1
            result.append(self.reduce(item, depth + 1))
        return result

    def _text(self, text: str) -> str:
        left_out = len(text) - self._max_text
        if left_out > 0:
            text = f"{text[: self._max_text]}<{left_out} characters left out>"
        return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8


def _simplify(value: Any) -> Any:  # noqa: PLR0911  # one for each kind of value
    """Take a value that is not JSON one step nearer to it."""
    if isinstance(value, Message):
        return _message(value)
    if isinstance(value, BaseException):
        text = str(value)
        return f"{type(value).__name__}: {text}" if text else type(value).__name__
    if isinstance(value, Enum):
        return value.value
    kind: Any = type(value)
    if is_dataclass(type(value)):
        return _public(value, dict(getattr(value, "__dict__", ())), _shape(kind)[1])
    if isinstance(value, float):
        return float.__float__(value)  # of a subclass
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return repr(value)
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(warnings=False)
    return str(value)


def _message(message: Message) -> dict[str, Any]:
    kind: Any = type(message)
    label, names = _shape(kind)
    own = id_of(message)
    _, correlation, causation, traceparent = origin_of(message)
    data = {
        label: "",
        kind._id_field: own,
        "timestamp": message.timestamp,
        "metadata": message._metadata or {},
        "correlation_id": own if correlation is None else write(correlation),
        "causation_id": None if causation is None else write(causation),
        **message.__dict__,
    }
    if traceparent is not None:
        data["traceparent"] = traceparent
    data[label] = kind.__name__
    return _public(message, data, names)


def _public(value: Any, data: dict[str, Any], names: KeysView[str]) -> dict[str, Any]:
    """Return what an instance's `__dict__` holds without what is private, and with fields that are kept elsewhere."""
    if data.keys() == names:
        return data
    data |= {name: getattr(value, name) for name in names if name not in data and hasattr(value, name)}
    return {name: item for name, item in data.items() if not name.startswith("_")}


@lru_cache(maxsize=1024)
def _shape(kind: Any) -> tuple[str, KeysView[str]]:
    """Return where a message of this class says its class, and every name that an instance is written with."""
    label = "event_type" if issubclass(kind, Event) else "command_type" if issubclass(kind, Command) else "message_type"
    added = (label, "timestamp", "correlation_id", "causation_id") if issubclass(kind, Message) else ()
    public = (f.name for f in fields(kind) if not f.name.startswith("_"))
    return label, dict.fromkeys([*added, *public]).keys()
