"""Any event as JSON. orjson writes what it can at once; what it refuses is walked, value by value and within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from math import isfinite
from types import NoneType
from typing import Any

import orjson

from llmgine.messages import Event, ids
from llmgine.messages.message import Message
from llmgine.observability.content import content_mark
from llmgine.observability.redact import REDACTED, Redactor
from llmgine.observability.simplify import message_data, second_of, shape_of, simplify, written_ids

__all__ = ["to_dict", "to_line"]

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_DEPTH = 254
"""How many objects and arrays orjson puts inside each other at most."""
_LONGEST_SECRET = 4096
"""Characters: as many as a private key in PEM has, or nearly."""
_GIVEN = frozenset(
    {"event_id", "command_id", "timestamp", "correlation_id", "causation_id", "event_type", "command_type"}
)
"""What the bus writes into every message."""
_SCALARS = frozenset({str, int, float, bool, NoneType})


def to_line(
    event: Event,
    *,
    max_text: int = 100_000,
    max_depth: int = _DEPTH,
    max_values: int = 100_000,
    record_content: bool = True,
    redactor: Redactor | None = None,
) -> bytes:
    r"""Return `to_dict(event)` as one line of JSON that ends in `\n`. Never raises."""
    if max_depth >= _DEPTH:
        try:
            line = _flat(event, redactor, record_content=record_content) or _at_once(
                event, redactor, record_content=record_content
            )
        except Exception:  # noqa: BLE001, S110  # whatever is wrong with a value, the walk finds it and marks it
            pass
        else:
            # No text and no number of values is larger than the line.
            if len(line) <= max_text and len(line) <= max_values:
                return line
    data = to_dict(
        event,
        max_text=max_text,
        max_depth=max_depth,
        max_values=max_values,
        record_content=record_content,
        redactor=redactor,
    )
    return orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE)


def to_dict(
    event: Event,
    *,
    max_text: int = 100_000,
    max_depth: int = _DEPTH,
    max_values: int = 100_000,
    record_content: bool = True,
    redactor: Redactor | None = None,
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
        record_content: whether to say what is in fields marked as content, and in results that are texts and may be
            content; otherwise only how long they are.
        redactor: takes secrets out; the ids and the date that the bus gave are not looked at.
    """
    data = _Walk(max_text, min(max_depth, _DEPTH), max_values, redactor, record_content=record_content).reduce(event, 0)
    return data if isinstance(data, dict) else {"event_type": type(event).__name__, "event": data}


def _flat(  # noqa: PLR0911  # each reason why not
    event: Event, redactor: Redactor | None, *, record_content: bool
) -> bytes | None:
    """Write an event that holds scalars only, as most do; return None for others.

    The ids and the date, which make up most of the line, are written straight into it: nobody has read them yet.
    """
    kind: Any = type(event)
    shape = shape_of(kind)
    data = event.__dict__
    made, identity = event._timestamp, event._identity
    if not shape.head or type(made) is not int or event._metadata or data.keys() != shape.own:
        return None
    if type(identity) is int:
        own = correlation = b"%016x%016x" % (made, ids._process + identity)
        cause = b"null"
    elif type(identity) is tuple and identity[3] is None:
        texts = ["null" if text is None else text for text in written_ids(identity)]
        if not all(map(str.isalnum, texts)):
            return None  # it came from elsewhere, and would have to be escaped
        own, correlation, cause = map(str.encode, texts)
        if identity[2] is not None:
            cause = b'"%b"' % cause
    else:
        return None
    if shape.content and not record_content:
        data = data | {name: content_mark(data[name]) for name in shape.content}
    for value in data.values():
        if type(value) is str:
            if redactor is not None and len(value) >= redactor.shortest and redactor.text(value) is not value:
                return None
        elif type(value) not in _SCALARS:
            return None
    if redactor is not None and redactor.finds_names(shape.own):
        return None
    microseconds = made // 1000
    second = second_of(microseconds // 1_000_000)
    rest = orjson.dumps(data, None, _OPTIONS)[1:]
    return shape.head % (own, second, microseconds % 1_000_000, correlation, cause, rest)


def _at_once(event: Event, redactor: Redactor | None, *, record_content: bool) -> bytes:
    """Write an event with orjson alone, or raise."""
    data = message_data(event, record_content=record_content)
    ahead = _Ahead(redactor, record_content=record_content)
    ahead.look_at_message(data)
    return orjson.dumps(data, ahead.simplify, _OPTIONS)


class _Ahead:
    """Looks ahead of orjson, at what it is given and at each step that it asks for, and refuses what needs the walk.

    That is what has to be redacted, and what orjson cannot survive: 3.12 and 3.13 follow tuples in tuples without
    limit, and then write past the end of their memory. Every version writes what is shared once for each way to it, so
    that a small graph can fill any memory.
    """

    _left = 1000  # values with something inside: where there are more, the walk counts them properly

    def __init__(self, redactor: Redactor | None, *, record_content: bool) -> None:
        self._record_content = record_content
        self._redactor = redactor

    def simplify(self, value: Any) -> Any:
        simple = simplify(value, record_content=self._record_content)
        if isinstance(value, Message):
            self.look_at_message(simple)
        else:
            self.look([simple])
        return simple

    def look_at_message(self, data: dict[str, Any]) -> None:
        if self._redactor is not None and self._redactor.finds(data, _GIVEN):
            raise TypeError
        if nested := _nested(data.values()):
            self.look(nested)

    def look(self, pending: list[Any]) -> None:
        redactor = self._redactor
        for value in pending:
            self._left -= 1
            if self._left < 0 or isinstance(value, tuple):
                raise TypeError
            if isinstance(value, dict | list):
                if redactor is not None and redactor.finds(value):
                    raise TypeError
                pending += _nested(dict.values(value) if isinstance(value, dict) else list.__iter__(value))
            elif redactor is not None and isinstance(value, str | Enum):
                text = value.value if isinstance(value, Enum) else str.__str__(value)
                if isinstance(text, str) and redactor.text(text) is not text:
                    raise TypeError


def _nested(values: Iterable[Any]) -> list[Any]:
    """Return what is neither a scalar nor an empty dict, such as most events have for metadata."""
    return [value for value in values if (kind := type(value)) not in _SCALARS and (kind is not dict or value)]


class _Walk:
    """Copies a value into what JSON has: dicts with text keys, lists, texts, numbers, booleans and None."""

    def __init__(
        self, max_text: int, max_depth: int, max_values: int, redactor: Redactor | None, *, record_content: bool
    ) -> None:
        self._max_text = max_text
        self._max_depth = max_depth
        self._left = max_values
        self._record_content = record_content
        self._redactor = redactor
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
                value = simplify(value, record_content=self._record_content)
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
            reduced = self.reduce(item, depth + 1)
            if self._redactor is not None and self._redactor.secret(name, reduced):
                reduced = REDACTED
            result[name] = reduced
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
        if self._redactor is not None:
            # What is cut through is no longer known for a secret: look further than is written.
            looked_at = text[: self._max_text + _LONGEST_SECRET]
            text = self._redactor.text(looked_at)
            shorter = max(0, len(looked_at) - len(text))
        else:
            shorter = 0
        if left_out > 0:
            text = f"{text[: max(0, self._max_text - shorter)]}<{left_out} characters left out>"
        return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8
