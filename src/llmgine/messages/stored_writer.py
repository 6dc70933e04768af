"""Values as JSON, exactly: what JSON has no form for becomes an object with one key that begins with "$".

A dict of the user's with such a key is written as `{"$dict": [[key, value], …]}`, as is one whose keys are not texts.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from llmgine.errors import CodecError
from llmgine.messages.message import Message
from llmgine.messages.stored_shape import (
    MAX_DEPTH,
    Index,
    base_names,
    field_names,
    is_behaviour,
    is_custom,
    path_text,
    required,
)
from llmgine.messages.stored_types import find_class, is_model, schema_version, type_name

__all__ = ["Writer"]

Json: TypeAlias = Any

_MAX_INT = 2**63  # from here on a whole number is written as text: other readers of JSON do not take it
_MAX_TEXT = 1000  # of what stands for a value that cannot be stored
_CONTAINERS = (dict, list, tuple, set, frozenset)
_PLAIN: dict[type, Callable[[Any], object]] = {str: str.__str__, int: int.__int__, float: float.__float__}


class Writer:
    """Writes one message.

    Args:
        root: its name in errors.
        lossy: put a text in the place of what cannot be stored, and note its path in `lost`.
    """

    def __init__(self, root: str, *, lossy: bool = False) -> None:
        self._root = root
        self._lossy = lossy
        self._open: list[object] = []
        self._path: list[object] = []
        self.lost: list[str] = []

    def value(self, value: Any) -> Json:
        """Return a value's form in JSON."""
        kind = type(value)
        if (kind is str and value.isascii() and "\0" not in value) or kind is bool or value is None:
            return value
        write = _WRITE.get(kind, Writer._other)
        depth = len(self._path)
        try:
            return write(self, value)
        except Exception as exc:  # also whatever a class of an application raises when it is asked for its parts
            if not self._lossy:
                if isinstance(exc, CodecError):
                    raise
                self._fail(f"cannot be stored: {type(exc).__name__}: {exc}", exc)
            del self._path[depth:], self._open[depth:]
            self._lose()
            return _text_of(value)

    def message(self, message: Message) -> dict[str, Json]:
        """Return a message's fields in JSON."""
        cls: Any = type(message)
        if "schema_version" in field_names(cls):
            self._fail_or_lose("schema_version", "is a field: declare it as ClassVar[int]")
        base = {name: getattr(message, name) for name in base_names(cls)}
        if is_custom(cls) and (theirs := self._theirs(message)) is not None:
            rest = {name: value for name, value in base.items() if name not in theirs}
            return {**self._mapping(theirs), "$base": self._attributes(message, rest)}
        return self._attributes(message, base | self._parts(message, base))

    # Where in the message we are

    def _enter(self, container: object) -> None:
        if len(self._path) >= MAX_DEPTH:
            self._fail(f"is nested deeper than {MAX_DEPTH} levels")
        if any(container is other for other in self._open):
            self._fail("contains itself: store the id of what it refers to instead")
        self._open.append(container)
        self._path.append(None)

    def _leave(self) -> None:
        self._open.pop()
        self._path.pop()

    def _fail(self, problem: str, cause: BaseException | None = None) -> NoReturn:
        msg = f"{path_text(self._root, self._path)} {problem}."
        raise CodecError(msg) from cause

    def _lose(self, step: str = "") -> None:
        self.lost.append(path_text(self._root, [*self._path, step or None]))

    def _fail_or_lose(self, step: str, problem: str, cause: BaseException | None = None) -> None:
        if self._lossy:
            self._lose(step)
        else:
            self._path.append(step)
            self._fail(problem, cause)

    # Containers and objects

    def _items(self, values: Iterable[Any]) -> list[Json]:
        self._enter(values)
        written: list[Json] = []
        for number, value in enumerate(values):
            self._path[-1] = Index(number)
            written.append(self.value(value))
        self._leave()
        return written

    def _mapping(self, values: dict[Any, Any]) -> dict[str, Json]:
        self._enter(values)
        written: dict[str, Json] = {}
        if all(type(key) is str and key[:1] != "$" and _is_plain(key) for key in values):
            for key, value in values.items():
                self._path[-1] = Index(key)
                written[key] = self.value(value)
        else:
            pairs: list[Json] = []
            for key, value in values.items():
                self._path[-1] = Index(key)
                pairs.append([self.value(key), self.value(value)])
            written["$dict"] = pairs
        self._leave()
        return written

    def _attributes(self, owner: object, values: dict[str, Any]) -> dict[str, Json]:
        self._enter(owner)
        written: dict[str, Json] = {}
        for name, value in values.items():
            self._path[-1] = name
            written[name] = self.value(value)
        self._leave()
        return written

    def _parts(self, value: Any, known: Collection[str] = ()) -> dict[str, Any]:
        """Return the fields and the public attributes of an object, without those that are known."""
        cls: Any = type(value)
        names = field_names(cls)
        parts: dict[str, Any] = {}
        for name in names:
            if name in known:
                continue
            try:
                parts[name] = getattr(value, name)
            except Exception as exc:  # noqa: BLE001  # a field may be a property of the application's
                if name in required(cls) or not isinstance(exc, AttributeError):
                    self._fail_or_lose(name, f"is a field, and has no value ({exc!r}): let __init__ set it", exc)
                    parts[name] = _text_of(exc)
        extra = {
            name: part
            for name, part in getattr(value, "__dict__", {}).items()
            if name not in names and name not in known and name[:1] != "_" and not is_behaviour(cls, name)
        }
        return parts | extra

    def _theirs(self, message: Message) -> dict[Any, Any] | None:
        """Return what a class's own `to_dict` says."""
        theirs: Any = None
        cause: Exception | None = None
        try:
            theirs = message.to_dict()
        except Exception as exc:  # noqa: BLE001  # whatever an application's method raises
            cause = exc
        if type(theirs) is dict:
            return theirs
        came = f"returned {type(theirs).__name__}, not a dict" if cause is None else f"raised {cause!r}"
        self._fail_or_lose("to_dict()", came, cause)
        return None

    def _other(self, value: Any) -> Json:  # noqa: PLR0911  # one for each kind of class
        """Write what is of no type of the table."""
        kind: Any = type(value)
        if issubclass(kind, Enum):
            return self._member(value)
        if issubclass(kind, Message):
            return self._object(kind, self.message(value))
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            self._check_found(kind)
            return {"$tuple": self._items(value), "type": type_name(kind)}
        if issubclass(kind, _CONTAINERS):
            return self._narrowed(value)
        if is_model(kind):
            return self._model(value)
        if is_dataclass(type(value)) and not issubclass(kind, BaseException):
            self._check_found(kind)
            return self._object(kind, self._attributes(value, self._parts(value)))
        for base, plain in _PLAIN.items():
            if issubclass(kind, base):  # the same value, without what the subclass adds
                return self.value(plain(value))
        return self._fail(
            f"is {_called(kind)}, which cannot be stored: hold plain data in its place, such as an id or a text, "
            "or override to_dict and from_dict"
        )

    def _member(self, value: Enum) -> Json:
        kind = type(value)
        self._check_found(kind)
        if isinstance(value, Flag):
            return {"$enum": type_name(kind), "value": self.value(value.value)}
        if kind.__members__.get(value.name) is not value:
            self._fail(f"is {value!r:.80}, which its enumeration does not name")
        return {"$enum": type_name(kind), "name": value.name}

    def _narrowed(self, value: Any) -> Json:
        base: type = next(base for base in _CONTAINERS if isinstance(value, base))
        if not self._lossy:
            self._fail(f"is {_called(type(value))}, which would come back as a plain {base.__name__}: make it one")
        self._lose()
        return self.value(base(value))

    def _model(self, value: Any) -> Json:
        kind: Any = type(value)
        self._check_found(kind)
        data = value.model_dump(mode="json", by_alias=True, round_trip=True, warnings=False)
        if kind.model_validate(data) != value:  # a secret, an excluded field, a date in a field of type Any
            self._fail(f"is {_called(kind)}, and does not come back from its own model_dump(mode='json')")
        return self._object(kind, self.value(data))

    def _object(self, kind: type, written: Json) -> Json:
        return {"$object": type_name(kind), "version": schema_version(kind), "fields": written}

    def _check_found(self, kind: type) -> None:
        if find_class(type_name(kind)) is not kind:
            self._fail(f"is {_called(kind)}, which cannot be found by its name: define it at the top of a module")

    # Single values

    def _moment(self, value: datetime | time) -> Json:
        written: dict[str, Json] = {"$time" if isinstance(value, time) else "$datetime": value.isoformat()}
        zone = value.tzinfo
        if isinstance(zone, ZoneInfo) and zone.key:
            written["zone"] = zone.key
        elif zone is not None and value.utcoffset() is None:
            self._fail("has a time zone without a name, and no offset: use zoneinfo.ZoneInfo")
        if value.fold:
            written["fold"] = 1
        return written


