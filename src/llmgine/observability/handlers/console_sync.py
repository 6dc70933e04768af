"""A line about every event, through the standard library's logging."""

from __future__ import annotations

import logging

from llmgine.messages import Event
from llmgine.messages.events import CommandStartedEvent
from llmgine.observability.manager import ObservabilityHandler

__all__ = ["SyncConsoleEventHandler"]

_log = logging.getLogger("llmgine.observability")


class SyncConsoleEventHandler(ObservabilityHandler):
    """Logs every event at INFO: `[EVENT] Greeted, ID=…, Session=… [source=…, command_type=…]`.

    `source` and `command_type` come from the event's metadata, and where it announces a command, from that.
    """

    def handle(self, event: Event) -> None:
        """Log a line about the event."""
        if not _log.isEnabledFor(logging.INFO):
            return
        about = {name: event.metadata[name] for name in ("source", "command_type") if name in event.metadata}
        if isinstance(event, CommandStartedEvent):
            about["command_type"] = type(event.command).__name__
        details = ", ".join(f"{name}={value}" for name, value in about.items())
        _log.info(
            "[EVENT] %s, ID=%s, Session=%s%s",
            type(event).__name__,
            event.event_id,
            event.session_id,
            f" [{details}]" if details else "",
        )
