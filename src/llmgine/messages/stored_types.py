"""What class a stored name stands for, and how fields that an older version wrote become today's.

Nothing is imported for a name: what is not loaded is not found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, TypeVar

from llmgine.errors import CodecError, ConfigurationError, UnknownMessageTypeError
from llmgine.messages.message import Message
from llmgine.messages.scheduled_events import EVENT_CLASSES

__all__ = [
    "Fields",
    "find_class",
    "find_step",
    "is_model",
    "renamed",
    "schema_version",
    "type_name",
    "unknown",
    "upcast",
    "upcaster",
]

Fields: TypeAlias = dict[str, Any]
F = TypeVar("F", bound=Callable[[Fields], Fields])


class _Step(NamedTuple):
    function: Callable[[Fields], Fields]
    to: type | None


_steps: dict[tuple[str, int], _Step] = {}
_renamed: dict[str, type] = {}


def type_name(cls: type) -> str:
    """Return the name that a class is stored under: "package.module:Qualified.Name"."""
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__  # a child of multiprocessing says so
    return f"{module}:{cls.__qualname__}"


def is_model(cls: type) -> bool:
    """Return whether a class is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def schema_version(cls: type) -> int:
    """Return the version of a class's fields.

    Raises:
        CodecError: it is no version.
    """
    version: object = getattr(cls, "schema_version", 1)
    if type(version) is not int or version < 1:
        msg = f"{type_name(cls)}.schema_version has to be a whole number from 1 on, not {version!r}."
        raise CodecError(msg)
    return version


def find_class(name: str, home: str = "") -> type | None:
    """Return the class that a stored name stands for; None if this program does not have it.

    Args:
        name: as `type_name` gives it.
        home: the module of the message in which the name stands, for what a script called its own.
    """
    module, _, path = name.partition(":")
    return (
        _renamed.get(name)
        or _loaded(module, path)
        or _registered(path)
        or _of_a_script(module, path, home)
        or _local(name, path)
    )


def _loaded(module: str, path: str) -> type | None:
    """Look a class up without asking modules and classes, whose `__getattr__` might import something."""
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        if found is None or not hasattr(found, "__dict__"):
            return None
        found = vars(found).get(part)
    return found if isinstance(found, type) and _is_stored(found) else None


