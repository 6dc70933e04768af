"""Where messages are kept, as the environment says."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["DatabaseSettings"]


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """What the environment says about the database, each variable with its default where it is empty or not set."""

    url: str = "sqlite:///./message_bus.db"
    """`LLMGINE_DB_URL`."""
    schema: str = "message_bus"
    """`LLMGINE_DB_SCHEMA`."""
    persist_events: bool = False
    """`LLMGINE_PERSIST_EVENTS`: "1" for a log of every event."""

    @classmethod
    def from_environment(cls) -> DatabaseSettings:
        """Return what the environment says now."""
        return cls(
            os.environ.get("LLMGINE_DB_URL") or cls().url,
            os.environ.get("LLMGINE_DB_SCHEMA") or cls().schema,
            os.environ.get("LLMGINE_PERSIST_EVENTS") == "1",
        )
