"""One chain out of a log of any size: from an id, or the beginning of one, to the events that have to do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llmgine.observability.log_filter import LogFilter
from llmgine.observability.log_reader import LogReader

__all__ = ["Chain", "Search", "find_chain", "find_message"]

OpenReader: TypeAlias = Callable[[LogFilter], LogReader]
"""Begins to read the log from its beginning."""

MOST = 200_000
"""Events of a chain that are kept; a log may have a chain that never ends."""
_CANDIDATES = 10
_WHOLE = 32
"""The length of the bus's own ids: nothing longer begins with one."""


@dataclass(slots=True)
class Chain:
    """The events with one correlation id."""

    id: str
    """What was asked for, in full; of several that would do, one."""
    correlation_id: str
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """By their dates."""
    left_out: int = 0
    """How many more there are."""

    def add(self, data: dict[str, Any]) -> None:
        """Take an event in, unless there are too many."""
        if len(self.events) < MOST:
            self.events.append(data)
        else:
            self.left_out += 1


@dataclass(frozen=True, slots=True)
class Search:
    """What came of the search for an id."""

    chain: Chain | None = None
    candidates: tuple[str, ...] = ()
    """Where there is no chain: ids that begin so, each with a date and an event type, not too many to show."""
    more: bool = False
    """Whether there are others."""


def find_chain(identity: str, open_reader: OpenReader, *, exact: bool = False) -> Search:
    """Find the chain that an event, a command, or all of it together has an id of.

    Args:
        identity: an event's id, a command's, or a correlation id; or how it begins, if no other does.
        open_reader: is called at most twice.
        exact: whether two ids of one chain are different answers.

    Returns:
        The chain; or, if the id is the beginning of several that differ, those; or nothing if it is of none.
    """
    chains: dict[str, str] = {}  # what begins like that, and the correlation id of it
    described: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    complete = True
    for line in open_reader(LogFilter(mentions=identity)):
        data = line.data
        correlation = str(data.get("correlation_id") or "")
        for name, own in _ids(data):
            if own.startswith(identity) and (own not in chains or name != "causation_id"):
                chains[own] = correlation
                if name != "causation_id":
                    described.setdefault(own, f"{own}  {data.get('timestamp')}  {data.get('event_type')}")
        found.append(data)
        if len(identity) >= _WHOLE and identity in described:
            complete = False
            break
        if len(chains) > 100 * _CANDIDATES or len(found) > MOST:
            complete = False
            break
    if identity in chains:
        chains = {identity: chains[identity]}
    if len(set(chains.values())) != 1 or (exact and len(chains) > 1):
        shown = tuple(described.get(own, own) for own in list(chains)[:_CANDIDATES])
        return Search(None, shown, len(chains) > len(shown))
    own, correlation = next(iter(chains.items()))
    chain = Chain(own, correlation)
    if complete and correlation.startswith(identity):  # whoever names the chain has been found already
        lines: Iterator[dict[str, Any]] = iter(found)
    else:
        lines = (line.data for line in open_reader(LogFilter(correlation_id=correlation)))
    for data in lines:
        if data.get("correlation_id") == correlation:
            chain.add(data)
    return Search(chain)


def find_message(identity: str, open_reader: OpenReader) -> list[dict[str, Any]]:
    """Return the events that are a message, or tell of a command, wherever they are in the log."""
    lines = open_reader(LogFilter(mentions=identity))
    return [line.data for line in lines if any(own == identity for name, own in _ids(line.data) if name in _OWN)]


_OWN = frozenset({"event_id", "command_id"})


def _ids(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the ids that an event is found by."""
    for name in ("event_id", "correlation_id", "causation_id"):
        if isinstance(own := data.get(name), str):
            yield name, own
    for name in ("command", "command_result"):
        nested = data.get(name)
        if isinstance(nested, dict) and isinstance(own := nested.get("command_id"), str):
            yield "command_id", own
