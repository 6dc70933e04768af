"""Values from JSON: what a `Writer` has written, and nothing else. No name in it is imported, no text in it is run."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from llmgine.errors import CodecError
from llmgine.messages.message import Message
from llmgine.messages.stored_shape import (
    CHAIN,
    MAX_DEPTH,
    Index,
    base_names,
    field_names,
    is_behaviour,
    is_custom,
    path_text,
)
from llmgine.messages.stored_types import Fields, find_class, find_step, is_model, unknown, upcast

__all__ = ["Reader"]

Json: TypeAlias = Any

_BUILTIN = (BaseException, dict, list, tuple, set, frozenset, str, bytes, int, float)


class Reader:
    """Reads one message.

    Args:
        root: its name in errors.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._path: list[object] = []
        self._home = ""

    def value(self, value: Json) -> Any:
        """Return the value that JSON stands for."""
        kind = type(value)
        if kind is str or kind is int or kind is bool or kind is float or value is None:
            return value
        if kind is list:
            return self._items(value)
        if kind is not dict:
            self._fail(f"is malformed: {kind.__name__} is not JSON")
        for key in value:
            if type(key) is not str:
                self._fail(f"is malformed: the key {key!r:.80} is no text")
            if key[:1] == "$":
                return self._tagged(value)
        return self._mapping(value)

    def instance(self, name: str, version: Json, written: Json) -> Any:
        """Return an instance of a message class, a dataclass or a model.

        Args:
            name: of the class.
            version: of the fields.
            written: the fields.
        """
        if type(version) is not int or version < 1:
            self._fail(f"is malformed: the version has to be a whole number from 1 on, not {version!r:.80}")
        written, base = _without_base(written)
        cls = find_class(name, self._home)
        if cls is None and find_step(name, cls, version) is None:
            raise unknown(name)
        if cls is not None and not self._home:
            self._home = cls.__module__
        cls, read = upcast(name, cls, version, self.value(written))
        if is_model(cls):
            return cast("Any", cls).model_validate(read)
        if type(read) is not dict:
            self._fail("is malformed: its fields have to be an object")
        if issubclass(cls, Message):
            return self._message(cls, read, self.value(base))
        if not is_dataclass(cls) or issubclass(cls, _BUILTIN):
            self._fail(f"is malformed: {cls.__name__} is neither a class of messages nor one of data")
        return self._filled(cls, read)

    # Where in the message we are

    def _enter(self) -> None:
        if len(self._path) >= MAX_DEPTH:
            self._fail(f"is malformed: nested deeper than {MAX_DEPTH} levels")
        self._path.append(None)

    def _fail(self, problem: str, cause: BaseException | None = None) -> NoReturn:
        msg = f"{path_text(self._root, self._path)} {problem}."
        raise CodecError(msg) from cause

    # Containers

    def _items(self, values: Json) -> list[Any]:
        if type(values) is not list:
            self._fail(f"is malformed: a list was expected, not {type(values).__name__}")
        self._enter()
        read: list[Any] = []
        for number, value in enumerate(values):
            self._path[-1] = Index(number)
            read.append(self.value(value))
        self._path.pop()
        return read

    def _mapping(self, values: dict[str, Json]) -> dict[str, Any]:
        self._enter()
        read: dict[str, Any] = {}
        for key, value in values.items():
            self._path[-1] = Index(key)
            read[key] = self.value(value)
        self._path.pop()
        return read

    def _tagged(self, body: dict[str, Json]) -> Any:
        tag = next((key for key in body if key in _READ), None)
        if tag is None or not body.keys() <= {tag, *_BESIDE.get(tag, ())}:
            self._fail(f"is malformed, or written by a newer version: what are {', '.join(map(str, body)):.80}?")
        try:
            return _READ[tag](self, body)
        except CodecError:
            raise
        except Exception as exc:  # noqa: BLE001  # whatever constructors say to nonsense
            self._fail(f"is malformed: {tag}: {type(exc).__name__}: {exc}", exc)

    def _pairs(self, body: dict[str, Json]) -> dict[Any, Any]:
        self._enter()
        read: dict[Any, Any] = {}
        for pair in body["$dict"]:
            if type(pair) is not list or len(pair) != 2:
                self._fail("is malformed: a key with its value was expected")
            key = self.value(pair[0])
            self._path[-1] = Index(key)
            read[key] = self.value(pair[1])
        self._path.pop()
        return read

    def _tuple(self, body: dict[str, Json]) -> tuple[Any, ...]:
        items = self._items(body["$tuple"])
        if "type" not in body:
            return (*items,)
        cls: Any = self._class(body["type"])
        if not issubclass(cls, tuple) or len(getattr(cls, "_fields", ())) != len(items):
            self._fail(f"is malformed: {cls.__name__} is no tuple with {len(items)} fields")
        return tuple.__new__(cls, items)

    # Single values

    def _text(self, value: Json) -> str:
        read = self.value(value)
        if type(read) is not str:
            self._fail(f"is malformed: a text was expected, not {type(read).__name__}")
        return read

    def _moment(self, body: dict[str, Json]) -> datetime:
        written = datetime.fromisoformat(body["$datetime"]).replace(fold=body.get("fold", 0))
        if "zone" not in body:
            return written
        zone = ZoneInfo(body["zone"])
        local = written.replace(tzinfo=zone)
        # Where the rules of the zone have changed since, the instant holds.
        return local if local.utcoffset() == written.utcoffset() else written.astimezone(zone)

    def _time(self, body: dict[str, Json]) -> time:
        read = time.fromisoformat(body["$time"]).replace(fold=body.get("fold", 0))
        return read.replace(tzinfo=ZoneInfo(body["zone"])) if "zone" in body else read

    # Classes

    def _class(self, name: Json) -> type:
        cls = find_class(self._text(name), self._home)
        if cls is None:
            raise unknown(name)
        return cls

    def _member(self, body: dict[str, Json]) -> Enum:
        cls = self._class(body["$enum"])
        if not issubclass(cls, Enum):
            self._fail(f"is malformed: {cls.__name__} is no enumeration")
        if "value" in body and issubclass(cls, Flag):
            return cls(self.value(body["value"]))
        return cls.__members__[body["name"]]

    def _object(self, body: dict[str, Json]) -> Any:
        return self.instance(self._text(body["$object"]), body["version"], body["fields"])

    def _message(self, cls: type[Message], read: Fields, base: Fields) -> Message:
        if not is_custom(cls):
            return cast("Message", self._filled(cls, base | read))
        message = cast("object", cls.from_dict(read))
        if not isinstance(message, Message):
            self._fail(f"cannot be read: from_dict returned {type(message).__name__}, not a message")
        self._set(message, base)
        return message

    def _filled(self, cls: Any, read: Fields) -> Any:
        target = cls.__new__(cls)
        for f in fields(cls):
            if f.name in read:
                continue
            if f.default is not MISSING:
                object.__setattr__(target, f.name, f.default)
            elif f.default_factory is not MISSING:
                object.__setattr__(target, f.name, f.default_factory())
            else:
                self._fail(
                    f"has no {f.name}: give this field a default, or count schema_version up and add an upcaster"
                )
        self._set(target, read)
        return target

    def _set(self, target: Any, values: Fields) -> None:
        """Set attributes, past what forbids it in frozen classes."""
        cls: Any = type(target)
        base = base_names(cls) if isinstance(target, Message) else ()
        for name in base:  # first the id: what is noted beside it depends on it
            if name in values:
                object.__setattr__(target, name, self._checked(name, values[name], base))
        names = field_names(cls)
        for name, value in values.items():
            if name in base:
                continue
            if name not in names and (name.startswith("_") or is_behaviour(cls, name)):
                self._fail(f"is malformed: {cls.__name__} has no field {name}")
            object.__setattr__(target, name, value)

    def _checked(self, name: str, value: Any, base: tuple[str, ...]) -> Any:
        if name == "metadata":
            fits = type(value) is dict
        elif name == base[0]:
            fits = type(value) is str
        else:
            fits = name not in CHAIN or value is None or type(value) is str
        if not fits:
            self._fail(f"is malformed: its {name} cannot be {value!r:.80}")
        return value


