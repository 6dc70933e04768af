"""The boundary around a handler: what it raises stays here, and one that keeps on raising is left alone for a while."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from llmgine.messages import Event

__all__ = ["MUTE_AFTER", "PROBE_EVERY", "HandlerStats", "ObservabilityHandler", "Sink"]

_log = logging.getLogger("llmgine.observability")

MUTE_AFTER = 200
"""Failures in a row after which a handler is muted."""
PROBE_EVERY = 30.0
"""Seconds after which a muted handler is tried again, with one event."""


class ObservabilityHandler:
    """Does something with every event. One that has a `close` is closed with its manager."""

    def handle(self, event: Event) -> None:
        """Take an event. This runs while the publisher waits, so it should be quick; what it raises is logged."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class HandlerStats:
    """What has become of the events since a handler was registered: `seen` = handled + dropped + waiting."""

    name: str
    """The handler's class."""
    seen: int = 0
    failures: int = 0
    """How many of those that it was given it raised on."""
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    """How many it was never given, by reason: "muted"; if it is slow also "queue full", "closed", "out of time", and
    "no thread" where none could be started."""
    waiting: int = 0
    muted: bool = False


class Sink:
    """One handler and its failures. Whoever calls `handle` tells it of what that raises, by `failed`."""

    __slots__ = ("_next_probe", "failures", "given", "handler", "muted", "name", "since", "skipped", "streak")

    def __init__(self, handler: object, given: object = None, since: int = 0) -> None:
        """Begin to watch a handler.

        Args:
            handler: is shown the events.
            given: what was registered, if that is another.
            since: how many events there had been before.
        """
        self.handler: Any = handler
        self.given = handler if given is None else given
        self.name = type(self.given).__name__
        self.since = since
        self.muted = False
        self.streak = 0
        """Failures since it last worked."""
        self.skipped = 0
        """Events that it was not shown because it was muted."""
        self.failures: Counter[str] = Counter()
        """By the class of the error."""
        self._next_probe = 0.0

    def handle(self, event: Event) -> None:
        """Show the handler an event, unless it is muted."""
        if self.muted and self.skips():
            return
        self.handler.handle(event)
        if self.streak:
            self.worked()

    def skips(self) -> bool:
        """Tell whether a muted handler is to be left alone with an event, and count that."""
        now = monotonic()
        if now >= self._next_probe:
            self._next_probe = now + PROBE_EVERY
            return False
        self.skipped += 1
        return True

    def worked(self) -> None:
        """Note that the handler has taken an event."""
        self.streak = 0
        if self.muted:
            self.muted = False
            _log.warning("%s works again; it was not shown %d events so far", self.name, self.skipped)

    def failed(self, event: Event, error: BaseException) -> None:
        """Note that the handler raised. Logged are the first failure of each kind, and that the handler is muted."""
        kind = type(error).__name__
        self.failures[kind] += 1
        if self.failures[kind] == 1:
            text = "%s failed on %s: %r. More failures of this kind are counted and not logged."
            _log.error(text, self.name, type(event).__name__, error, exc_info=error)
        self.streak += 1
        if self.streak >= MUTE_AFTER and not self.muted:
            self.muted = True
            self._next_probe = monotonic() + PROBE_EVERY
            text = "%s failed %d times in a row, and is muted; it is tried again every %g s. The last failure: %r"
            _log.error(text, self.name, self.streak, PROBE_EVERY, error)

    def stats(self, seen: int) -> HandlerStats:
        """Return what has become of the events, of which there have been `seen` in all."""
        dropped = {"muted": self.skipped} if self.skipped else {}
        return HandlerStats(self.name, seen - self.since, self.failures.total(), dropped, muted=self.muted)

    def report(self) -> None:
        """Log what was counted and not logged."""
        for kind, times in self.failures.items():
            if times > 1:
                _log.error("%s failed %d times with %s", self.name, times, kind)
        if self.skipped:
            _log.error("%s was not shown %d events while it was muted", self.name, self.skipped)
