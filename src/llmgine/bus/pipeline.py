"""The onion: middleware folded around a handler, the first added outermost. The only place where chains are built."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

__all__ = ["Layer", "call", "compose"]

Layer: TypeAlias = Callable[[Any, Callable[[Any], Any]], Awaitable[Any]]
"""Takes a message and the handler it is for, and handles it."""


def compose(
    middleware: Sequence[Callable[..., Awaitable[Any]]], handler: Callable[[Any], Any], innermost: Layer
) -> Callable[[Any], Any]:
    """Return a handler that runs `handler` inside all of the middleware.

    Args:
        middleware: the method of each that handles the kind of message: `(message, handler, next_middleware)`.
        handler: what to wrap.
        innermost: calls the handler.
    """
    layer = innermost
    for process in reversed(middleware):
        layer = _around(process, layer)
    return partial(_enter, layer, handler)


async def call(message: Any, handler: Callable[[Any], Any]) -> Any:
    """Call a handler, whatever kind of callable it is, and return its outcome."""
    outcome = handler(message)
    return await outcome if hasattr(type(outcome), "__await__") else outcome


def _around(process: Callable[..., Awaitable[Any]], inner: Layer) -> Layer:
    def layer(message: Any, handler: Callable[[Any], Any]) -> Awaitable[Any]:
        return process(message, handler, inner)

    return layer


def _enter(layer: Layer, handler: Callable[[Any], Any], message: Any) -> Awaitable[Any]:
    return layer(message, handler)
