"""Messages as JSON and back: a class's name, the version of its fields, and the fields.

Nothing in what is stored is ever run or imported: `decode` fills in instances of classes that are there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from llmgine.errors import CodecError
from llmgine.messages.message import Message
from llmgine.messages.stored_reader import Reader
from llmgine.messages.stored_types import renamed, schema_version, type_name, upcaster
from llmgine.messages.stored_writer import Writer

__all__ = ["StoredMessage", "decode", "encode", "renamed", "type_name", "upcaster"]

_LOSSY = "$lossy"


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it is kept."""

    type_name: str
    """ "package.module:Qualified.Name" of its class."""
    version: int
    """Of the class's fields: its `schema_version` when it was written."""
    data: dict[str, Any]
    """JSON: the fields."""

    @property
    def lost(self) -> tuple[str, ...]:
        """The paths of what could not be stored, where a text stands now; empty for what is whole."""
        lost = self.data.get(_LOSSY, ())
        return tuple(map(str, lost)) if isinstance(lost, list) else ()

    @property
    def lossy(self) -> bool:
        """Whether something could not be stored."""
        return bool(self.lost)

    @property
    def payload(self) -> str:
        """The data as JSON text: compact, with no character that UTF-8 or a database would not take."""
        return _JSON.encode(self.data)

    @classmethod
    def from_payload(cls, type_name: str, version: int, payload: str) -> Self:
        """Return the stored message whose data is a JSON text.

        Raises:
            CodecError: it is no such text.
        """
        try:
            data = json.loads(payload, parse_constant=_refuse)
        except (TypeError, ValueError, RecursionError) as exc:
            msg = f"What is stored of {type_name} is not JSON: {exc}"
            raise CodecError(msg) from exc
        if type(data) is not dict:
            msg = f"What is stored of {type_name} has to be a JSON object, not {type(data).__name__}."
            raise CodecError(msg)
        return cls(type_name, version, data)


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def encode(message: Message, *, lossy: bool = False) -> StoredMessage:
    """Return a message in a form that can be stored, with its ids, date, metadata, session and what caused it.

    Attributes that begin with "_" are left out unless they are fields. A class that overrides `to_dict` or `from_dict`
    is stored as these say. A subclass of str, int or float comes back as that; two references to one object come back
    as two objects.

    Args:
        message: of any class.
        lossy: put a text in the place of what cannot be stored, rather than raise. `StoredMessage.lost` says where.

    Raises:
        CodecError: something in it cannot be stored; the sentence says what, and where it stands.
    """
    cls = type(message)
    writer = Writer(cls.__name__, lossy=lossy)
    try:
        version = schema_version(cls)
    except CodecError:
        if not lossy:
            raise
        version = 1
        writer.lost.append(f"{cls.__name__}.schema_version")
    data = writer.message(message)
    if writer.lost:
        data[_LOSSY] = writer.lost
    return StoredMessage(type_name(cls), version, data)


def decode(stored: StoredMessage) -> Message:
    """Return the message that was stored. `__init__` and `__post_init__` are not called, as in `Message.from_dict`.

    Raises:
        UnknownMessageTypeError: no class that is loaded has this name.
        CodecError: what is stored makes no sense, or is of a version that leads nowhere.
    """
    name: object = stored.type_name
    if type(name) is not str or type(stored.data) is not dict:
        msg = f"A stored message has a class's name and a dict of fields, unlike {stored!r:.200}."
        raise CodecError(msg)
    fields = {key: value for key, value in stored.data.items() if key != _LOSSY}
    try:
        message = Reader(name).instance(name, stored.version, fields)
    except CodecError:
        raise
    except Exception as exc:  # whatever a class of an application says to nonsense
        msg = f"{name} cannot be read: {type(exc).__name__}: {exc}"
        raise CodecError(msg) from exc
    if not isinstance(message, Message):
        msg = f"{name} is no class of messages."
        raise CodecError(msg)
    return message
