"""What can be told of a handler and its message class when they are registered, so that nobody finds out later."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType, MethodType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from llmgine.errors import ConfigurationError
from llmgine.messages import Command, Event
from llmgine.messages.message import Message

__all__ = ["check_handler", "check_message", "check_message_type", "name_of"]


_MOST_ACCEPTED = 1000
_accepted: dict[tuple[int, type, int, bool], tuple[CodeType, Any]] = {}
"""What was found in order, by the identity of a function's code and of its annotation, which the values keep alive."""


def check_message(message: Any, base: type[Command[Any] | Event]) -> None:
    """Refuse to execute what is no command, or to publish what is no event.

    Raises:
        ConfigurationError: it is something else, or its class is broken.
    """
    if isinstance(message, base):
        check_message_type(type(message), base)
        return
    name = type(message).__name__
    if isinstance(message, type):
        given = f"{message.__name__} is a class: make a message of it, {message.__name__}(…)"
    elif isinstance(message, Command):
        given = f"{name} is a command: bus.execute({name}(…))"
    elif isinstance(message, Event):
        given = f"{name} is an event: bus.publish({name}(…))"
    else:
        given = f"{message!r}, of type {name}, is neither a Command nor an Event"
    msg = f"{'Commands are executed' if base is Command else 'Events are published'}; {given}."
    raise ConfigurationError(msg)


def check_message_type(message_type: Any, base: type[Message]) -> None:
    """Refuse what is no message class, or one whose fields nothing sets.

    Raises:
        ConfigurationError: it is no subclass of `base`, or it declares fields and lacks the decorator.
    """
    if not (isinstance(message_type, type) and issubclass(message_type, base)):
        msg = f"Handlers are registered for a subclass of {base.__name__}, not for {message_type!r}."
        raise ConfigurationError(msg)
    for cls in message_type.__mro__[: message_type.__mro__.index(base)]:
        if "__init__" in cls.__dict__:  # its own, or what @dataclass has made of all fields so far
            return
        annotations = inspect.get_annotations(cls)
        bare = [name for name, kind in annotations.items() if not (hasattr(cls, name) or _is_class_var(kind))]
        if bare:
            msg = (
                f"{cls.__name__} declares {', '.join(bare)}, but nothing sets them: decorate the class with "
                "@dataclass, or give it an __init__."
            )
            raise ConfigurationError(msg)


def check_handler(handler: Any, message_type: type[Message], *, named: bool = False) -> None:
    """Refuse what cannot be called with a message of the class.

    Args:
        handler: what is to be registered.
        message_type: what it is registered for.
        named: whether that is meant by name, so that the handler may be annotated with something narrower.

    Raises:
        ConfigurationError: it is not callable, is a class, takes another number of arguments, or is annotated with
            another message class.
    """
    function = handler.__func__ if type(handler) is MethodType else handler
    annotation = None
    if type(function) is FunctionType:
        code = function.__code__
        first = int(function is not handler)
        if code.co_argcount == first + 1 and not code.co_kwonlyargcount:
            annotation = function.__annotations__.get(code.co_varnames[first])
            if annotation is None or annotation is message_type or annotation == message_type.__name__:
                return  # most handlers, at a tenth of the cost
    # Sessions register the same functions again and again, or closures of the same code.
    known = (id(getattr(function, "__code__", function)), message_type, id(annotation), named)
    if known in _accepted:
        return
    _check_call(handler, message_type)
    if not named:
        _check_annotation(handler, message_type)
    if type(function) is FunctionType:
        if len(_accepted) >= _MOST_ACCEPTED:
            _accepted.clear()
        _accepted[known] = function.__code__, annotation


def name_of(handler: Any) -> str:
    """Return what people know a handler by: its module and qualified name."""
    while isinstance(handler, partial):
        handler = handler.func
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else named.__qualname__


def _check_call(handler: Any, message_type: type[Message]) -> None:
    if not callable(handler) or isinstance(handler, type):
        kind = "a class: register an instance, or a function" if isinstance(handler, type) else "not callable"
        msg = (
            f"The handler of {message_type.__name__} must be a callable that takes the message; {handler!r} is {kind}."
        )
        raise ConfigurationError(msg)
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(None)
    except TypeError:
        msg = (
            f"{name_of(handler)}{signature} cannot handle {message_type.__name__}: a handler is called with one "
            "argument, the message."
        )
        raise ConfigurationError(msg) from None


def _check_annotation(handler: Any, message_type: type[Message]) -> None:
    annotated = _annotated_types(handler)
    if annotated and not any(issubclass(message_type, kind) for kind in annotated):
        expected = " or ".join(kind.__name__ for kind in annotated)
        msg = (
            f"{name_of(handler)} takes {expected}, and cannot handle {message_type.__name__}. Register it for what it "
            "takes, or mend its annotation."
        )
        raise ConfigurationError(msg)


def _annotated_types(handler: Any) -> list[type[Message]]:
    """Return the message classes that a handler's first parameter is annotated with; none if it says anything else."""
    target: Callable[..., Any] = handler
    if not isinstance(handler, partial | FunctionType | MethodType):
        target = type(handler).__call__
    if isinstance(target, partial):
        return []
    try:
        hints = get_type_hints(target)
        first = next(iter(inspect.signature(handler).parameters))
    except Exception:  # noqa: BLE001  # an annotation may be anything, and need not exist when it is not read
        return []
    hint = hints.get(first)
    kinds = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    kinds = tuple(get_origin(kind) or kind for kind in kinds)
    if all(isinstance(kind, type) and issubclass(kind, Message) for kind in kinds):
        return [kind for kind in kinds if kind is not None]
    return []


def _is_class_var(kind: Any) -> bool:
    return get_origin(kind) is ClassVar or kind is ClassVar or str(kind).startswith(("ClassVar", "typing.ClassVar"))
