"""Messages within bounds: what goes beyond them is dropped from the front, in constant time for each message added."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from llmgine.llm.context.message import ChatMessage, Role

__all__ = ["TrimmedMessages"]


@dataclass(slots=True, eq=False)
class _Group:
    """A message with the tool results behind it: what is dropped together."""

    messages: list[ChatMessage] = field(default_factory=list[ChatMessage])
    size: int = 0

    @property
    def is_user(self) -> bool:
        return self.messages[0].role is Role.USER


class TrimmedMessages:
    """Messages, oldest first. The last user message and the last group stay whatever their size.

    Args:
        max_messages: bound of their number.
        max_size: bound of their sizes' sum.
        keep_first: whether the first user message stays too.
    """

    def __init__(self, max_messages: int, max_size: int, *, keep_first: bool) -> None:
        self._max_messages = max_messages
        self._max_size = max_size
        self._keep_first = keep_first
        self.clear()

    def clear(self) -> None:
        """Forget them all."""
        self._passed: list[_Group] = []
        """User messages, at most two, that stayed while what is behind them was dropped."""
        self._rest: deque[_Group] = deque()
        self._first_user: _Group | None = None
        self._last_user: _Group | None = None
        self._count = 0
        self.size = 0
        """Characters, as messages count them."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ChatMessage]:
        return (message for group in chain(self._passed, self._rest) for message in group.messages)

    @property
    def last(self) -> ChatMessage | None:
        """The newest message."""
        group = self._last_group
        return None if group is None else group.messages[-1]

    def add(self, message: ChatMessage) -> None:
        """Add a message, and drop what there is no room for any more."""
        group = self._last_group
        if message.role is not Role.TOOL or group is None:
            group = _Group()
            self._rest.append(group)
            if message.role is Role.USER:
                self._last_user = group
                self._first_user = self._first_user or group
        group.messages.append(message)
        size = message.size
        group.size += size
        self.size += size
        self._count += 1
        if self._is_over:
            self._trim()

    def pop_user(self) -> bool:
        """Forget the newest message if it is a user's. Return whether it was."""
        if self.last is None or self.last.role is not Role.USER:
            return False
        group = (self._rest or self._passed).pop()
        self._forget(group)
        groups = [*self._passed, *self._rest]
        self._last_user = next((group for group in reversed(groups) if group.is_user), None)
        self._first_user = next((group for group in groups if group.is_user), None)
        return True

    @property
    def _last_group(self) -> _Group | None:
        groups = self._rest or self._passed
        return groups[-1] if groups else None

    @property
    def _is_over(self) -> bool:
        return self._count > self._max_messages or self.size > self._max_size

    def _stays(self, group: _Group) -> bool:
        return group is self._last_user or (self._keep_first and group is self._first_user)

    def _trim(self) -> None:
        for group in [*self._passed]:
            if self._is_over and not self._stays(group):
                self._passed.remove(group)
                self._forget(group)
        while len(self._rest) > 1:
            group = self._rest[0]
            # A conversation that begins with a reply to nothing is refused by some providers.
            orphaned = not self._passed and not group.is_user
            if not (self._is_over or orphaned):
                break
            self._rest.popleft()
            if self._stays(group):
                self._passed.append(group)
            else:
                self._forget(group)

    def _forget(self, group: _Group) -> None:
        self._count -= len(group.messages)
        self.size -= group.size
        if group is self._first_user:
            self._first_user = None
