"""What every event passes before it is delivered: streams and observers, who see it; filters, who may turn it away."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from llmgine.bus.interfaces import EventFilter, Observer
from llmgine.bus.tracing import TraceEvent
from llmgine.messages import Command, Event, SessionID
from llmgine.messages.events import CommandResultEvent, CommandStartedEvent
from llmgine.messages.ids import Id, write
from llmgine.messages.message import origin_of

__all__ = ["Gate"]

_log = logging.getLogger("llmgine.bus")
_OF_COMMANDS = CommandStartedEvent, CommandResultEvent, TraceEvent


class Gate:
    """Decides which events are delivered, and shows them all."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []
        self.turned_away: Counter[str] = Counter()
        """How many events, by the class of the filter."""
        self.open = True
        """Whether nobody looks on and nobody decides, so that nothing need be asked."""
        self.filters: list[EventFilter] = []
        self._streams: dict[str, list[Callable[[Event], None]]] = {}
        self._written: dict[Id, str] = {}
        """The ids of the chains that are listened to, so that they are not written for each event."""

    def add_observer(self, observer: Observer) -> None:
        """Show every event to `observer` from now on."""
        self.observers.append(observer)
        self.open = False

    def remove_observer(self, observer: Observer) -> None:
        """Show `observer` nothing more."""
        self.observers.remove(observer)
        self._look()

    def add_filter(self, event_filter: EventFilter) -> None:
        """Ask `event_filter` about every event from now on."""
        self.filters.append(event_filter)
        self.open = False

    def clear_filters(self) -> None:
        """Ask nobody any more."""
        self.filters.clear()
        self.turned_away.clear()
        self._look()

    @contextmanager
    def listening(self, command: Command[Any], put: Callable[[Event], None]) -> Generator[None]:
        """Show the events of a command's chain to `put`, save for what announces commands."""
        own, correlation, _, _ = origin_of(command)
        chain_id = correlation or own
        written = self._written[chain_id] = write(chain_id)
        listeners = self._streams.setdefault(written, [])
        listeners.append(put)
        self.open = False
        try:
            yield
        finally:
            listeners.remove(put)
            if not listeners:
                del self._streams[written]
            self._written.pop(chain_id, None)  # another stream of this chain does without
            self._look()

    def admit(self, event: Event, session: SessionID) -> bool:
        """Show an event to whoever looks on, and return whether it may be delivered."""
        if self._streams and not isinstance(event, _OF_COMMANDS):
            identity = event._identity
            if type(identity) is not tuple or len(identity) != 4:
                identity = origin_of(event)
            chain_id = identity[1] or identity[0]
            for put in self._streams.get(self._written.get(chain_id) or write(chain_id), ()):
                put(event)
        if self.observers:
            self.show(event)
        for event_filter in self.filters:
            try:
                passes = event_filter.should_handle(event, session)
            except Exception:  # noqa: BLE001  # a broken filter must not lose events
                _log.exception("%s failed on %s, which passes", type(event_filter).__name__, type(event).__name__)
                continue
            if not passes:
                self.turned_away[type(event_filter).__name__] += 1
                return False
        return True

    def show(self, event: Event) -> None:
        """Show an event to the observers alone."""
        for observer in self.observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001  # an observer must not disturb what it observes
                _log.exception("An observer failed on %s", type(event).__name__)

    def _look(self) -> None:
        self.open = not (self.observers or self.filters or self._streams)