def _is_stored(cls: type) -> bool:
    return (
        issubclass(cls, Message | Enum)
        or is_dataclass(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        or is_model(cls)
    )


def _registered(path: str) -> type | None:
    cls: object = EVENT_CLASSES.get(path.rpartition(".")[2])
    return cls if isinstance(cls, type) and issubclass(cls, Message) else None


def _of_a_script(module: str, path: str, home: str) -> type | None:
    """A script calls itself `__main__` when it is run, and by its name when it is imported."""
    if module != "__main__":
        return _loaded("__main__", path)
    if home and (found := _loaded(home, path)):
        return found
    named = {type_name(cls): cls for cls in _messages() if cls.__qualname__ == path}
    return named.popitem()[1] if len(named) == 1 else None


def _local(name: str, path: str) -> type | None:
    """A class within a function is found while it is there: the youngest, if the function ran more than once."""
    if "<locals>" not in path:
        return None
    return next((cls for cls in reversed(_messages()) if type_name(cls) == name), None)


def _messages() -> list[type[Message]]:
    found: dict[type[Message], None] = {}
    waiting = Message.__subclasses__()
    while waiting:
        cls = waiting.pop(0)
        if cls not in found:
            found[cls] = None
            waiting += cls.__subclasses__()
    return [*found]


def renamed(old: str, cls: type) -> None:
    """Read what is stored under a former name, "package.module:Name", as `cls`; the version goes on.

    Raises:
        ConfigurationError: the name has another meaning already, or is none.
    """
    _check_name(old)
    if _renamed.setdefault(old, cls) is not cls:
        msg = f"{old} is read as {type_name(_renamed[old])} already; it cannot be {type_name(cls)} too."
        raise ConfigurationError(msg)


def upcaster(target: type | str, *, from_version: int, to: type | None = None) -> Callable[[F], F]:
    """Register how the fields of one version become those of the next: a pure function from dict to dict.

    Subclasses inherit it along with `schema_version`.

    Args:
        target: the class; or, where it is no more, the name under which it is stored.
        from_version: the version that the function takes.
        to: the class that goes on with the next version, where the one that `target` names does not.

    Raises:
        ConfigurationError: there is such a step already, or no version that it could lead to.
    """
    if type(from_version) is not int or from_version < 1:
        msg = f"from_version has to be a whole number from 1 on, not {from_version!r}."
        raise ConfigurationError(msg)
    name = target if isinstance(target, str) else type_name(target)
    _check_name(name)
    if not isinstance(target, str) and to is not None:
        msg = f"to= is for a class that is no more: give its name, {name!r}, instead of the class."
        raise ConfigurationError(msg)
    goal = target if isinstance(target, type) else to
    if goal is not None and schema_version(goal) <= from_version:
        msg = f"{type_name(goal)} is at version {schema_version(goal)}: set its schema_version to {from_version + 1}."
        raise ConfigurationError(msg)

    def register(function: F) -> F:
        if (name, from_version) in _steps:
            msg = f"There is an upcaster for {name} from version {from_version} already."
            raise ConfigurationError(msg)
        _steps[name, from_version] = _Step(function, to)
        return function

    return register


def _check_name(name: str) -> None:
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        msg = f"A stored name has the form 'package.module:Name', unlike {name!r}."
        raise ConfigurationError(msg)


def upcast(name: str, cls: type | None, version: int, fields: Fields) -> tuple[type, Fields]:
    """Return the class that stands for a stored name today, and the fields as it has them.

    Args:
        name: as it is stored.
        cls: what `find_class` says to it.
        version: of the fields.
        fields: may be changed.

    Raises:
        UnknownMessageTypeError: there is no such class.
        CodecError: the version is newer than the class, a step to it is missing, or a step failed.
    """
    while cls is None or version != schema_version(cls):
        step = find_step(name, cls, version)
        if step is None:
            raise _no_way(name, cls, version)
        try:
            fields = step.function(fields)
        except Exception as exc:  # whatever an application's function raises
            msg = f"The upcaster for {name} from version {version} failed: {type(exc).__name__}: {exc}"
            raise CodecError(msg) from exc
        if type(fields) is not dict:
            msg = f"The upcaster for {name} from version {version} has to return a dict, not {type(fields).__name__}."
            raise CodecError(msg)
        version += 1
        if step.to is not None:
            cls, name = step.to, type_name(step.to)
    return cls, fields


def find_step(name: str, cls: type | None, version: int) -> _Step | None:
    """Return what leads from a version to the next; None if nothing does."""
    step = _steps.get((name, version))
    for base in cls.__mro__ if cls is not None and step is None else ():
        step = _steps.get((type_name(base), version))
        if step is not None or "schema_version" in vars(base):  # from here on the versions are another class's
            break
    return step


def _no_way(name: str, cls: type | None, version: int) -> CodecError:
    if cls is None:
        return unknown(name)
    current = schema_version(cls)
    if version > current:
        return CodecError(
            f"{name} is stored in version {version}, but this program knows versions up to {current}: update it."
        )
    return CodecError(
        f"{name} is stored in version {version}, the class is at {current}, and nothing leads from one to the other: "
        f"register @upcaster({name.rpartition(':')[2]}, from_version={version})."
    )


def unknown(name: str) -> UnknownMessageTypeError:
    """Return the error that says how to make a class known."""
    module, _, path = name.partition(":")
    simple = path.rpartition(".")[2]
    return UnknownMessageTypeError(
        f"This program has no class {name}: import {module} first; or, if it has moved, call "
        f"renamed({name!r}, …) from llmgine.messages.codec or set EVENT_CLASSES[{simple!r}].",
        type_name=name,
    )
