"""The onion: middleware folded around a handler, the first added outermost. The only place where chains are built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from llmgine.bus.interfaces import CommandHandler, EventHandler, HandlerMiddleware
from llmgine.messages import CommandResult

__all__ = ["call_command_handler", "compose"]


def compose(
    middleware: Sequence[HandlerMiddleware],
    handler: CommandHandler | EventHandler,
    side: Literal["command", "event"],
) -> Callable[[Any], Any]:
    """Return a handler that runs `handler` inside all of the middleware; without middleware, the handler itself."""
    if not middleware:
        return handler
    layer = call_command_handler if side == "command" else _call_event_handler
    for outer in reversed(middleware):
        process: Callable[..., Any] = outer.process_command if side == "command" else outer.process_event
        layer = partial(process, next_middleware=layer)
    return partial(_enter, layer, handler)


def _enter(layer: Callable[[Any, Any], Any], handler: Callable[[Any], Any], message: Any) -> Any:
    return layer(message, handler)


async def call_command_handler(command: Any, handler: CommandHandler) -> CommandResult[Any]:
    """Run a handler, whatever kind of callable it is, and return the result that its outcome stands for."""
    outcome = handler(command)
    if hasattr(type(outcome), "__await__"):
        outcome = await outcome
    return CommandResult.of(outcome, command)


async def _call_event_handler(event: Any, handler: EventHandler) -> None:
    outcome = handler(event)
    if hasattr(type(outcome), "__await__"):
        await outcome
