"""One event as a row of the log of events, in two steps: what the publisher has to wait for, and the rest."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from llmgine.database.tables import clean, microseconds, stored_columns
from llmgine.messages import Event
from llmgine.messages.codec import StoredMessage, encode
from llmgine.messages.ids import BUS, new_id

__all__ = ["TakenEvent", "log_row", "take"]


class TakenEvent(NamedTuple):
    """An event as it was when it was published, whatever its handlers have made of it since."""

    stored: StoredMessage
    record_id: str
    """By which the log knows whether it has the row already."""
    event_id: str
    event_type: str
    session_id: str
    correlation_id: str
    causation_id: str | None
    event_time: str
    published: datetime

    def row(self) -> dict[str, Any]:
        """Return the values of the columns."""
        columns = stored_columns(self.stored)
        return {
            "record_id": self.record_id,
            "event_id": clean(self.event_id),
            "event_type": clean(self.event_type),
            "session_id": clean(self.session_id),
            "correlation_id": clean(self.correlation_id),
            "causation_id": None if self.causation_id is None else clean(self.causation_id),
            "event_time": clean(self.event_time),
            "published_at": microseconds(self.published),
            "size": len(columns["payload"].encode()),
            **columns,
        }


def take(event: Event, published: datetime) -> TakenEvent:
    """Take down what an event is now. What cannot be stored exactly is stored as far as it can be."""
    causation = event.causation_id
    return TakenEvent(
        encode(event, lossy=True),
        new_id(),
        str(event.event_id),
        type(event).__name__,
        str(event.session_id or BUS),
        str(event.correlation_id),
        None if causation is None else str(causation),
        str(event.timestamp),
        published,
    )


def log_row(event: Event, published: datetime) -> dict[str, Any]:
    """Return the row of an event."""
    return take(event, published).row()
