"""What caused what. A chain follows each message into its handlers, and from there to the messages that they send.

The chain lives in a context variable and holds ids and numbers only, so that nothing large stays alive because a timer
or a forgotten task has copied the context.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, TypeAlias

from llmgine.messages import Command, Event, SessionID
from llmgine.messages.ids import Id, write
from llmgine.messages.message import origin_of

__all__ = ["Chain", "Holds", "current", "deadline", "go_below", "stamp", "traceparent"]

Holds: TypeAlias = tuple[tuple[SessionID, int], ...]
"""The lanes that wait for this chain: each as its session and the number of the delivery under way there."""
Chain: TypeAlias = tuple[Id, Id, Holds, float | None, str | None, bool]
"""Correlation id; id of the message handled; lanes held; deadline (seconds of the loop's clock); traceparent; whether
the message is a command."""

current: ContextVar[Chain | None] = ContextVar("llmgine_chain", default=None)


def deadline() -> float | None:
    """Return when the command that is being handled must have ended, in seconds of the loop's clock."""
    chain = current.get()
    return None if chain is None else chain[3]


def traceparent() -> str | None:
    """Return the span of what is being handled, where tracing is on."""
    chain = current.get()
    return None if chain is None else chain[4]


def go_below(traceparent: str | None) -> None:
    """Have what the current task sends from now on be below a span, if it is sent from within a chain."""
    chain = current.get()
    if chain is not None and traceparent is not None:
        current.set((*chain[:4], traceparent, chain[5]))


def stamp(message: Command[Any] | Event, chain: Chain) -> None:
    """Note on a message that it was sent from within a chain, unless it says already what caused it."""
    cause = chain[1]
    made, identity = message._timestamp, message._identity  # in this order: see `origin_of`
    if type(identity) is int:  # nobody has read its id, nor noted a cause; most are so
        if (made, identity) != cause:
            message._identity = (made, identity), chain[0], cause, chain[4]
        return
    own, correlation, causation, traceparent = origin_of(message)
    if causation is not None or own == cause:
        return
    if type(own) is not type(cause) and write(own) == write(cause):  # one of them has been read, and so written
        return
    message._identity = own, correlation or chain[0], cause, traceparent or chain[4]
