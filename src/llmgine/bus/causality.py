"""What caused what. A chain follows each message into its handlers, and from there to the messages that they send.

The chain lives in a context variable and holds ids and numbers only, so that nothing large stays alive because a timer
or a forgotten task has copied the context.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, TypeAlias

from llmgine.messages import Command, Event, SessionID
from llmgine.messages.message import id_of

__all__ = ["Chain", "Holds", "current", "stamp"]

Holds: TypeAlias = tuple[tuple[SessionID, int], ...]
"""The lanes that wait for this chain: each as its session and the number of the delivery under way there."""
Chain: TypeAlias = tuple[str, str, Holds, float | None, str | None]
"""Correlation id; id of the message handled; lanes held; deadline (seconds of the loop's clock); traceparent."""

current: ContextVar[Chain | None] = ContextVar("llmgine_chain", default=None)


def stamp(message: Command[Any] | Event, chain: Chain) -> None:
    """Note on a message that it was sent from within a chain, unless it says already what caused it."""
    correlation_id, cause, _, _, traceparent = chain
    if message.causation_id is None and id_of(message) != cause:
        message.causation_id = cause
        message._correlation_id = message._correlation_id or correlation_id
        message.traceparent = message.traceparent or traceparent
