"""A table that cannot grow without limit, for what may never be said to have ended."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Bounded"]

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """A table that gives up its oldest entry when there are too many. It may be used from any thread."""

    def __init__(self, limit: int, give_up: Callable[[K, V], None] = lambda _key, _value: None) -> None:
        """Keep up to `limit` entries, and call `give_up` with each that has to go."""
        self._limit = limit
        self._give_up = give_up
        self._lock = Lock()
        self._entries: dict[K, V] = {}

    def put(self, key: K, value: V) -> V | None:
        """Add an entry as the newest. Return what the key had before."""
        with self._lock:
            before = self._entries.pop(key, None)
            self._entries[key] = value
            if len(self._entries) <= self._limit:
                return before
            oldest = next(iter(self._entries))
            given_up = self._entries.pop(oldest)
        self._give_up(oldest, given_up)
        return before

    def get(self, key: K) -> V | None:
        """Return what a key has."""
        return self._entries.get(key)

    def pop(self, key: K) -> V | None:
        """Remove an entry and return it."""
        with self._lock:
            return self._entries.pop(key, None)

    def drain(self) -> list[V]:
        """Remove every entry. Return them, the newest first."""
        with self._lock:
            values = list(reversed(self._entries.values()))
            self._entries.clear()
        return values