def _without_base(written: Json) -> tuple[Json, Json]:
    if type(written) is not dict or "$base" not in written:
        return written, {}
    return {key: value for key, value in written.items() if key != "$base"}, written["$base"]


_FLOATS = {repr(value): value for value in (float("inf"), float("-inf"), float("nan"))}
_READ: dict[str, Callable[[Reader, dict[str, Json]], Any]] = {
    "$str": lambda _, body: b64decode(body["$str"], validate=True).decode("utf-8", "surrogatepass"),
    "$int": lambda _, body: int(body["$int"], 16),
    "$float": lambda _, body: _FLOATS[body["$float"]],
    "$dict": Reader._pairs,
    "$tuple": Reader._tuple,
    "$set": lambda reader, body: {*reader._items(body["$set"])},
    "$frozenset": lambda reader, body: frozenset(reader._items(body["$frozenset"])),
    "$bytes": lambda _, body: b64decode(body["$bytes"], validate=True),
    "$complex": lambda reader, body: complex(*reader._items(body["$complex"])),
    "$datetime": Reader._moment,
    "$time": Reader._time,
    "$date": lambda _, body: date.fromisoformat(body["$date"]),
    "$timedelta": lambda _, body: timedelta(*body["$timedelta"]),
    "$decimal": lambda reader, body: Decimal(reader._text(body["$decimal"])),
    "$uuid": lambda reader, body: UUID(reader._text(body["$uuid"])),
    "$path": lambda reader, body: Path(reader._text(body["$path"])),
    "$enum": Reader._member,
    "$object": Reader._object,
}
_BESIDE = {
    "$tuple": {"type"},
    "$datetime": {"zone", "fold"},
    "$time": {"zone", "fold"},
    "$enum": {"name", "value"},
    "$object": {"version", "fields"},
}
