"""What outlives the process, in a database that SQLAlchemy can reach."""

from llmgine.database.database import (
    drop_all,
    get_and_delete_unfinished_events,
    persist_event,
    reset_engine,
    save_unfinished_events,
)

__all__ = ["drop_all", "get_and_delete_unfinished_events", "persist_event", "reset_engine", "save_unfinished_events"]