def _string(text: str) -> Json:
    return text if _is_plain(text) else {"$str": _base64(text.encode("utf-8", "surrogatepass"))}


def _is_plain(text: str) -> bool:
    """Return whether UTF-8 and PostgreSQL take a text: without halves of surrogate pairs, and without NUL."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: int) -> Json:
    return value if -_MAX_INT <= value < _MAX_INT else {"$int": hex(value)}


def _real(value: float) -> Json:
    return value if isfinite(value) else {"$float": repr(value)}


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _sorted(items: list[Json]) -> list[Json]:
    """Sets have no order; what is written has one, so that equal messages are written alike."""
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _called(kind: type) -> str:
    return f"of type {kind.__module__}.{kind.__qualname__}"


def _text_of(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a broken `__repr__` is no reason to lose the rest
        text = object.__repr__(value)
    text = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return f"<not stored: {text}>".encode(errors="backslashreplace").decode().replace("\0", "\\0")


_WRITE: dict[type, Callable[[Writer, Any], Json]] = {
    str: lambda _, v: _string(v),
    int: lambda _, v: _number(v),
    float: lambda _, v: _real(v),
    dict: Writer._mapping,
    list: Writer._items,
    tuple: lambda w, v: {"$tuple": w._items(v)},
    set: lambda w, v: {"$set": _sorted(w._items(v))},
    frozenset: lambda w, v: {"$frozenset": _sorted(w._items(v))},
    bytes: lambda _, v: {"$bytes": _base64(v)},
    complex: lambda _, v: {"$complex": [_real(v.real), _real(v.imag)]},
    datetime: Writer._moment,
    time: Writer._moment,
    date: lambda _, v: {"$date": v.isoformat()},
    timedelta: lambda _, v: {"$timedelta": [v.days, v.seconds, v.microseconds]},
    Decimal: lambda _, v: {"$decimal": str(v)},
    UUID: lambda _, v: {"$uuid": str(v)},
    type(Path()): lambda _, v: {"$path": _string(str(v))},
}
